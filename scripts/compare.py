"""Finished runs side by side: python scripts/compare.py outputs/pretrain --out curves.png."""

import csv
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from yaml import YAMLError

from gptlit.cli.arguments import overrides_by_key, printable
from gptlit.cli.parser import Parser
from gptlit.errors import UserError, in_one_line
from gptlit.figures import literal, new_figure, over_steps, save_figure
from gptlit.files import replacing
from gptlit.training.metrics import read_metrics
from gptlit.training.monitored import LOSS, Monitored
from gptlit.training.reuse import (
    OVERRIDES,
    finished,
    leaves,
    result_folder,
    trained_config,
    what_counts,
)

DAMAGED = (OSError, ValueError, TypeError, LookupError, AttributeError, YAMLError)
"""Errors from reading files that hold something other than what a run writes."""
SCORE = LOSS.name
PICTURES = (".png", ".pdf", ".svg")
COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
"""Petroff's (2021) colours, which colour-blind people can tell apart."""
STYLES = ("-", "--", ":", "-.")
LONGEST_SHOWN = 40
"""Characters of a value in the table and the picture; the .csv has all of it."""
NAMED = 40
"""How many runs, the best ones, have curves with a name and a colour."""
NAMED_INSIDE, LONGEST_INSIDE = 8, 45
"""Up to this many names of up to this length are put among the curves; otherwise beside them."""
LETTER_INCHES = 0.07
"""Width of a letter in the names beside the curves."""
SETTLED, FEW = 1 / 5, 5
"""Share of a curve's steps after which all of it is shown; a curve of few points is shown whole.
Before that, losses may be too high for the picture: those of random weights would flatten the rest.
"""
CUT_FROM = 1.5
"""The range of losses is cut if it is at least this many times that of the settled curves."""
WIDEST = 5
"""Up to this many runs are shown side by side; more are shown one below another."""


@dataclass
class Run:
    """What is compared of one run."""

    folder: Path
    name: str
    metrics: dict[str, float]
    """The newest value of each."""
    tokens_per_second: float | None
    settings: dict[str, Any]
    """Keys of the config that change the result, dotted."""
    given: set[str]
    """Keys that the command line gave."""
    best: float | None
    """The value of the monitored metric at the best checkpoint, if it is known."""
    monitored: Monitored

    @property
    def score(self) -> float:
        """The lowest validation loss, or the last one if only that is known; infinity if there is
        none."""
        known = self.monitored == LOSS and self.best is not None
        return LOSS.rank(self.best if known else self.metrics.get(SCORE))


def main() -> int:
    """The exit code: 2 if there is nothing to compare, or nowhere to write."""
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders with runs")
    parser.add_argument(
        "--out",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help=f"{' '.join(PICTURES)}: curves of {SCORE}; .csv: the table; may be given twice",
    )
    args = parser.parse_intermixed_args()
    for file in args.out:
        if file.suffix not in (".csv", *PICTURES) or not file.absolute().parent.is_dir():
            known = " or ".join((".csv", *PICTURES))
            parser.error(f"--out {file}: give a {known} file in a folder that exists")
    try:
        runs = read_runs(args.runs)
        rows = compare(runs)
        show(runs, rows)
        for file in args.out:
            try:
                write_csv(file, runs, rows) if file.suffix == ".csv" else draw(file, runs, rows)
            except OSError as error:
                why = error.strerror or error
                raise UserError(f"cannot write --out {file}: {why}; choose another file") from error
            print(f"written: {file}")
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def read_runs(places: list[Path]) -> list[Run]:
    """All finished runs in or below the places, each once, the best first.

    Raises:
        UserError: there are none, or one lacks its config.
    """
    folders: list[Path] = []
    for place in places:
        found = [folder.resolve() for folder in _finished_in(place)]
        if not found:
            raise UserError(f"{place}: no run has finished here (there is no summary.json)")
        folders += [folder for folder in dict.fromkeys(found) if folder not in folders]
    above = Path(os.path.commonpath([folder.parent for folder in folders]))
    runs = [_read_run(folder, str(folder.relative_to(above))) for folder in folders]
    return sorted(runs, key=lambda run: (run.score, run.name))


def _finished_in(place: Path) -> Iterator[Path]:
    for where, below, files in os.walk(place):
        folder = result_folder(Path(where))
        if "summary.json" in files or folder != Path(where):
            below.clear()  # there are no runs inside a run
            if "summary.json" in files:  # its own, though a later sweep reused another run here
                yield Path(where)
            if (folder / "summary.json").is_file():  # the run that it was taken from may be deleted
                yield folder


def _read_run(folder: Path, name: str) -> Run:
    try:
        summary = json.loads((folder / "summary.json").read_text())
        metrics = {name: float(value) for name, value in summary["metrics"].items()}
        speed = summary.get("tokens_per_second")
        config = trained_config(folder)
        if config is None:
            file = folder / "config" / "config.yaml"
            config = what_counts(OmegaConf.to_container(OmegaConf.load(file), resolve=True))
        settings = dict(leaves(config))
        overrides: Any = OmegaConf.load(folder / OVERRIDES)
        record = finished(folder)
        best = None if record is None or record.score is None else float(record.score)
        return Run(
            folder,
            name,
            metrics,
            None if speed is None else float(speed),
            settings,
            given=set(overrides_by_key(map(str, overrides))),
            best=best,
            monitored=Monitored.of(config),
        )
    except DAMAGED as error:
        why = in_one_line(error)
        raise UserError(f"{folder} is not a whole run folder: {why}; leave it out") from error


def compare(runs: list[Run]) -> dict[str, list[Any]]:
    """The table's rows, with a value for each run, None where it has none: keys of the config that
    differ, the best and the last validation loss, the test's metrics, and tokens per second."""
    rows: dict[str, list[Any]] = {}
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: [run.settings.get(key) for run in runs] for key in keys}
    differ = [key for key in keys if any(value != values[key][0] for value in values[key])]
    # If another option of a group was chosen, its name says it all, except for what was typed.
    chosen = {key.partition(".")[0] for key in differ if key.count(".") == 1 and _is_name(key)}
    typed = {key for run in runs for key in run.given}
    for key in differ:
        if key.partition(".")[0] not in chosen or _is_name(key) or key in typed:
            rows[key] = values[key]
    tested = sorted({n for run in runs for n in run.metrics if n.startswith("test/")})
    for metric in dict.fromkeys(run.monitored.name for run in runs if run.best is not None):
        rows[f"best {metric}"] = [
            run.best if run.monitored.name == metric else None for run in runs
        ]
    for name in (SCORE, *tested):
        rows[name] = [run.metrics.get(name) for run in runs]
    rows["tokens per second"] = [run.tokens_per_second for run in runs]
    return rows


def _is_name(key: str) -> bool:
    return key.endswith(".name")


def show(runs: list[Run], rows: dict[str, list[Any]]) -> None:
    """Print the table: runs beside each other, or below each other if they are many."""
    console = Console()
    names = [run.name for run in runs]
    cells = {name: [_shown(name, value) for value in values] for name, values in rows.items()}
    if len(runs) <= WIDEST:
        header, lines = ["", *names], [[name, *values] for name, values in cells.items()]
    else:
        columns = zip(*cells.values(), strict=True)
        header = ["run", *cells]
        lines = [[name, *values] for name, values in zip(names, columns, strict=True)]
    if not console.is_terminal:
        console.width = max(console.width, 24 * len(header))
    table = Table(*map(escape, header))
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "tokens per second":
        return f"{value:,.0f}"
    if "/" in name:
        return f"{value:.4f}"
    if isinstance(value, float):
        return f"{value:g}"
    text = printable(str(value))
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def write_csv(file: Path, runs: list[Run], rows: dict[str, list[Any]]) -> None:
    """A row for each run."""
    with replacing(file) as draft, draft.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["run", *rows])
        columns = zip(*rows.values(), strict=True)
        writer.writerows([run.folder, *values] for run, values in zip(runs, columns, strict=True))


def draw(file: Path, runs: list[Run], rows: dict[str, list[Any]]) -> None:
    """Draw the validation loss of all runs over their optimiser steps, in one picture that grows
    with the names in it. Print which runs have no curve.

    Raises:
        UserError: there is no curve to draw.
    """
    curves = [_curve(run.folder / "metrics.csv") for run in runs]
    missing = ", ".join(run.name for run, curve in zip(runs, curves, strict=True) if not curve)
    if not any(curves):
        raise UserError(
            f"nothing to draw: no run has a {SCORE} that is a number in its metrics.csv (none is"
            " written with logger.csv=false)"
        )
    if missing:
        print(f"no curve of {printable(missing)}: no {SCORE} that is a number in metrics.csv")
    labels = _labels(runs, rows)
    longest = max(map(len, labels[:NAMED]))
    inside = len(runs) <= NAMED_INSIDE and longest <= LONGEST_INSIDE
    width, height = max(11.0, 7 + LETTER_INCHES * longest), max(5.0, min(len(runs), NAMED) / 4)
    figure, axes = new_figure(*(8, 5) if inside else (width, height))
    for index, (label, points) in enumerate(zip(labels, curves, strict=True)):
        if points and index < NAMED:
            row, place = divmod(index, len(COLOURS))
            style, colour = STYLES[row % len(STYLES)], COLOURS[place]
            axes.plot(*zip(*points, strict=True), style, color=colour, marker=".", label=label)
        elif points:
            axes.plot(*zip(*points, strict=True), color="lightgrey", zorder=1)
    over_steps(axes, "validation cross entropy (nats per target token)")
    if limits := _limits(curves):
        axes.set_ylim(*limits)
        highest = max(loss for curve in curves for loss in _numbers(curve))
        told = f"above the picture, at first: up to {highest:.3g}"
        axes.set_title(told, loc="left", fontsize="small")
    title = f"the best {NAMED} of {len(runs)}" if len(runs) > NAMED else None
    if inside:
        axes.legend(fontsize="small")
    else:
        figure.legend(loc="outside right upper", fontsize="small", title=title)
    save_figure(figure, file)


def _labels(runs: list[Run], rows: dict[str, list[Any]]) -> list[str]:
    """Each run's name, and its settings that differ if they are few. A long name keeps its ends."""
    half = LONGEST_SHOWN // 2
    settings = {key for run in runs for key in run.settings}
    differ = {key: values for key, values in rows.items() if key in settings}
    labels = []
    for index, run in enumerate(runs):
        cut = f"{run.name[:half]}...{run.name[-half:]}"
        name = run.name if len(run.name) <= len(cut) else cut
        values = ", ".join(f"{key}={_shown(key, differ[key][index])}" for key in differ)
        labels.append(literal(f"{name}: {values}" if 0 < len(differ) <= 2 else name))
    return labels


def _curve(metrics: Path) -> list[tuple[int, float]]:
    """Steps and losses; empty if no loss is a finite number."""
    rows = read_metrics(metrics)[1]
    curve = [(int(row["step"]), float(row[SCORE])) for row in rows if row.get(SCORE)]
    return curve if _numbers(curve) else []


def _numbers(curve: list[tuple[int, float]]) -> list[float]:
    return [loss for _, loss in curve if math.isfinite(loss)]


def _limits(curves: list[list[tuple[int, float]]]) -> tuple[float, float] | None:
    """The limits of the loss axis, if curves begin far above where they end; else None."""
    settled: list[float] = []
    for curve in filter(None, curves):
        steps = [step for step, _ in curve]
        start = steps[0] + (SETTLED * (steps[-1] - steps[0]) if len(curve) > FEW else 0)
        settled += _numbers([point for point in curve if point[0] >= start])
    losses = [loss for curve in curves for loss in _numbers(curve)]
    low, top = min(losses), max(settled, default=math.inf)
    if low == top or max(losses) - low < CUT_FROM * (top - low):
        return None
    margin = 0.05 * (top - low)
    return low - margin, top + margin


if __name__ == "__main__":
    sys.exit(main())
