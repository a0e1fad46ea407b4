"""Pictures in files."""

from pathlib import Path

import pytest
from matplotlib.artist import Artist
from PIL import Image

from gptlit.figures import (
    DOTS_PER_INCH,
    new_figure,
    over_steps,
    save_png_and_pdf,
    set_title,
)


def test_a_figure_is_drawn_once_for_each_file(tmp_path: Path) -> None:
    drawn = []

    class Counter(Artist):
        def draw(self, renderer: object) -> None:
            drawn.append(renderer)

    figure, axes = new_figure(4, 3)
    axes.add_artist(Counter())
    files = save_png_and_pdf(figure, tmp_path / "curve")
    assert [file.name for file in files] == ["curve.png", "curve.pdf"]
    assert len(drawn) == len(files)
    assert files[1].read_bytes().startswith(b"%PDF")
    with Image.open(files[0]) as image:
        assert image.size == (4 * DOTS_PER_INCH, 3 * DOTS_PER_INCH)


def test_no_word_is_cut_off_at_the_border(tmp_path: Path) -> None:
    figure, axes = new_figure(4, 3)
    axes.plot([0, 1], [0, 1e6])
    axes.set(title="two\nlines", xlabel="a\nlabel\nof\nfour lines", ylabel="another\nof two")
    save_png_and_pdf(figure, tmp_path / "curve")
    figure.draw_without_rendering()  # each label finds its place then
    for words in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels()):
        box = words.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    "name", ["a-run-name-" + 10 * "lr=0.1,", 200 * "M", "one\n$two$ and three$"]
)
def test_a_title_takes_as_many_lines_as_it_needs(tmp_path: Path, name: str) -> None:
    figure, axes = new_figure(5, 4)
    axes.set_ylabel(5 * "axes at the right\n")
    set_title(figure, name)
    save_png_and_pdf(figure, tmp_path / "curve")
    [title] = figure.texts
    box = title.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    drawn = title.get_text().replace(r"\$", "$")
    assert "".join(drawn.split()) == "".join(name.split())


@pytest.mark.parametrize("points", [{7: 0.5}, {1: 0.99001, 3: 0.99003}])
def test_steps_are_whole_and_each_number_tells_its_value(
    tmp_path: Path, points: dict[int, float]
) -> None:
    figure, axes = new_figure(6, 4)
    axes.plot(list(points), list(points.values()), marker="o")
    over_steps(axes, "share")
    save_png_and_pdf(figure, tmp_path / "curve")
    steps = {label.get_text() for label in axes.get_xticklabels()}
    assert {str(step) for step in points} <= steps and "." not in "".join(steps)
    values = [float(label.get_text()) for label in axes.get_yticklabels()]
    low, high = axes.get_ylim()
    assert any(low < value < high for value in values)
