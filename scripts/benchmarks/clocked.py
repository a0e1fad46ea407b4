"""The data of the real training command, with a clock on it."""

from typing import Any, ClassVar

from benchmarks.train import Clock
from gptlit.data.text import TextDataModule


class ClockedText(TextDataModule):
    """Running text that ticks as each batch comes to the model."""

    clock: ClassVar[Clock]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Lightning's hook right before a step."""
        self.clock.tick()
        return batch
