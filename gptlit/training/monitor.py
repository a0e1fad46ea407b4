"""Tokens per second, MFU and the step's losses, measured in one place."""

import math
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from gptlit.device import peak_flops, peak_memory_gb
from gptlit.errors import UserError
from gptlit.tasks import StepStats, Task


class StepMonitor(Callback):
    """Logs every so many optimiser steps what the task measured, stops at a
    loss that is not a number, and asks for a last validation when the steps are done.

    Metrics: `train/loss` (nats per target, of that step), `train/lr`, `train/grad_norm`,
    `train/tokens_per_second` (target tokens, all processes), `train/mfu` (of the peak of all
    devices; Chowdhery et al. 2022), `train/memory_gb` (peak, this process).

    Args:
        device, precision: what the run computes in, for the peak rate.
        every_n_steps: optimiser steps between logged rows.
    """

    def __init__(self, device: str, precision: str, every_n_steps: int) -> None:
        self.device, self.precision, self.every_n_steps = device, precision, every_n_steps
        self.flops_per_target = 0.0
        """Of a training step, 0 if not known; set once the model is built."""
        self.total_steps = 0
        """Optimiser steps of the whole run; set once the data is known."""
        self.tokens = 0
        """Target tokens trained on, over all resumed parts of the run."""
        self.seconds = 0.0
        """Seconds spent in training steps, validation left out."""
        self.newest: dict[str, float] = {}
        self._mark = 0.0
        self._elapsed = 0.0
        self._peak = 0.0
        self._stats: StepStats | None = None
        self._targets: torch.Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the peak rate, start the clock."""
        self._peak = peak_flops(self.device, self.precision) * trainer.world_size
        self._mark, self._elapsed = time.perf_counter(), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is not training time: stop the clock."""
        if self._targets is not None:
            int(self._targets)  # waits for the device
        self._elapsed += time.perf_counter() - self._mark

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again."""
        self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, if this batch finished a step that is due."""
        assert isinstance(pl_module, Task)
        stats = pl_module.stats
        if stats is None:
            return  # in the middle of an accumulated step
        pl_module.stats, self._stats = None, stats
        self._targets = stats.targets if self._targets is None else self._targets + stats.targets
        done = 0 < self.total_steps <= trainer.global_step
        if trainer.global_step % self.every_n_steps == 0 or done:
            self._log(trainer, pl_module, stats)
        if done:
            trainer.should_stop = True  # makes the loop validate once more before it ends

    def _log(self, trainer: Trainer, task: Task, stats: StepStats) -> None:
        loss = float(stats.loss)  # waits for the device, so that the clock below is right
        tokens, seconds = self._count()
        rate = tokens / seconds if seconds > 0 else 0.0
        self.newest = {
            "train/loss": loss,
            "train/lr": stats.lr,
            "train/grad_norm": float(stats.grad_norm) if stats.grad_norm is not None else 0.0,
            "train/tokens_per_second": rate,
            "train/memory_gb": peak_memory_gb(self.device),
        }
        if self.flops_per_target:
            self.newest["train/mfu"] = rate * self.flops_per_target / self._peak
        task.log_dict({**self.newest, "step": float(trainer.global_step)})
        self._require_finite(stats, trainer.global_step)

    def _require_finite(self, stats: StepStats, step: int) -> None:
        bad = None if math.isfinite(stats.loss) else f"loss is {float(stats.loss)}"
        # In fp16, a gradient that overflows is left out, and the loss scale halved.
        if stats.grad_norm is not None and self.precision != "fp16":
            norm = float(stats.grad_norm)
            bad = bad if math.isfinite(norm) else bad or f"gradient's norm is {norm}"
        if bad:
            raise UserError(
                f"the {bad} at step {step}: training has diverged; the last good checkpoint is"
                " kept. Try a smaller optimizer.lr, a longer scheduler.warmup_steps,"
                " precision=fp32, or look at the data"
            )

    def _pending(self) -> tuple[int, float]:
        """Tokens and seconds since the last count."""
        tokens = 0 if self._targets is None else int(self._targets)
        return tokens, self._elapsed + time.perf_counter() - self._mark

    def _count(self) -> tuple[int, float]:
        tokens, seconds = self._pending()
        self._targets, self._elapsed, self._mark = None, 0.0, time.perf_counter()
        self.tokens += tokens
        self.seconds += seconds
        return tokens, seconds

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps that came after the last logged one."""
        self._count()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A model that has diverged between two logged steps must not replace a good one."""
        if self._stats is not None:
            self._require_finite(self._stats, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Counts that go on after a resume."""
        tokens, seconds = self._pending()
        return {"tokens": self.tokens + tokens, "seconds": self.seconds + seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.tokens, self.seconds = state_dict["tokens"], state_dict["seconds"]
