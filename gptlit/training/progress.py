"""What the console shows while a run trains."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gptlit.training.monitor import StepMonitor


class StepProgress(ProgressBar):
    """One bar over the optimiser steps with loss, tokens per second and time left; during a
    validation, it shows how far that has come. A line for each validation stays on the screen.
    Without a terminal, only those lines are printed.

    Args:
        monitor: where the newest figures are.
        console: where to print.
    """

    def __init__(self, monitor: StepMonitor, console: Console) -> None:
        super().__init__()
        self.monitor, self.console = monitor, console
        self.total_steps = 0
        """Optimiser steps of the whole run; set once the data is known."""
        self._enabled = True
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,
            disable=not console.is_terminal,
        )
        self._row = self._bar.add_task("training", figures="")

    def disable(self) -> None:
        """Called on all processes but the first."""
        self._enabled = False
        self._bar.disable = True

    def enable(self) -> None:
        """Called on the first process."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, from the step that the run starts at."""
        self._bar.update(self._row, total=self.total_steps, completed=trainer.global_step)
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        self._show_training(trainer)

    def _show_training(self, trainer: Trainer) -> None:
        if not self._bar.disable:
            new, figures = self.monitor.newest, ""
            if new:
                rate = new["train/tokens_per_second"]
                figures = f"loss {new['train/loss']:.3f} · {rate:,.0f} tok/s"
            done = trainer.global_step
            self._bar.update(self._row, completed=done, description="training", figures=figures)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show how far the validation has come; the bar stands still meanwhile."""
        if not self._bar.disable:
            figures = f"batch {batch_idx + 1:,} of {trainer.num_val_batches[dataloader_idx]:,}"
            self._bar.update(self._row, description="validating", figures=figures)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print a line with what was measured."""
        self._show_training(trainer)
        if trainer.sanity_checking or not self._enabled:
            return
        measured = [
            f"{name.removeprefix('val/').replace('_', ' ')} {float(value):.4g}"
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        ]
        train = self.monitor.loss
        before = f"train loss {float(train):.4g} · " if train is not None else ""
        self.console.print(
            f"step {trainer.global_step}/{self.total_steps}: {before}validation "
            + " · ".join(measured),
            highlight=False,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self._bar.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back before anything else is printed."""
        self._bar.stop()
