"""The pictures of a classifier's report, of two classes and of hundreds."""

from pathlib import Path

import matplotlib.image
import pytest
import torch

from gptlit.evaluation.classification import plot_confusion, plot_roc
from gptlit.tasks.classification import Predictions


@pytest.mark.parametrize("n_classes", [2, 31, 400])
def test_pictures_stay_of_a_size_that_can_be_looked_at(n_classes: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    labels = torch.arange(n_classes).repeat(2)
    probabilities = torch.rand(len(labels), n_classes).softmax(dim=1)
    found = Predictions(torch.arange(len(labels)), labels, probabilities)
    names = [f"class {i}" for i in range(n_classes)]
    for plot in (plot_confusion, plot_roc):
        png, pdf = plot(tmp_path, "t", names, found)
        height, width, _ = matplotlib.image.imread(png).shape
        assert 300 < height < 2600 and 300 < width < 2600
        assert pdf.stat().st_size > 1000
