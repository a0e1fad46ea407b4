"""Where metrics go: CSV and TensorBoard in the run folder, W&B and MLflow on demand."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from gptlit.errors import UserError
from gptlit.files import replacing
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
    fresh = resumed_step is None
    if config["wandb"] is not None:
        run = None if fresh else _noted_run(folder, WandbLogger)
        loggers.append(_extra(WandbLogger, {"save_dir": folder, "id": run, **config["wandb"]}))
    if config["mlflow"] is not None:
        run = None if fresh else _noted_run(folder, MLFlowLogger)
        made = _extra(MLFlowLogger, {"run_id": run, **config["mlflow"]})
        if run is not None:  # its settings stand there; MLflow takes no other values
            made.log_hyperparams = lambda *_, **__: None  # type: ignore[method-assign]
        loggers.append(made)
    return loggers


@contextmanager
def keeping_runs(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Begin the runs that W&B and MLflow have of this one, and note in the run folder which they
    are, for a resume to go on with. That of W&B ends with the training: it belongs to the process,
    and another training in it would be added.
    """
    elsewhere = [log for log in trainer.loggers if isinstance(log, WandbLogger | MLFlowLogger)]
    if not trainer.is_global_zero:
        elsewhere = []
    for logger in elsewhere:
        _ = logger.experiment  # begins it
        path = _note(folder, type(logger))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            draft.write_text(f"{logger.version}\n")
    failed = True
    try:
        yield
        failed = False
    finally:
        for logger in elsewhere:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=int(failed))


def _note(folder: Path, kind: type[Logger]) -> Path:
    return folder / "config" / f"{kind.__name__}.txt"


def _noted_run(folder: Path, kind: type[Logger]) -> str | None:
    path = _note(folder, kind)
    return path.read_text().strip() if path.exists() else None


def _extra(logger: Any, arguments: dict[str, Any]) -> Logger:
    try:
        made: Logger = logger(**arguments)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{logger.__name__} is not installed: pip install 'gptlit[loggers]'"
        ) from error
    return made
