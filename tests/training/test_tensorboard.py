"""TensorBoard shows one run, however often it was killed, and the settings of all beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from gptlit.training.loggers import keeping_runs, make_loggers

CONFIG: dict[str, Any] = {"csv": False, "tensorboard": True, "wandb": None, "mlflow": None}
Curves = dict[str, list[tuple[int, Any]]]


@contextmanager
def running(
    folder: Path, resumed: int | None = None, **settings: Any
) -> Iterator[TensorBoardLogger]:
    """The logger of a run that goes on, in a file that is later than those before it."""
    for number, path in enumerate(events(folder)):
        path.rename(path.with_name(f"events.out.tfevents.{number:010}"))
    [logger] = make_loggers(CONFIG, folder, resumed)
    assert isinstance(logger, TensorBoardLogger)
    trainer: Any = SimpleNamespace(loggers=[logger], is_global_zero=True)
    with keeping_runs(trainer, folder, settings):
        yield logger


def events(folder: Path) -> list[Path]:
    return sorted(folder.glob("tensorboard/events.*"))


def train(logger: TensorBoardLogger, steps: range, value: float) -> None:
    """Log at each step, validate at every second."""
    for step in steps:
        logger.log_metrics({"train/loss": value + step}, step)
        if step % 2 == 0:
            logger.log_metrics({"val/loss": value + step}, step)
            logger.experiment.add_text("sample", f"{value}", step)
    logger.save()


def shown(folder: Path) -> Curves:
    """What TensorBoard makes of the folder."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"), {"tensors": 0})
    read.Reload()
    curves: Curves = {}
    for tag in read.Tags()["tensors"]:
        found = [(event.step, event.tensor_proto) for event in read.Tensors(tag)]
        curves[tag] = [(step, [*t.float_val, *t.string_val]) for step, t in found]
    return curves


@pytest.mark.parametrize("lost", [0, 1, 40])
def test_a_run_that_was_killed_twice_has_one_curve(tmp_path: Path, lost: int) -> None:
    with running(tmp_path) as logger:
        train(logger, range(1, 10), 100.0)
    [file] = events(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - lost])  # the kill came while the end was written
    with running(tmp_path, resumed=6) as logger:
        train(logger, range(7, 9), 200.0)
    with running(tmp_path, resumed=4) as logger:  # the newer checkpoint was damaged
        train(logger, range(5, 8), 300.0)
        logger.log_metrics({"test/loss": 1.0}, 7)

    curves = shown(tmp_path)
    losses = [(step, [100.0 + step]) for step in range(1, 5)]
    losses += [(step, [300.0 + step]) for step in range(5, 8)]
    assert curves["train/loss"] == losses
    assert curves["val/loss"] == [losses[1], losses[3], losses[5]]
    assert curves["test/loss"] == [(7, [1.0])]
    samples = [(2, [b"100.0"]), (4, [b"100.0"]), (6, [b"300.0"])]
    assert curves["sample/text_summary"] == samples


def test_a_new_run_shows_nothing_of_one_that_was_killed_in_its_folder(tmp_path: Path) -> None:
    for steps, value in ((range(5), 100.0), (range(2), 200.0)):
        with running(tmp_path) as logger:
            train(logger, steps, value)
    assert shown(tmp_path)["train/loss"] == [(0, [200.0]), (1, [201.0])]


def test_validation_at_the_start_training_and_test_share_a_file(tmp_path: Path) -> None:
    """Of files of the same second, the later may be read first, as if a killed run had left it."""
    with running(tmp_path) as logger:
        for step in range(3):
            train(logger, range(step, step + 1), 100.0)
            logger.finalize("success")  # Lightning, after each of them
    assert len(events(tmp_path)) == 1
    assert [step for step, _ in shown(tmp_path)["train/loss"]] == [0, 1, 2]


def test_runs_can_be_compared_by_their_settings(tmp_path: Path) -> None:
    """In the table of hyperparameters, whose columns TensorBoard finds in the runs."""
    runs: list[dict[str, Any]] = [
        {"optimizer": {"lr": 0.1, "betas": [0.9, 0.95]}, "compile": False},
        {"optimizer": {"lr": 0.2, "betas": [0.9, 0.95]}, "compile": True, "scheduler": None},
    ]
    for number, settings in enumerate(runs):
        with running(tmp_path / str(number), **settings) as logger:
            train(logger, range(3), float(number))

    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    folders = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    folders.Reload()
    provider = MultiplexerDataProvider(folders, str(tmp_path))
    board, request = Context(TBContext(data_provider=provider)), RequestContext()
    found = board.hparams_metadata(request, "")
    table = board.experiment_from_metadata(request, "", True, found, [])
    columns = {info.name: info.differs for info in table.hparam_infos}
    assert columns == {"optimizer.lr": True, "optimizer.betas": False, "compile": True}
    assert {info.name.tag for info in table.metric_infos} == {"train/loss", "val/loss"}
