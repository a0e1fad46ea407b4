"""What the console shows while a run trains."""

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from gptlit.training.monitor import StepMonitor
from gptlit.training.progress import StepProgress


def test_the_bar_says_how_far_a_validation_has_come() -> None:
    """It stands still meanwhile, which may be for minutes."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
    progress = StepProgress(StepMonitor("cpu", "fp32", 1), console)
    trainer: Any = SimpleNamespace(global_step=150, num_val_batches=[4883], sanity_checking=True)
    module: Any = None

    def shown() -> str:
        with console.capture() as captured:
            console.print(progress._bar.get_renderable())
        return captured.get()

    progress.monitor.newest = {"train/loss": 2.5, "train/tokens_per_second": 1234.0}
    progress.on_train_batch_end(trainer, module, None, None, 0)
    assert shown().startswith("training") and "loss 2.500 · 1,234 tok/s" in shown()
    progress.on_validation_batch_end(trainer, module, None, None, 119)
    assert shown().startswith("validating") and "batch 120 of 4,883" in shown()
    progress.on_validation_end(trainer, module)
    assert shown().startswith("training") and "1,234 tok/s" in shown()
