"""Curves of a run, drawn from its `metrics.csv`."""

from pathlib import Path

from gptlit.figures import new_figure, over_steps, save_png_and_pdf, set_title
from gptlit.training.metrics import read_metrics


def plot_curves(metrics: Path, folder: Path, title: str) -> list[Path]:
    """Draw each quantity that was measured in training or validation over the optimiser steps.

    Args:
        metrics: the run's `metrics.csv`.
        folder: gets one PNG and one PDF per quantity, such as `loss.png`.
        title: of every figure.

    Returns:
        the files written.
    """
    columns, rows = read_metrics(metrics)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for quantity, label in CURVES.items():
        names = [name for name in (f"{split}/{quantity}" for split in SPLITS) if name in columns]
        if not any(row[name] for row in rows for name in names):
            continue
        figure, axes = new_figure(6, 4)
        for name in names:
            points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
            if not points:
                continue
            few = "o" if len(points) < 40 else ""
            split, colour = SPLITS[name.partition("/")[0]]
            axes.plot(
                *zip(*points, strict=True), color=colour, marker=few, markersize=3, label=split
            )
        over_steps(axes, label)
        set_title(figure, title)
        axes.legend()
        written += save_png_and_pdf(figure, folder / quantity)
    return written


CURVES = {
    "loss": "cross entropy (nats per target)",
    "accuracy": "accuracy (share that is right)",
    "lr": "learning rate",
    "tokens_per_second": "tokens per second",
}
"""Quantities that are drawn if they were measured, and their axis labels."""
SPLITS = {"train": ("training", "tab:blue"), "val": ("validation", "tab:orange")}
"""The splits' names and colours, the same in each picture."""
