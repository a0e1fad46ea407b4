"""Instruction tuning: a pretrained model learns to answer, with the loss on the responses only."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlit.model import (
    IGNORE_INDEX,
    LoRAConfig,
    SegmentMask,
    add_lora,
    narrow_head,
    product_dtype,
    segment_mask,
)
from gptlit.prompts import PromptFormat
from gptlit.tasks.base import Task

LOGIT_ROWS = 512
"""Targets whose logits are held at once when answers are counted."""


class InstructionTask(Task):
    """Supervised fine-tuning on prompts and their responses.

    Batches have `input_ids` and `targets`, both (batch, time) int64, targets shifted by one and
    -100 where there is no loss. If several entries share a row, they also have `positions` and
    `segments`, both (batch, time) int64: these number the tokens of each entry from 0, and the
    entries of a row from 1. No entry sees another, but each sees segment 0, which comes before all
    of them.

    Settings: `prompt` (the fields of `PromptFormat`), `trainable` (all or lora), and for
    trainable=lora `lora` (the fields of `LoRAConfig`).

    Metrics: `val/loss` (nats per target) and `val/accuracy` (share of targets that are the
    likeliest token, given all before them); at the end `test/loss` and `test/accuracy` too.
    """

    name = "instruction"
    needs = ("prompt", "trainable")
    prompt_format: PromptFormat

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.prompt_format = PromptFormat.from_dict(self.settings["prompt"])
        trainable = self.settings["trainable"]
        if trainable not in ("all", "lora"):
            raise ValueError(f"task.trainable={trainable}: allowed are all, lora")
        if trainable == "lora":
            add_lora(self.model, LoRAConfig.from_dict(self.settings["lora"]))

    def flops_per_token(self) -> float:
        """Not known: it depends on the length of the prompts, which have no targets."""
        return 0.0

    def loss_sum(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Cross entropy over the targets; logits are computed only there."""
        loss = self.model.loss_sum(
            batch.input_ids,
            batch.targets,
            positions=batch.positions,
            mask=self._mask(batch.segments),
        )
        return loss, (batch.targets != IGNORE_INDEX).sum()

    def _mask(self, segments: Tensor | None) -> Tensor | SegmentMask | None:
        return segment_mask(segments, gather=not self.model.compiled)

    def on_validation_epoch_start(self) -> None:
        """Start the sums: loss, hits, targets."""
        self._sums_measured = torch.zeros(3, device=self.device)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add one batch."""
        targets, vocab_size = batch.targets.flatten(), self.model.cfg.vocab_size
        keep = (targets != IGNORE_INDEX).nonzero()[:, 0]
        targets = targets[keep]
        h = self.model.hidden(
            batch.input_ids,
            positions=batch.positions,
            mask=self._mask(batch.segments),
            keep=keep,
        )
        head = narrow_head(self.model.head_weight(), product_dtype(h), vocab_size)[:vocab_size]
        for rows, wanted in zip(h.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True):
            logits = F.linear(rows.to(head.dtype), head).float()
            self._sums_measured[0] += F.cross_entropy(logits, wanted, reduction="sum")
            self._sums_measured[1] += (logits.argmax(dim=-1) == wanted).sum()
        self._sums_measured[2] += len(targets)

    def on_validation_epoch_end(self) -> None:
        """Log means over all targets of all processes."""
        self.log_at_step(self._measured("val"))

    on_test_epoch_start = on_validation_epoch_start

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        found = self._measured("test")
        self.final_metrics.update(found)
        self.log_at_step(found)

    def _measured(self, split: str) -> dict[str, float]:
        loss, hits, targets = self.reduce_sum(self._sums_measured).tolist()
        n = max(targets, 1)
        return {f"{split}/loss": loss / n, f"{split}/accuracy": hits / n}
