"""Figures in files, drawn without a window and without pyplot, whose state belongs to the user."""

import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from gptlit.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
TITLE_LETTERS = 7
"""Letters of a title per inch of the figure's width."""


def new_figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure with one pair of axes.

    Args:
        width: inches.
        height: inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def literal(text: str) -> str:
    """A user's text, to be drawn as it is: text between two $ would be read as a formula."""
    return text.replace("$", r"\$")


def set_title(figure: "Figure", text: str) -> None:
    """Centre a title over the figure, not over its axes, in as many lines as it takes."""
    width = int(TITLE_LETTERS * figure.get_figwidth())
    wrapped = [textwrap.wrap(line, width) for line in text.splitlines()]
    lines = [part for line in wrapped for part in line]
    figure.suptitle(literal("\n".join(lines)), fontsize="large")


def over_steps(axes: "Axes", quantity: str) -> None:
    """Set up axes for curves over the optimiser steps.

    Args:
        quantity: what is drawn, with its unit.
    """
    axes.set(xlabel="optimiser step", ylabel=quantity)
    axes.locator_params("x", integer=True, min_n_ticks=1)
    axes.ticklabel_format(axis="y", useOffset=False)  # write each number in full
    axes.grid(alpha=0.3)


def save_figure(figure: "Figure", *paths: Path) -> None:
    """Write a finished figure to each path, in the format of its suffix. Characters that the font
    does not have are drawn as boxes.

    Raises:
        OSError: it cannot be written.
    """
    with warnings.catch_warnings():
        # Otherwise there is a warning for each character, each time that it is drawn.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        # Lay out once for all files: with a layout engine, the figure is drawn twice for each.
        if engine := figure.get_layout_engine():
            engine.execute(figure)
            figure.set_layout_engine(None)
        for path in paths:
            with replacing(path) as draft:
                figure.savefig(draft, dpi=DOTS_PER_INCH, format=path.suffix[1:])


def save_png_and_pdf(figure: "Figure", stem: Path) -> list[Path]:
    """Write a finished figure twice.

    Args:
        stem: the path without a suffix.

    Returns:
        the files.

    Raises:
        OSError: as `save_figure`.
    """
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".pdf")]
    save_figure(figure, *paths)
    return paths
