"""The data of the real training commands, with a clock on them."""

from typing import Any, ClassVar

from benchmarks.train import Clock
from gptlit.data.instructions import InstructionDataModule
from gptlit.data.text import TextDataModule


class _Clocked:
    """Ticks as each batch comes to the model."""

    clock: ClassVar[Clock]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Lightning's hook right before a step."""
        self.clock.tick()
        return batch


class ClockedText(_Clocked, TextDataModule):
    """Running text."""


class ClockedInstructions(_Clocked, InstructionDataModule):
    """Instructions and their responses."""
