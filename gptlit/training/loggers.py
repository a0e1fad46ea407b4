"""Where metrics go: CSV and TensorBoard in the run folder, W&B and MLflow on demand."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from gptlit.errors import UserError, in_one_line
from gptlit.files import replacing
from gptlit.training.metrics_csv import MetricsCSV
from gptlit.training.reuse import leaves

KEYS: dict[type[Logger], str] = {WandbLogger: "wandb", MLFlowLogger: "mlflow"}
"""Loggers that send what they get to a server, and their keys in the config's `logger` node."""
CURES = {
    "wandb": "log in (wandb login), or write to the disk with logger.wandb.offline=true",
    "mlflow": "see whether there is a server at logger.mlflow.tracking_uri",
}
"""What helps if a logger cannot begin a run, by its key."""
PAUSE_S = 600.0
"""How long a run goes on without a server that has failed: each attempt may take minutes."""
MLFLOW_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
"""MLflow's own environment variable. With its default of 7, a run waits in silence for four minutes
if the server is missing; with 2, for ten seconds."""


def make_loggers(config: dict[str, Any], folder: Path, resumed_step: int | None) -> list[Logger]:
    """The loggers that the config's `logger` node asks for.

    Args:
        config: the node.
        folder: the run folder.
        resumed_step: optimiser step that the run goes on from; what was logged after it is dropped.

    Raises:
        UserError: a logger is not installed, or does not accept its keys.
    """
    loggers: list[Logger] = []
    if config["csv"]:
        loggers.append(MetricsCSV(folder / "metrics.csv", keep_until=resumed_step))
    if config["tensorboard"]:
        # TensorBoard then does without TensorFlow, which, if installed, takes seconds to import.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
        purge = 0 if resumed_step is None else resumed_step + 1  # what a killed run left
        loggers.append(
            TensorBoard(
                folder, name="", version="tensorboard", default_hp_metric=False, purge_step=purge
            )
        )
    fresh = resumed_step is None
    name = "/".join(folder.resolve().parts[-2:])  # otherwise the servers invent one
    if config["wandb"] is not None:
        run = None if fresh else _noted_run(folder, WandbLogger)
        given = {"save_dir": folder, "id": run, "name": name, **config["wandb"]}
        loggers.append(_extra(WandbLogger, given))
    if config["mlflow"] is not None:
        os.environ.setdefault(MLFLOW_RETRIES, "2")
        run = None if fresh else _noted_run(folder, MLFlowLogger)
        given = {"run_id": run, "run_name": name, **config["mlflow"]}
        loggers.append(_extra(MLFlowLogger, given))
    return loggers


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, fitted to how TensorBoard shows several runs, or one that was killed."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Add them to the table in which TensorBoard compares runs: Lightning adds none unless the
        table's columns are fixed."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        super().log_hyperparams(params)
        known = {name: value for name, value in params.items() if value is not None}
        plain = {n: v if isinstance(v, bool | int | float) else str(v) for n, v in known.items()}
        self.experiment._get_file_writer().add_summary(hparams_pb(plain))

    def finalize(self, status: str) -> None:
        """Leave the file open for what is logged next. TensorBoard reads files that were made in
        the same second in any order, and takes what it reads before the first one for an earlier
        run's."""
        self.save()


@contextmanager
def keeping_runs(trainer: Trainer, folder: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Begin this run on the servers of W&B and MLflow, and note its ids in the run folder, so that
    a resumed run continues under the same ids; give all loggers the settings. W&B's run is closed
    after the training: it belongs to the process, whose next training would be added to it.

    Once a run has begun, a server that fails misses what it would have been sent, but the training
    goes on.

    Args:
        trainer: has the loggers.
        folder: the run folder.
        settings: the part of the config that changes the result.

    Raises:
        UserError: no run can be begun.
    """
    flat = dict(leaves(settings))
    with ExitStack() as at_the_end:
        loggers = trainer.loggers if trainer.is_global_zero else []
        untold = []
        for logger in loggers:
            goes_on = type(logger) in KEYS and _begin(logger, folder)
            at_the_end.push(partial(_end, logger))
            if not (goes_on and isinstance(logger, MLFlowLogger)):  # it refuses changed values
                untold.append(logger)
        for logger in untold:
            logger.log_hyperparams(settings if isinstance(logger, WandbLogger) else flat)
        yield


def _begin(logger: Any, folder: Path) -> bool:
    """Begin the run on the logger's server, and note its id; returns whether an earlier part of
    this run had begun it already."""
    kind = type(logger)
    with _explained(kind):
        _ = logger.experiment
    goes_on: bool = _noted_run(folder, kind) == logger.version
    outliving = _Outliving(KEYS[kind])
    for name in ("log_hyperparams", "log_metrics", "save", "finalize"):
        setattr(logger, name, outliving(getattr(logger, name)))
    path = _note(folder, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(f"{logger.version}\n")
    return goes_on


def _end(logger: Logger, failure: type[BaseException] | None, *_: object) -> None:
    if isinstance(logger, TensorBoard):
        logger.experiment.close()
    elif isinstance(logger, WandbLogger):
        finish = _Outliving(KEYS[WandbLogger])(logger.experiment.finish)
        finish(exit_code=int(failure is not None))


class _Outliving:
    """Wraps calls to a server so that a failing one does not end the run, which goes on without
    that server for a while.

    Args:
        key: the logger's, in the config's `logger` node.
    """

    def __init__(self, key: str) -> None:
        self._key, self._paused_until = key, 0.0

    def __call__(self, call: Callable[..., None]) -> Callable[..., None]:
        @wraps(call)
        def outliving(*args: Any, **kwargs: Any) -> None:
            if time.monotonic() < self._paused_until:
                return
            try:
                call(*args, **kwargs)
            except Exception as error:  # each server's library raises its own kinds
                self._paused_until = time.monotonic() + PAUSE_S
                print(
                    f"warning: logger.{self._key} has failed, the run goes on without it for"
                    f" {PAUSE_S / 60:.0f} minutes: {in_one_line(error, 1000)}",
                    file=sys.stderr,
                )

        return outliving


def _note(folder: Path, kind: type[Logger]) -> Path:
    return folder / "config" / f"{kind.__name__}.txt"


def _noted_run(folder: Path, kind: type[Logger]) -> str | None:
    path = _note(folder, kind)
    return path.read_text().strip() if path.exists() else None


def _extra(kind: Any, arguments: dict[str, Any]) -> Logger:
    with _explained(kind):
        made: Logger = kind(**arguments)
    return made


@contextmanager
def _explained(kind: type[Logger]) -> Iterator[None]:
    """Turn whatever a logger's library raises, for wrong keys or an unreachable server, into a
    UserError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{kind.__name__} is not installed: pip install 'gptlit[loggers]'"
        ) from error
    except Exception as error:
        key = KEYS[kind]
        raise UserError(
            f"logger.{key}: no run can be begun: {in_one_line(error, 1000)};"
            f" check its keys, or {CURES[key]}"
        ) from error
