"""The classifier's figures."""

import pytest
import torch
import torchmetrics.functional.classification as tm
from hypothesis import given
from hypothesis import strategies as st

from gptlit.predictions import classification_metrics

NAMES = ["ham", "spam", "other"]


def test_a_class_that_is_nowhere_does_not_lower_the_means() -> None:
    labels = torch.tensor([0, 1, 1])
    metrics = classification_metrics(torch.eye(3)[labels], labels, NAMES)
    assert {metrics[name] for name in ("accuracy", "precision", "recall", "f1")} == {1.0}
    assert "auroc" not in metrics


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_the_means_are_the_macro_averages(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = torch.tensor(pairs).T
    metrics = classification_metrics(torch.eye(3)[predicted], labels, NAMES)
    f1 = tm.multiclass_f1_score(predicted, labels, 3, average="macro")
    recall = tm.multiclass_recall(predicted, labels, 3, average="macro")
    assert metrics["f1"] == pytest.approx(float(f1))
    assert metrics["recall"] == pytest.approx(float(recall))
