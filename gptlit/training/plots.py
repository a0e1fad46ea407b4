"""Curves of a run, drawn from its `metrics.csv`."""

from pathlib import Path

from gptlit.files import replacing
from gptlit.training.metrics_csv import read_metrics


def plot_curves(metrics: Path, folder: Path, title: str) -> list[Path]:
    """Draw each quantity that was measured in training or validation over the optimiser steps.

    Args:
        metrics: the run's `metrics.csv`.
        folder: gets one PNG and one PDF per quantity, such as `loss.png`.
        title: of every figure.

    Returns:
        the files written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns, rows = read_metrics(metrics)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for quantity, label in CURVES.items():
        names = [name for name in (f"train/{quantity}", f"val/{quantity}") if name in columns]
        if not any(row[name] for row in rows for name in names):
            continue
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        for name in names:
            points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
            if not points:
                continue
            few = "o" if len(points) < 40 else ""
            split = "training" if name.startswith("train/") else "validation"
            axes.plot(*zip(*points, strict=True), marker=few, markersize=3, label=split)
        axes.set(title=title, xlabel="optimiser step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
        for suffix in ("png", "pdf"):
            path = folder / f"{quantity}.{suffix}"
            with replacing(path) as draft:
                figure.savefig(draft, dpi=150, format=suffix)
            written.append(path)
        plt.close(figure)
    return written


CURVES = {
    "loss": "cross entropy (nats per target)",
    "accuracy": "accuracy (share that is right)",
    "lr": "learning rate",
    "tokens_per_second": "targets per second",
}
"""Quantities that are drawn where they were measured, with their axis label."""
