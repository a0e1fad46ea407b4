"""Tokens per second, MFU and the step's losses, measured in one place."""

import math
import time
from collections import deque
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from gptlit.device import peak_flops, peak_memory_gb
from gptlit.tasks import StepStats, Task
from gptlit.tasks.sharding import local
from gptlit.training import stopping
from gptlit.training.faults import DivergedError


class StepMonitor(Callback):
    """Logs what the task measured every `every_n_steps` optimiser steps, ends the run at a loss
    that is not finite, and asks for a last validation when all steps are done.

    Metrics: `train/loss` (nats per target, of that step), `train/lr`, `train/grad_norm`,
    `train/tokens_per_second` (of all processes; with prompts, the tokens of the responses),
    `train/mfu` (of the peak of all devices; Chowdhery et al. 2022), `train/memory_gb` (peak, this
    process).

    Args:
        device, precision: what the run computes on and in, for the peak rate.
        every_n_steps: optimiser steps between logged rows.
    """

    def __init__(self, device: str, precision: str, every_n_steps: int) -> None:
        self.device, self.precision, self.every_n_steps = device, precision, every_n_steps
        self.flops_per_token = 0.0
        """Floating-point operations of a training step for each of its tokens, 0 if not known; set
        once the model is built."""
        self.total_steps = 0
        """Optimiser steps of the whole run; set once the data is known."""
        self.tokens = 0
        """Tokens trained on, over all resumed parts of the run."""
        self.seconds = 0.0
        """Seconds spent in training steps; validation, and what follows it, left out."""
        self.newest: dict[str, float] = {}
        """What was logged last since the run began or was resumed."""
        self.loss: torch.Tensor | None = None
        """Loss of the newest step since the run began or was resumed, logged or not (scalar)."""
        self._since: float | None = None  # when the clock was started; None: it is stopped
        self._elapsed = 0.0
        self._peak = 0.0
        self._unread: deque[tuple[int, StepStats]] = deque(maxlen=1000)  # not checked yet
        self._tokens: torch.Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the peak rate; end a resumed run that has nothing left to do."""
        self._peak = peak_flops(self.device, self.precision) * trainer.world_size
        stopped_early = any(
            isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        )
        if stopped_early or self._is_done(trainer):
            trainer.should_stop = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock if it is stopped. What a task computes before its first step is not
        training time; nor are a validation, and the sample and the checkpoint that follow it."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        _, self._elapsed = self._pending()
        self._since = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run before it saves a model whose validation loss is not finite."""
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not math.isfinite(loss):
            self._raise(f"validation loss is {float(loss)}", trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log if this batch finished a step that is due for it."""
        assert isinstance(pl_module, Task)
        stats = pl_module.stats
        if stats is None:
            return  # in the middle of an accumulated step
        pl_module.stats, self.loss = None, stats.loss
        self._unread.append((trainer.global_step, stats))
        self._tokens = stats.tokens if self._tokens is None else self._tokens + stats.tokens
        done = self._is_done(trainer)
        if trainer.global_step % self.every_n_steps == 0 or done:
            self._log(trainer, stats)
        if done:
            trainer.should_stop = True  # makes the loop validate once more before it ends

    def _log(self, trainer: Trainer, stats: StepStats) -> None:
        loss = float(stats.loss)  # waits for the device, so that the clock below is right
        self._require_finite()
        tokens, seconds = self._count()
        rate = tokens / seconds if seconds > 0 else 0.0
        self.newest = {
            "train/loss": loss,
            "train/lr": stats.lr,
            "train/grad_norm": float(stats.grad_norm) if stats.grad_norm is not None else 0.0,
            "train/tokens_per_second": rate,
            "train/memory_gb": peak_memory_gb(self.device),
        }
        if self.flops_per_token:
            self.newest["train/mfu"] = rate * self.flops_per_token / self._peak
        # Logged through Lightning, they would be written after this step's checkpoint, or never.
        for logger in trainer.loggers:
            logger.log_metrics(self.newest, step=trainer.global_step)
            logger.save()

    def _is_done(self, trainer: Trainer) -> bool:
        return 0 < self.total_steps <= trainer.global_step

    def _require_finite(self) -> None:
        """Raise DivergedError if the newest step is not finite. Checking it waits for the device;
        the steps before it are checked only to find out where the trouble began."""
        unread = list(self._unread)
        self._unread.clear()
        if not unread or self._trouble(unread[-1][1]) is None:
            return
        for step, stats in unread:
            if trouble := self._trouble(stats):
                self._raise(trouble, step, stats.lr)

    def _trouble(self, stats: StepStats) -> str | None:
        if not math.isfinite(stats.loss):
            return f"loss is {float(stats.loss)}"
        # In fp16, a step whose gradients overflow is skipped, and the loss scale halved.
        if stats.grad_norm is not None and self.precision != "fp16":
            norm = float(stats.grad_norm)
            return None if math.isfinite(norm) else f"gradient's norm is {norm}"
        return None

    def _raise(self, trouble: str, step: int, lr: float | None = None) -> None:
        raise DivergedError(trouble, step, self.precision, lr, stopping.saved_step())

    def _pending(self) -> tuple[int, float]:
        """Tokens and seconds since the last count."""
        tokens = 0 if self._tokens is None else int(self._tokens)  # waits for the device
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return tokens, self._elapsed + running

    def _count(self) -> tuple[int, float]:
        tokens, seconds = self._pending()
        self._tokens, self._elapsed = None, 0.0
        if self._since is not None:
            self._since = time.perf_counter()
        self.tokens += tokens
        self.seconds += seconds
        return tokens, seconds

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps that came after the last logged one."""
        self._count()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A model that has diverged between two logged steps, or in the newest update, must not
        replace a good one."""
        self._require_finite()
        norms = torch._foreach_norm([local(p.detach()) for p in pl_module.parameters()])
        finite = bool(torch.stack([norm.float() for norm in norms]).isfinite().all())
        if not trainer.strategy.reduce_boolean_decision(finite):
            self._raise("model has weights that are no numbers", trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Tokens and seconds so far, which a resumed run goes on counting."""
        tokens, seconds = self._pending()
        return {"tokens": self.tokens + tokens, "seconds": self.seconds + seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.tokens, self.seconds = state_dict["tokens"], state_dict["seconds"]
