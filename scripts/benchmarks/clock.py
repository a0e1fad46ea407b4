"""The time between the starts of training steps, whoever runs them."""

import time
from typing import Any, ClassVar

import torch

from gptlit.data.text import TextDataModule
from gptlit.device import peak_memory_gb


class Clock:
    """Times `steps` steps that follow `warmup` others, from the start of a step to the start of
    another, so that all that happens in between counts.

    A GPU is waited for at the first and the last of them only.
    """

    def __init__(self, device: str, warmup: int, steps: int) -> None:
        self.device, self.first, self.last = device, warmup, warmup + steps
        self.seconds = 0.0
        self.memory_gb = 0.0
        self._ticks = 0

    def tick(self) -> None:
        """A step starts, or the last one has ended."""
        if self._ticks in (self.first, self.last):
            if self.device == "cuda":
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.seconds
            self.memory_gb = peak_memory_gb(self.device)
        self._ticks += 1


class ClockedText(TextDataModule):
    """Running text that ticks as each batch comes to the model."""

    clock: ClassVar[Clock]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Lightning's hook right before a step."""
        self.clock.tick()
        return batch
