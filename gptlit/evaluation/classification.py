"""The report on a classifier: its predictions, the most wrong ones first, and its plots."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torchmetrics.functional.classification import binary_roc, multiclass_confusion_matrix

from gptlit.figures import literal, new_figure, save_png_and_pdf, set_title
from gptlit.files import replacing
from gptlit.predictions import Predictions

if TYPE_CHECKING:
    from gptlit.tasks.classification import (
        ClassificationTask,  # imports Lightning, which takes seconds
    )

MATRIX_INCHES, MATRIX_NUMBERS = 12, 30
"""The largest side of a confusion matrix, and the most classes whose counts can be read in it."""
COLUMN_LETTERS, NAME_LETTERS = 13, 40
"""Most letters of a class's name that fit across a column of the matrix, and that are drawn."""
ROC_NAMES = 12
"""Most curves that are named."""


def write_classification_report(task: "ClassificationTask", data: Any, folder: Path) -> Path | None:
    """Write `test-predictions.csv`, and the confusion matrix and ROC curves of the test split.

    Args:
        task: with the `predictions` of its last evaluation.
        data: has the texts of the splits in `splits`.
        folder: the run folder.

    Returns:
        the CSV, if there is a test split.
    """
    found = task.predictions.get("test")
    if found is None:
        return None
    table = folder / "test-predictions.csv"
    write_predictions(table, data.splits["test"].texts, task.labels, found)
    title = f"{task.name}, {folder.name}, test split"
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    plot_confusion(plots, title, task.labels, found)
    plot_roc(plots, title, task.labels, found)
    return table


def write_predictions(
    path: Path, texts: Sequence[str], names: Sequence[str], found: Predictions
) -> None:
    """One row per text: its class, the predicted class, and the probability of each class. The less
    probable the true class, the earlier the row."""
    of_truth = found.probabilities.gather(1, found.labels[:, None])[:, 0]
    predicted = found.probabilities.argmax(dim=1)
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "predicted", *(f"p({name})" for name in names), "text"])
        for i in of_truth.argsort(stable=True).tolist():
            probabilities = (f"{p:.6f}" for p in found.probabilities[i].tolist())
            label, guess = names[int(found.labels[i])], names[int(predicted[i])]
            writer.writerow([label, guess, *probabilities, texts[int(found.rows[i])]])


def plot_confusion(
    folder: Path, title: str, names: Sequence[str], found: Predictions
) -> list[Path]:
    """How many texts of each class were predicted as which: `confusion.png` and `.pdf`. With more
    than MATRIX_NUMBERS classes, only colours show the counts, and not every class is named."""
    counts = multiclass_confusion_matrix(found.probabilities, found.labels, len(names)).numpy()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(1.1 * len(names), MATRIX_INCHES)
    figure, axes = new_figure(side + 3.4, side + 2.4)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    few = len(names) <= MATRIX_NUMBERS
    for (row, column), count in np.ndenumerate(counts) if few else ():
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
    named = range(0, len(names), math.ceil(len(names) / MATRIX_NUMBERS))
    labels = [_drawn(names[index]) for index in named]
    side_by_side = few and max(map(len, labels)) <= COLUMN_LETTERS
    axes.set_xticks(named, labels, rotation=0 if side_by_side else 90)
    axes.set_yticks(named, labels)
    axes.set(xlabel="predicted class", ylabel="true class")
    set_title(figure, f"number of texts\n{title}")
    figure.colorbar(image, label="share of the true class")
    return save_png_and_pdf(figure, folder / "confusion")


def plot_roc(folder: Path, title: str, names: Sequence[str], found: Predictions) -> list[Path]:
    """Each class against the rest: `roc.png` and `.pdf`. Classes that do not occur are left out;
    of two classes only the second is drawn, since the first mirrors it. The classes with the
    smallest areas are named, and come first."""
    figure, axes = new_figure(5, 5)
    curves = []
    for index, name in enumerate(names):
        mirrored = len(names) == 2 and index == 0
        of_class = found.labels == index
        if mirrored or int(of_class.sum()) in (0, len(found.labels)):
            continue
        rates = binary_roc(found.probabilities[:, index], of_class.long())
        false_positive, true_positive = (rate.numpy() for rate in rates[:2])
        area = float(np.trapezoid(true_positive, false_positive))
        curves.append((area, name, false_positive, true_positive))
    curves.sort(key=lambda curve: curve[0])
    for place, (area, name, false_positive, true_positive) in enumerate(curves):
        # A legend would leave out what begins with an underscore.
        label = f"area {area:.4f}, {_drawn(name)}" if place < ROC_NAMES else None
        axes.plot(false_positive, true_positive, label=label)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.set(
        xlabel="false positive rate (share of the other texts)",
        ylabel="true positive rate (share of the class's texts)",
    )
    set_title(figure, f"ROC\n{title}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return save_png_and_pdf(figure, folder / "roc")


def _drawn(name: str) -> str:
    """The name of a class as it is drawn: on one line, and cut if it is long."""
    line = " ".join(name.split())
    return literal(line if len(line) <= NAME_LETTERS else f"{line[: NAME_LETTERS - 1]}…")
