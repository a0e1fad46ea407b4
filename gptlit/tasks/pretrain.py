"""Causal language modelling from scratch: predict each next token of raw text."""

import math
from typing import Any

import torch
from torch import Tensor

from gptlit.model import IGNORE_INDEX
from gptlit.tasks.base import Task


class PretrainTask(Task):
    """Next-token prediction. Batches have `input_ids` and `targets`, both (batch, time) int64,
    targets shifted by one and -100 where there is no loss.

    Metrics: `val/loss` (nats per token), `val/perplexity`, `val/bits_per_byte`.
    """

    name = "pretrain"

    def loss_sum(self, batch: Any) -> tuple[Tensor, int]:
        """Training windows are full: every target counts, so none has to be searched for."""
        loss = self.model.loss_sum(batch.input_ids, batch.targets, dense=True)
        return loss, batch.targets.numel()

    def on_validation_epoch_start(self) -> None:
        """Start the sums: of the loss; and of target tokens and their bytes, which fp32 would round
        in a text of many millions."""
        self._val_loss = torch.zeros((), dtype=torch.float32, device=self.device)
        self._val_counts = torch.zeros(2, dtype=torch.int64, device=self.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add one batch to the sums."""
        targets = batch.targets[batch.targets != IGNORE_INDEX]
        n_bytes = self.token_bytes[targets].sum() if self.token_bytes is not None else 0
        self._val_loss += self.model.loss_sum(batch.input_ids, batch.targets)
        self._val_counts[0] += targets.numel()
        self._val_counts[1] += n_bytes

    def on_validation_epoch_end(self) -> None:
        """Log means over all tokens of all processes."""
        loss_sum = self.reduce_sum(self._val_loss).item()
        tokens, n_bytes = self.reduce_sum(self._val_counts).tolist()
        loss = loss_sum / max(tokens, 1)
        metrics = {"val/loss": loss, "val/perplexity": math.exp(min(loss, 80))}
        if n_bytes:
            metrics["val/bits_per_byte"] = loss_sum / math.log(2) / n_bytes
        self.log_at_step(metrics)
