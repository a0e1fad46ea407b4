"""The table of a classifier's report, and its pictures, of two classes and of hundreds."""

import csv
from pathlib import Path
from unittest.mock import Mock, patch

import matplotlib.image
import pytest
import torch

from gptlit.evaluation.classification import plot_confusion, plot_roc, write_predictions
from gptlit.figures import save_png_and_pdf as save
from gptlit.predictions import Predictions

FOUND = Predictions(
    rows=torch.tensor([0, 2, 3, 4]),  # not every text was measured
    labels=torch.tensor([0, 1, 1, 0]),
    probabilities=torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]]),
)


def test_the_worst_mistakes_come_first_each_with_its_own_text(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.csv", list("ABCDE"), ["ham", "spam"], FOUND)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["label", "predicted", "p(ham)", "p(spam)", "text"],
        ["spam", "ham", "0.800000", "0.200000", "C"],
        ["spam", "spam", "0.400000", "0.600000", "D"],
        ["ham", "ham", "0.700000", "0.300000", "E"],
        ["ham", "ham", "0.900000", "0.100000", "A"],
    ]


def test_a_row_of_the_matrix_is_a_true_class(tmp_path: Path) -> None:
    with patch("gptlit.evaluation.classification.save_png_and_pdf") as saved:
        plot_confusion(tmp_path, "t", ["ham", "spam"], FOUND)
    axes = saved.call_args.args[0].axes[0]
    assert axes.images[0].get_array().tolist() == [[1, 0], [0.5, 0.5]]
    drawn = {(*text.get_position(), text.get_text(), text.get_color()) for text in axes.texts}
    assert drawn == {
        (0, 0, "2", "white"),
        (1, 0, "0", "black"),
        (0, 1, "1", "black"),
        (1, 1, "1", "black"),
    }
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


@pytest.mark.parametrize(
    ("names", "named", "rotation"),
    [
        (["x" * 13] * 2, [0, 1], 0),
        (["x" * 14] * 2, [0, 1], 90),
        (["x"] * 30, [*range(30)], 0),
        (["x"] * 31, [*range(0, 31, 2)], 90),
    ],
)
def test_the_matrix_names_as_many_classes_as_fit(
    tmp_path: Path, names: list[str], named: list[int], rotation: int
) -> None:
    with patch("gptlit.evaluation.classification.save_png_and_pdf") as saved:
        plot_confusion(
            tmp_path, "t", names, FOUND._replace(probabilities=torch.eye(len(names))[[0, 0, 1, 1]])
        )
    axes = saved.call_args.args[0].axes[0]
    assert axes.get_xticks().tolist() == axes.get_yticks().tolist() == named
    assert {tick.get_rotation() for tick in axes.get_xticklabels()} == {rotation}
    assert len(axes.texts) == (len(names) ** 2 if len(names) <= 30 else 0)


def test_of_two_classes_the_second_has_a_curve_of_its_ranks(tmp_path: Path) -> None:
    with patch("gptlit.evaluation.classification.save_png_and_pdf") as saved:
        plot_roc(tmp_path, "t", ["ham", "spam"], FOUND)
    words = [text.get_text() for text in saved.call_args.args[0].axes[0].get_legend().get_texts()]
    assert words == ["area 0.7500, spam", "chance"]  # 3 of 4 pairs are in the right order


def test_the_classes_with_the_smallest_areas_are_named(tmp_path: Path) -> None:
    labels = torch.arange(14).repeat(2)
    probabilities = torch.eye(14)[labels]
    probabilities[13, 13] = 0.0  # one text of the last class looks like none of it
    found = Predictions(torch.arange(28), labels, probabilities)
    with patch("gptlit.evaluation.classification.save_png_and_pdf") as saved:
        plot_roc(tmp_path, "t", [f"class {i}" for i in range(14)], found)
    words = [text.get_text() for text in saved.call_args.args[0].axes[0].get_legend().get_texts()]
    first = [f"area 1.0000, class {i}" for i in range(11)]
    assert words == ["area 0.7500, class 13", *first, "chance"]


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
