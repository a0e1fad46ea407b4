"""Checkpoints that are never half written, never execute code, and resume exactly."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name, flushes, then renames; loads tensors and plain data only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """A reader sees the old file or the new one, whatever happens in between."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Always with `weights_only=True`, so that no pickled code can run."""
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt`, from which a run resumes, and `best.ckpt`, the lowest `monitor`.

    `last` is written every `every_n_steps` optimiser steps and after each validation; where both
    fall on one step only the later is written, so that a resumed run neither repeats nor skips a
    validation.

    Args:
        folder: where the two files go.
        monitor: name of the metric; the best has the lowest value, or the highest if `mode` is
            "max".
        every_n_steps: optimiser steps between saves; 0: after validation only.
        mode: "min" or "max".
    """

    def __init__(
        self, folder: Path, monitor: str = "val/loss", every_n_steps: int = 0, mode: str = "min"
    ) -> None:
        self.best, self.last = folder / "best.ckpt", folder / "last.ckpt"
        self.monitor, self.every_n_steps, self.mode = monitor, every_n_steps, mode
        self.best_score: float | None = None
        self._saved_at = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save `last` where a step is due and no validation follows at once."""
        step = trainer.global_step
        due = self.every_n_steps and step % self.every_n_steps == 0 and step != self._saved_at
        if due and not self._validation_follows(trainer, batch_idx):
            self._saved_at = step
            trainer.save_checkpoint(self.last)

    @staticmethod
    def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
        if trainer.should_stop:
            return True
        every = trainer.val_check_batch
        if not trainer.enable_validation or every is None:
            return False
        loop = trainer.fit_loop.epoch_loop
        batches = batch_idx if trainer.check_val_every_n_epoch else loop.total_batch_idx
        return (batches + 1) % every == 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `last`, and `best` if this is the best so far."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._saved_at = trainer.global_step
        score = trainer.callback_metrics.get(self.monitor)
        better = score is not None and self._better(float(score))
        if better and score is not None:
            self.best_score = float(score)
        trainer.save_checkpoint(self.last)
        if better and trainer.is_global_zero:
            # A second name for the same bytes: both names are only ever replaced, never rewritten.
            temporary = self.best.with_name(f".{self.best.name}.{os.getpid()}.tmp")
            temporary.unlink(missing_ok=True)
            try:
                os.link(self.last, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(self.last, temporary)
            temporary.replace(self.best)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `last` where the run ended without a validation."""
        if trainer.global_step > self._saved_at:
            trainer.save_checkpoint(self.last)

    def _better(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if self.best_score is None:
            return True
        return score < self.best_score if self.mode == "min" else score > self.best_score

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best so far."""
        self.best_score = state_dict["best_score"]


def saved_best_score(content: dict[str, Any]) -> float | None:
    """The best value of the monitored metric, as a checkpoint's content has it."""
    score: float | None = content["callbacks"][Checkpoints.__qualname__]["best_score"]
    return score
