"""The data of the real training commands, with a clock on them."""

from typing import Any, ClassVar

from benchmarks.train import Clock
from gptlit.data.batch import InstructionBatch
from gptlit.data.instructions import InstructionDataModule
from gptlit.data.text import TextDataModule


class _Clocked:
    """Ticks the clock whenever a batch reaches the model."""

    clock: ClassVar[Clock]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Lightning's hook right before a step."""
        self.clock.tick()
        return batch


class ClockedText(_Clocked, TextDataModule):
    """Running text."""


class ClockedInstructions(_Clocked, InstructionDataModule):
    """Instructions and their responses, which are counted."""

    def on_before_batch_transfer(self, batch: InstructionBatch, dataloader_idx: int) -> Any:
        """Lightning's hook where the batch is still on the CPU."""
        self.clock.count(count_entries(batch))
        return super().on_before_batch_transfer(batch, dataloader_idx)


def count_entries(batch: InstructionBatch) -> int:
    """How many entries a batch has, whether they are joined, packed, or a row each."""
    if batch.segments is None:
        return len(batch.input_ids)
    return int(batch.segments.amax(dim=1).sum())
