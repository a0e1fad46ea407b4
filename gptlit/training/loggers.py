"""Where metrics go: CSV and TensorBoard in the run folder, W&B and MLflow on demand."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from gptlit.errors import UserError
from gptlit.training.metrics_csv import MetricsCSV


def make_loggers(config: dict[str, Any], folder: Path, resumed_step: int | None) -> list[Logger]:
    """The loggers that the config's `logger` node asks for.

    Args:
        config: the node.
        folder: the run folder.
        resumed_step: optimiser step that the run goes on from; what was logged later goes.

    Raises:
        UserError: a logger is not installed.
    """
    loggers: list[Logger] = []
    if config["csv"]:
        loggers.append(MetricsCSV(folder / "metrics.csv", keep_until=resumed_step))
    if config["tensorboard"]:
        # Its switch to write without tensorflow, which takes seconds to import where it is there.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
        purge = 0 if resumed_step is None else resumed_step + 1  # of a run killed in the folder
        loggers.append(
            TensorBoardLogger(
                folder, name="", version="tensorboard", default_hp_metric=False, purge_step=purge
            )
        )
    if config["wandb"] is not None:
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(_extra(WandbLogger, save_dir=folder, **config["wandb"]))
    if config["mlflow"] is not None:
        from lightning.pytorch.loggers import MLFlowLogger

        loggers.append(_extra(MLFlowLogger, **config["mlflow"]))
    return loggers


def _extra(logger: Any, **arguments: Any) -> Logger:
    try:
        made: Logger = logger(**arguments)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{logger.__name__} is not installed: pip install 'gptlit[loggers]'"
        ) from error
    return made
