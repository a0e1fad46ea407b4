"""Checkpoints that are never half written, never execute code, and resume exactly."""

import os
import shutil
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from gptlit.errors import UserError
from gptlit.files import replacing
from gptlit.training import stopping
from gptlit.training.monitored import LOSS, Monitored

PIECE_BYTES = 2**25
"""How much of a checkpoint is written before the kernel drops it from its cache: 32 MiB."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name, flushes, then renames; loads tensors and plain data only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """A reader sees the old file or the new one, whatever happens in between.

        Raises:
            OSError: the file cannot be written, for instance because the disk is full.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as draft, _PiecewiseFile(draft, "w") as file:
            _write(checkpoint, file)
            os.fsync(file.fileno())

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Always with `weights_only=True`, so that no pickled code can run."""
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint


class Checkpoints(Checkpoint):
    """Keeps `last.ckpt`, from which a run resumes, `previous.ckpt`, the one before it, and
    `best.ckpt`, the one with the best value of the metric `monitored`.

    `last` is written every `every_n_steps` optimiser steps and after each validation; if both fall
    on the same step, only the later save is made. A run that is asked to stop (see
    `gptlit.training.stopping`) writes it after the current step; if a validation is due then, or
    under way, the resumed run begins with it.

    Args:
        folder: where the files go.
        monitored: the metric.
        every_n_steps: optimiser steps between saves; 0: after validation only.
    """

    def __init__(self, folder: Path, monitored: Monitored = LOSS, every_n_steps: int = 0) -> None:
        self.folder = folder
        self.best, self.last = folder / "best.ckpt", folder / "last.ckpt"
        self.previous, self._new = folder / "previous.ckpt", folder / "new.ckpt"
        self.monitored, self.every_n_steps = monitored, every_n_steps
        self.best_score: float | None = None
        self.place: int | None = None
        """Steps of its epoch that the resumed run has done, once that is known."""
        self._validate_first = False  # whether the checkpoint's step is still to be validated
        # Lightning's counters right after a step that a validation follows: a resumed run starts
        # from there, not from the middle of the validation.
        self._after_step: dict[str, Any] | None = None
        self._step = self._saved_at = 0
        self._last_is_whole = False
        self._max_steps = -1

    def clear(self) -> None:
        """Remove the checkpoints of an earlier run in the folder."""
        for path in (self.last, self.previous, self.best):
            path.unlink(missing_ok=True)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove what killed runs have left half written."""
        if trainer.is_global_zero:
            for left in (*self.folder.glob(".*.tmp"), self._new):
                left.unlink(missing_ok=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the validation that was still due when the run was stopped."""
        self._step = self._saved_at = trainer.global_step
        self._last_is_whole = self._goes_on_from(trainer, self.last)
        if self._validate_first:
            self._validate_first = False
            validation = trainer.fit_loop.epoch_loop.val_loop
            validation.restarting = False  # from its first batch
            trainer.validating = True
            validation.run()
            trainer.training = True
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
        self._after_step = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """From here on there is progress to lose: a signal to stop waits for the step's end."""
        stopping.hold()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save `last` if this step is due and no validation follows it; save and stop if asked."""
        step = trainer.global_step
        if step == self._step:
            return  # in the middle of an accumulated step
        self._step = step
        follows = self._validation_follows(trainer, batch_idx)
        self._after_step = trainer.fit_loop.state_dict() if follows else None
        if stop_is_asked(trainer):
            self._save_and_stop(trainer, validate_first=follows)
        if self.every_n_steps and step % self.every_n_steps == 0 and not follows:
            self._save(trainer)

    @staticmethod
    def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
        every = trainer.val_check_batch
        if not trainer.enable_validation or every is None:
            return False
        if trainer.should_stop:
            return True
        loop = trainer.fit_loop.epoch_loop
        batches = batch_idx if trainer.check_val_every_n_epoch else loop.total_batch_idx
        return (batches + 1) % every == 0

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop, if asked to: the resumed run validates from the beginning."""
        if stop_is_asked(trainer):
            if trainer.state.fn == "fit":
                self._save_and_stop(trainer, validate_first=True)
            raise stopping.Stopped

    def on_test_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop, if asked to: the resumed run tests from the beginning."""
        if stop_is_asked(trainer):
            raise stopping.Stopped

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `last`, and `best` if this is the best so far.

        Raises:
            UserError: the validation, even one before the first step, does not measure the metric.
        """
        measured = trainer.callback_metrics
        if self.monitored.name not in measured:
            names = ", ".join(name for name in measured if name.startswith("val/"))
            raise UserError(
                f"trainer.monitor={self.monitored.name} is not among the metrics of this"
                f" validation: choose one of {names}"
            )
        if trainer.state.fn != "fit":
            return
        score = float(measured[self.monitored.name])
        better = self.monitored.rank(score) < self.monitored.rank(self.best_score)
        if better:
            self.best_score = score
        self._save(trainer, best=better)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save `last` if the run ended without a validation."""
        self._after_step = None
        if trainer.global_step > self._saved_at:
            self._save(trainer)
        if trainer.world_size == 1:
            stopping.let_go()
        if stop_is_asked(trainer):
            raise stopping.Stopped

    @staticmethod
    def _goes_on_from(trainer: Trainer, path: Path) -> bool:
        start = trainer.ckpt_path
        return start is not None and path.is_file() and path.samefile(start)

    def _save_and_stop(self, trainer: Trainer, *, validate_first: bool) -> None:
        self._validate_first = validate_first
        self._save(trainer)
        raise stopping.Stopped

    def _save(self, trainer: Trainer, *, best: bool = False) -> None:
        trainer.save_checkpoint(self._new)
        if trainer.is_global_zero:
            # `best` comes first: after a kill between the two, the run resumes from an older
            # checkpoint and comes to the same best again.
            if best:
                _link(self._new, self.best)
            if self._last_is_whole:
                _link(self.last, self.previous)
            elif not self._goes_on_from(trainer, self.previous):
                self.previous.unlink(missing_ok=True)  # of another run, or of steps now undone
            self._new.replace(self.last)
        self._last_is_whole = True
        self._saved_at = trainer.global_step
        stopping.saved(self._saved_at)

    def state_dict(self) -> dict[str, Any]:
        """The best so far, by which metric, and whether the step is still to be validated."""
        return {
            "best_score": self.best_score,
            "monitored": list(self.monitored),
            "validate_first": self._validate_first,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep comparing with the best score so far, if it is one of the same metric."""
        if Monitored(*state_dict.get("monitored", LOSS)) == self.monitored:
            self.best_score = state_dict["best_score"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the counters as they were before the validation that follows the step, if any.

        Raises:
            UserError: the state of a user's callback could not be read again.
        """
        for key, state in checkpoint["callbacks"].items():
            _require_plain(key, state)
        if self._after_step is not None:
            checkpoint["loops"]["fit_loop"] = self._after_step

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Find out whether the checkpoint's step, even the last one, is still to be validated."""
        if trainer.state.fn != "fit":
            return
        if self.place is not None:
            _recount(checkpoint, trainer, self.place)
        if checkpoint["callbacks"][self.state_key].get("validate_first"):
            self._validate_first = True
            self._after_step = checkpoint["loops"]["fit_loop"]
            # `fit` would return at once after the last step: `on_train_start` restores this limit.
            self._max_steps = trainer.fit_loop.epoch_loop.max_steps
            trainer.fit_loop.epoch_loop.max_steps = -1


def _recount(checkpoint: dict[str, Any], trainer: Trainer, place: int) -> None:
    """Lightning finds whole steps, validations and the ends of epochs by counting micro-batches.
    Set the counts as if the run had always had the steps and epochs of its present config, since
    a resumed run may have more or fewer micro-batches in each."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    accumulate, per_epoch = trainer.accumulate_grad_batches, trainer.limit_train_batches
    ended = progress["is_last_batch"] and place == 0
    wanted = {
        "current": per_epoch if ended else place * accumulate,
        "total": checkpoint["global_step"] * accumulate,
    }
    for name, ready in wanted.items():
        counts = progress[name]
        more = ready - counts["ready"]
        progress[name] = {key: count + more for key, count in counts.items()}
    progress["is_last_batch"] = ended


def _require_plain(key: str, state: Any) -> None:
    file = BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # pickle has many
        raise UserError(
            f"the callback {key} has a state_dict() of other things than tensors, text, numbers,"
            " lists and dicts of them: no run can go on from it, as checkpoints execute no code"
        ) from error


def stop_is_asked(trainer: Trainer) -> bool:
    """Whether any process has been asked to stop; every process must call this."""
    asked = stopping.asked()
    if trainer.world_size == 1:
        return asked
    return bool(trainer.strategy.reduce_boolean_decision(asked, all=False))


def saved_best_score(content: dict[str, Any]) -> float | None:
    """The best value of the monitored metric, as a checkpoint's content has it."""
    score: float | None = content["callbacks"][Checkpoints.__qualname__]["best_score"]
    return score


class _PiecewiseFile(FileIO):
    """A file for writing, of which the kernel never caches more than one piece. A checkpoint is
    rarely read again soon; and where a hypervisor hands out the memory, getting enough to cache all
    of it takes several times as long as writing it."""

    _held = 0

    def write(self, data: Any) -> int:
        """Write all of the data; returns its bytes."""
        view, done = memoryview(data).cast("B"), 0
        while done < len(view):
            written = super().write(view[done : done + PIECE_BYTES - self._held])
            done, self._held = done + written, self._held + written
            if self._held == PIECE_BYTES:
                self._let_go()
        return done

    def _let_go(self) -> None:
        self._held = 0
        if hasattr(os, "posix_fadvise"):  # on Linux
            os.fdatasync(self.fileno())
            os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _write(checkpoint: dict[str, Any], file: FileIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:  # closing the unfinished archive fails too, and hides the cause
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _link(source: Path, target: Path) -> None:
    """Give the same bytes a second name; safe, as files are never rewritten, only replaced."""
    with replacing(target) as draft:
        try:
            os.link(source, draft)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, draft)
