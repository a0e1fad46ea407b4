"""What a classifier says about labelled texts, and how good that is, by torchmetrics."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torchmetrics.functional.classification as tm
from torch import Tensor


class Predictions(NamedTuple):
    """What a classifier says about the texts of a split, in the split's order."""

    rows: Tensor
    """(n,) int64, the place of each text in its split."""
    labels: Tensor
    """(n,) int64, the true class of each text."""
    probabilities: Tensor
    """(n, classes) fp32."""


def classification_metrics(
    probabilities: Tensor, labels: Tensor, names: Sequence[str]
) -> dict[str, float]:
    """Accuracy; and precision, recall, F1 and AUROC, each as the plain mean over the classes
    (macro) under its own name, and for each class under a name such as "recall/spam". A class that
    is neither true nor predicted anywhere is left out of the mean.

    Args:
        probabilities: (n, classes) fp32, n at least 1.
        labels: (n,) int64.
        names: of the classes.

    Returns:
        the metrics by name, without AUROC unless every class occurs.
    """
    n = len(names)
    predicted = probabilities.argmax(dim=1)
    by_class = {
        "precision": tm.multiclass_precision(predicted, labels, n, average="none"),
        "recall": tm.multiclass_recall(predicted, labels, n, average="none"),
        "f1": tm.multiclass_f1_score(predicted, labels, n, average="none"),
    }
    present = torch.bincount(labels, minlength=n) > 0
    occurs = present | (torch.bincount(predicted, minlength=n) > 0)
    if bool(present.all()):
        by_class["auroc"] = tm.multiclass_auroc(probabilities, labels, n, average="none")
    metrics = {"accuracy": float((predicted == labels).float().mean())}
    for metric, values in by_class.items():
        metrics[metric] = float(values[occurs].mean())
        for name, value in zip(names, values.tolist(), strict=True):
            metrics[f"{metric}/{name}"] = value
    return metrics
