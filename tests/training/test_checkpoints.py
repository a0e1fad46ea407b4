"""Checkpoints are whole, and `best` and `last` are what their names say."""

import errno
import io
import math
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from gptlit.errors import UserError
from gptlit.training import checkpoints, stopping
from gptlit.training.checkpoints import AtomicCheckpointIO, Checkpoints, stop_is_asked
from gptlit.training.monitored import Monitored
from gptlit.training.stopping import Stopped, stoppable

torch.set_num_threads(1)


class Scored(LightningModule):
    """Its n-th validation measures the n-th of the given scores."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = list(scores)
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return (self.weight - 1) ** 2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/score", self.scores.pop(0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class RecordingIO(AtomicCheckpointIO):
    """Notes at which steps something was saved."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        self.steps.append(checkpoint["global_step"])
        super().save_checkpoint(checkpoint, path, storage_options)


def fit(
    folder: Path,
    scores: list[float],
    steps: int,
    *,
    every: int = 0,
    mode: str = "min",
    resume: str | None = None,
    more: Sequence[Callback] = (),
    **options: Any,
) -> tuple[Checkpoints, list[int]]:
    """Train with a validation at every second step."""
    checkpoints = Checkpoints(folder, Monitored("val/score", mode), every)
    io = RecordingIO()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        plugins=[io],
        callbacks=[checkpoints, *more],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    numbers: Any = range(100)
    data, val_data = DataLoader(numbers), DataLoader(numbers[:1])
    path = folder / f"{resume}.ckpt" if resume else None
    trainer.fit(Scored(scores), data, val_data, ckpt_path=path, weights_only=True)
    return checkpoints, io.steps


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ([3.0, 1.0, 2.0], "min", 4),
        ([3.0, 2.0, 1.0], "min", 6),
        ([1.0, 1.0, 1.0], "min", 2),
        ([math.nan, 5.0, math.nan], "min", 4),
        ([5.0, math.nan, 4.0], "min", 6),
        ([0.25, 0.75, 0.5], "max", 4),
        ([math.nan, 0.25, 0.5], "max", 6),
    ],
)
def test_best_is_the_best_and_last_the_last(
    tmp_path: Path, scores: list[float], mode: str, best: int
) -> None:
    checkpoints, _ = fit(tmp_path, scores, 6, mode=mode)
    assert step_of(tmp_path / "best.ckpt") == best
    assert step_of(tmp_path / "last.ckpt") == 6
    assert checkpoints.best_score == scores[best // 2 - 1]
    assert step_of(tmp_path / "previous.ckpt") == 4
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_not_a_number_is_never_best(tmp_path: Path) -> None:
    checkpoints, _ = fit(tmp_path, [math.nan] * 2, 4)
    assert not (tmp_path / "best.ckpt").exists()
    assert checkpoints.best_score is None
    assert step_of(tmp_path / "last.ckpt") == 4


@pytest.mark.parametrize(("second_part", "best"), [([2.0, 1.5], 2), ([2.0, 0.5], 8)])
def test_a_resumed_run_goes_on_comparing(
    tmp_path: Path, second_part: list[float], best: int
) -> None:
    fit(tmp_path, [1.0, 3.0], 4)
    fit(tmp_path, second_part, 8, resume="last")
    assert step_of(tmp_path / "best.ckpt") == best
    assert step_of(tmp_path / "last.ckpt") == 8


def test_scores_of_another_metric_are_not_compared(tmp_path: Path) -> None:
    fit(tmp_path, [1.0, 3.0], 4)
    checkpoints, _ = fit(tmp_path, [0.25, 0.5], 8, resume="last", mode="max")
    assert (checkpoints.best_score, step_of(tmp_path / "best.ckpt")) == (0.5, 8)


@pytest.mark.parametrize("only_validate", [False, True])
def test_a_metric_that_is_not_measured_is_told_with_those_that_are(
    only_validate: bool, tmp_path: Path
) -> None:
    task, data = Scored([1.0, 2.0]), DataLoader([0] * 4)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[Checkpoints(tmp_path / "checkpoints")],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    task.validation_step = lambda batch, batch_idx: task.log("val/score", 1.0)  # type: ignore[method-assign]
    line = r"trainer\.monitor=val/loss is not among .* choose one of val/score$"
    with pytest.raises(UserError, match=line):
        if only_validate:
            trainer.validate(task, data, verbose=False)
        else:
            trainer.fit(task, data, data)
    assert not (tmp_path / "checkpoints").exists()


class Keeping(Callback):
    """Has a state to save."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.state}


def test_a_state_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    plain = {"numbers": [1, 2.5, None, True], "tensor": torch.ones(2), "text": ("a", b"b")}
    fit(tmp_path, [1.0], 2, more=[Keeping(plain)])
    for state in (Path("a"), Keeping, lambda: 1):
        with pytest.raises(UserError, match=r"the callback Keeping has a state_dict\(\) of other"):
            fit(tmp_path, [1.0, 2.0], 4, more=[Keeping(state)])
        assert step_of(tmp_path / "last.ckpt") == 2


def test_last_is_saved_when_due_and_once_for_a_step(tmp_path: Path) -> None:
    _, steps = fit(tmp_path, [1.0] * 5, 10, every=3)
    assert steps == [2, 3, 4, 6, 8, 9, 10]


def test_every_step_counts_optimiser_steps_not_batches(tmp_path: Path) -> None:
    _, steps = fit(tmp_path, [], 6, every=2, accumulate_grad_batches=3, limit_val_batches=0)
    assert steps == [2, 4, 6]


def test_a_run_without_validation_leaves_its_last_step_alone(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.half.tmp").touch()  # of a run that was killed
    fit(tmp_path, [], 5, limit_val_batches=0)
    assert step_of(tmp_path / "last.ckpt") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_previous_is_never_of_another_run(tmp_path: Path) -> None:
    previous = tmp_path / "previous.ckpt"
    fit(tmp_path, [1.0] * 3, 6)
    fit(tmp_path, [1.0], 6, resume="previous")  # while it is all that there is, it stays
    assert step_of(previous) == 4
    fit(tmp_path, [1.0] * 2, 6, resume="best")
    assert step_of(previous) == 4
    fit(tmp_path, [1.0], 2)
    assert not previous.exists()


def test_best_needs_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    fit(tmp_path, [1.0, 2.0], 4)
    assert step_of(tmp_path / "best.ckpt") == 2


def test_a_full_disk_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"global_step": 1, "weight": torch.ones(1000)}, path)

    def fill_the_disk(content: Any, file: Any) -> None:
        file.write(b"half a checkpoint")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fill_the_disk)
        with pytest.raises(OSError, match="No space left"):
            writer.save_checkpoint({"global_step": 2, "weight": torch.ones(1000)}, path)
    assert step_of(path) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("piece", [1, 1000, 2**25])
def test_in_pieces_of_any_size_the_file_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(checkpoints, "PIECE_BYTES", piece)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    path, content = tmp_path / "last.ckpt", {"weight": torch.arange(500.0), "name": "x"}
    AtomicCheckpointIO().save_checkpoint(content, path)
    torch.save(content, whole := io.BytesIO())
    assert path.read_bytes() == whole.getvalue()
    if hasattr(os, "posix_fadvise"):
        assert len(synced) == path.stat().st_size // piece


class Hostile:
    """Unpickled by a careless loader, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_hostile_checkpoint_is_not_executed_even_if_asked_to(tmp_path: Path) -> None:
    torch.save({"global_step": 1, "x": Hostile(tmp_path / "executed")}, tmp_path / "bad.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "bad.ckpt", weights_only=False)
    assert not (tmp_path / "executed").exists()


class Interrupted(Scored):
    """Gets SIGTERM in one of its steps, in one of its validations, or at the end of an epoch."""

    def __init__(
        self, in_step: int = -1, in_validation: int = -1, after_epoch: int | None = None
    ) -> None:
        super().__init__([])
        self.in_step, self.in_validation, self.after_epoch = in_step, in_validation, after_epoch
        self.validated: list[int] = []
        self.trained: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.trained.append(int(batch))
        if len(self.trained) == self.in_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert not self.trainer.training
        if int(batch) == 0:
            self.validated.append(self.global_step)
        if len(self.validated) == self.in_validation:
            os.kill(os.getpid(), signal.SIGTERM)
        self.log("val/score", float(self.weight))

    test_step = validation_step

    def on_train_epoch_end(self) -> None:
        if self.current_epoch == self.after_epoch:
            os.kill(os.getpid(), signal.SIGTERM)


class Ending(Callback):
    """Asks for a validation after the last step, as `gptlit.training.monitor` does."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.should_stop = trainer.global_step == trainer.max_steps


class ResumableNumbers:
    """A loader that knows how many of its numbers it has handed out."""

    def __init__(self, n: int) -> None:
        self.n, self.at = n, 0

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(self.n - self.at % self.n):
            self.at += 1
            yield torch.tensor([self.at])

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def make_trainer(folder: Path, steps: int, accumulate: int) -> Trainer:
    """Validates every second step, and after the last."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=2 * accumulate,
        check_val_every_n_epoch=None,
        accumulate_grad_batches=accumulate,
        num_sanity_val_steps=0,
        plugins=[AtomicCheckpointIO()],
        callbacks=[Ending(), Checkpoints(folder, Monitored("val/score", "max"))],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


VAL_DATA: Any = DataLoader(range(3))  # type: ignore[arg-type]


def run_until_stopped(folder: Path, task: Interrupted, steps: int, accumulate: int) -> None:
    """Each epoch has 6 steps."""
    last = folder / "last.ckpt"
    trainer = make_trainer(folder, steps, accumulate)
    path = last if last.exists() else None
    with stoppable():
        trainer.fit(task, ResumableNumbers(6 * accumulate), VAL_DATA, ckpt_path=path)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("when", ["in_step", "in_validation"])
def test_a_signal_loses_no_step_and_neither_repeats_nor_skips_a_validation(
    tmp_path: Path, when: str, accumulate: int
) -> None:
    steps, validated = 15, [2, 4, 6, 8, 10, 12, 14, 15]  # in the third epoch
    batches = steps * accumulate
    for at in range(1, (batches if when == "in_step" else len(validated)) + 1):
        folder = tmp_path / f"{at}"
        first, second = Interrupted(**{when: at}), Interrupted()
        with pytest.raises(Stopped):
            run_until_stopped(folder, first, steps, accumulate)
        step = step_of(folder / "last.ckpt")
        assert step == (-(-at // accumulate) if when == "in_step" else validated[at - 1])
        assert len(first.trained) == step * accumulate
        run_until_stopped(folder, second, steps, accumulate)
        assert first.trained + second.trained == list(range(1, batches + 1))
        # The validation that was broken off is done from its beginning.
        done = [s for s in first.validated if when == "in_step" or s != step]
        assert done + second.validated == validated
        assert float(torch.load(folder / "last.ckpt")["state_dict"]["weight"]) == pytest.approx(
            1 - 0.8**steps
        )
        assert step_of(folder / "best.ckpt") == steps


def test_a_signal_after_the_last_validation_is_heard_too(tmp_path: Path) -> None:
    task = Interrupted(after_epoch=0)
    with pytest.raises(Stopped):
        run_until_stopped(tmp_path, task, 4, accumulate=1)
    assert task.validated == [2, 4] and step_of(tmp_path / "last.ckpt") == 4


@pytest.mark.parametrize("measure", ["validate", "test"])
def test_a_signal_while_nothing_is_trained_saves_nothing(tmp_path: Path, measure: str) -> None:
    trainer, task = make_trainer(tmp_path, 4, accumulate=1), Interrupted(in_validation=1)
    with pytest.raises(Stopped), stoppable():
        stopping.hold()  # as several processes do, which stop together
        getattr(trainer, measure)(task, VAL_DATA, verbose=False)
    assert task.validated == [0] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", [False, True])
def test_a_process_stops_if_another_one_is_asked_to(asked: bool) -> None:
    def any_of_two(ours: bool, *, all: bool) -> bool:
        return ours and asked if all else ours or asked

    strategy = SimpleNamespace(reduce_boolean_decision=any_of_two)
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    assert stop_is_asked(trainer) is asked
