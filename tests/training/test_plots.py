"""The curves that a run leaves."""

from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import Image

from gptlit.training.plots import plot_curves

HEADER = "step,train/loss,train/lr,val/loss"
ACCURACY = "step,train/loss,val/loss,val/accuracy\r\n10,3.0,2.0,0.5\r\n"
TABLES = {
    "usual": f"{HEADER}\r\n10,3.0,0.1,\r\n20,2.0,0.2,2.5\r\n30,1.5,0.1,2.0\r\n",
    "single row": f"{HEADER}\r\n10,3.0,0.1,2.0\r\n",
    "never validated": "step,train/loss,train/lr\r\n10,3.0,0.1\r\n20,2.0,0.1\r\n",
    "column without values": f"{HEADER}\r\n10,3.0,0.1,\r\n20,2.0,0.2,\r\n",
    "not a number": f"{HEADER}\r\n10,nan,0.1,\r\n20,inf,0.2,nan\r\n",
    "cut short": f"{HEADER}\r\n10,3.0,0.1,2.0\r\n20,2.",
}


def draw(tmp_path: Path, table: str) -> list[Path]:
    (tmp_path / "metrics.csv").write_text(table)
    return plot_curves(tmp_path / "metrics.csv", tmp_path / "plots", "a run")


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.filterwarnings("error")
def test_each_quantity_has_a_picture_and_a_document(tmp_path: Path, table: str) -> None:
    written = draw(tmp_path, table)
    assert {path.name for path in written} == {"loss.png", "loss.pdf", "lr.png", "lr.pdf"}
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert image.format == "PNG" and min(image.size) > 300
        else:
            assert path.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("table", ["", f"{HEADER}\r\n"])
def test_nothing_is_drawn_where_nothing_was_measured(tmp_path: Path, table: str) -> None:
    assert draw(tmp_path, table) == []


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The axes that are drawn, by the picture's name."""
    seen: dict[str, Any] = {}

    def savefig(figure: Any, path: Path, **options: Any) -> None:
        path.touch()
        [seen[path.name.split(".")[1]]] = figure.axes

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return seen


def test_axes_say_what_they_show_in_which_unit(tmp_path: Path, seen: dict[str, Any]) -> None:
    draw(tmp_path, TABLES["usual"])
    assert {axes.get_xlabel() for axes in seen.values()} == {"optimiser step"}
    assert "nats" in seen["loss"].get_ylabel() and seen["lr"].get_ylabel() == "learning rate"
    assert all(axes.figure.get_suptitle() == "a run" for axes in seen.values())
    lines = {line.get_label(): line for line in seen["loss"].get_lines()}
    assert list(lines["training"].get_xdata()) == [10, 20, 30]
    assert list(lines["validation"].get_xdata()) == [20, 30]
    assert list(lines["validation"].get_ydata()) == [2.5, 2.0]


def test_a_split_has_one_colour_in_all_pictures(tmp_path: Path, seen: dict[str, Any]) -> None:
    draw(tmp_path, ACCURACY)
    of_loss = {line.get_label(): line.get_color() for line in seen["loss"].get_lines()}
    [alone] = seen["accuracy"].get_lines()
    assert alone.get_color() == of_loss["validation"] != of_loss["training"]
