"""Checkpoints are whole, and `best` and `last` are what their names say."""

import errno
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from gptlit.training.checkpoints import AtomicCheckpointIO, Checkpoints

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
    resume: bool = False,
    **options: Any,
) -> tuple[Checkpoints, list[int]]:
    """Train with a validation at every second step."""
    checkpoints = Checkpoints(folder, "val/score", every_n_steps=every, mode=mode)
    io = RecordingIO()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        plugins=[io],
        callbacks=[checkpoints],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    numbers: Any = range(100)
    data, val_data = DataLoader(numbers), DataLoader(numbers[:1])
    path = folder / "last.ckpt" if resume else None
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
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}


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
    fit(tmp_path, second_part, 8, resume=True)
    assert step_of(tmp_path / "best.ckpt") == best
    assert step_of(tmp_path / "last.ckpt") == 8


def test_last_is_saved_when_due_and_once_for_a_step(tmp_path: Path) -> None:
    _, steps = fit(tmp_path, [1.0] * 5, 10, every=3)
    assert steps == [2, 3, 4, 6, 8, 9, 10]


def test_every_step_counts_optimiser_steps_not_batches(tmp_path: Path) -> None:
    _, steps = fit(tmp_path, [], 6, every=2, accumulate_grad_batches=3, limit_val_batches=0)
    assert steps == [2, 4, 6]


def test_a_run_without_validation_leaves_its_last_step(tmp_path: Path) -> None:
    fit(tmp_path, [], 5, limit_val_batches=0)
    assert step_of(tmp_path / "last.ckpt") == 5
    assert not (tmp_path / "best.ckpt").exists()


def test_best_needs_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    fit(tmp_path, [1.0, 2.0], 4)
    assert step_of(tmp_path / "best.ckpt") == 2


def test_a_full_disk_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"global_step": 1, "weight": torch.ones(1000)}, path)

    def fill_the_disk(content: Any, file: Any) -> None:
        file.write(b"half a checkpoint")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fill_the_disk)
        with pytest.raises(OSError, match="No space left"):
            io.save_checkpoint({"global_step": 2, "weight": torch.ones(1000)}, path)
    assert step_of(path) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


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
