"""The pictures of a classifier's report, of two classes and of hundreds."""

from pathlib import Path
from unittest.mock import Mock, patch

import matplotlib.image
import pytest
import torch

from gptlit.evaluation.classification import plot_confusion, plot_roc
from gptlit.figures import save_png_and_pdf as save
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


def test_names_are_drawn_as_they_are(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    names = ["$10_to_$20", "_other", "\N{CJK UNIFIED IDEOGRAPH-597D}", "a\nb " * 500]
    labels = torch.arange(4).repeat(2)
    probabilities = torch.rand(8, 4).softmax(dim=1)
    found = Predictions(torch.arange(8), labels, probabilities)
    with patch("gptlit.evaluation.classification.save_png_and_pdf", Mock(wraps=save)) as saved:
        plot_confusion(tmp_path, "t", names, found)
        plot_roc(tmp_path, "t", names, found)
    confusion, roc = (call.args[0].axes[0] for call in saved.call_args_list)
    shortened = "a b " * 9 + "a b…"
    drawn = [r"\$10_to_\$20", "_other", names[2], shortened]
    assert [tick.get_text() for tick in confusion.get_yticklabels()] == drawn
    legend = sorted(text.get_text().split(", ")[-1] for text in roc.get_legend().get_texts())
    assert legend == sorted([*drawn, "chance"])
    assert not recwarn.list


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("occurring", "curves"), [([0, 0], 0), ([0, 2], 2), ([0, 1, 2], 3)])
def test_classes_that_do_not_occur_have_no_curve(
    tmp_path: Path, occurring: list[int], curves: int
) -> None:
    labels = torch.tensor(occurring)
    found = Predictions(torch.arange(len(labels)), labels, torch.eye(3)[labels])
    with patch("gptlit.evaluation.classification.save_png_and_pdf") as saved:
        plot_roc(tmp_path, "t", ["a", "b", "c"], found)
    words = [text.get_text() for text in saved.call_args.args[0].axes[0].get_legend().get_texts()]
    assert words == [*(f"area 1.0000, {'abc'[i]}" for i in occurring[:curves]), "chance"]
