"""The book's table of what changes a spam detector, row by row: python scripts/ablation.py.

The table is in the book's repository, https://github.com/rasbt/LLMs-from-scratch, under
ch06/02_bonus_additional-experiments. Left out are its rows about padding, and those that train more
of GPT-2 xl than the last block.

Each row is a run of train.py. A finished run is reused and an interrupted one resumed, so that the
same command goes on with an interrupted table. Rows that start from published weights say so if
these cannot be had.
"""

import argparse
import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from interrupts import noted_interrupts
from rich.console import Console
from rich.table import Table

from gptlit.cli.arguments import quoted
from gptlit.cli.entry import quiet_ctrl_c
from gptlit.cli.parser import Parser
from gptlit.figures import new_figure, save_figure
from gptlit.files import replacing
from gptlit.training.stopping import INTERRUPTED

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
SPLITS = ("train", "val", "test")
CHANCE = 50
"""Accuracy, in per cent, without a look at the messages; the plot begins there unless a row is
worse."""
OURS = ("task", "output_root", "hydra.run.dir", "skip_if_trained", "resume")
"""Keys that this script gives for every row."""
SAME_RUN, OTHER_RUN = "add resume=auto", "run of another config"
"""What train.py says about a folder whose run has not finished, or has another config."""


class Row(NamedTuple):
    """A row of the book's appendix table, and the overrides that reproduce it here."""

    number: str
    change: str
    overrides: tuple[str, ...]
    published: tuple[float, float, float]
    """The book's accuracy in per cent on the training, validation and test split, on one A100. NaN
    if the book's figure is not a whole number of its 149 validation messages."""


ROWS = (
    Row("1", "none: last token, last block", (), (96.63, 99.33, 95.00)),
    Row("2", "first token", ("task.pool=first",), (78.46, 80.54, 75.00)),
    Row("3", "head only", ("task.trainable=head",), (78.65, 79.87, 72.00)),
    Row("4", "last two blocks", ("task.trainable=last_2_blocks",), (98.85, 98.66, 98.33)),
    Row("5", "all layers", ("task.trainable=all",), (99.62, 96.64, 96.67)),
    Row("6", "GPT-2 medium", ("model=gpt2-medium",), (87.50, 91.28, 84.67)),
    Row("7", "GPT-2 large", ("model=gpt2-large",), (99.52, 98.66, 96.67)),
    Row("8", "GPT-2 xl", ("model=gpt2-xl",), (99.81, float("nan"), 98.33)),
    Row("10", "random weights, all layers", ("weights=none", "task.trainable=all"),
        (100.0, 96.64, 93.67)),
    Row("11", "LoRA, rank 16, alpha 16", ("task.trainable=lora",), (100.0, 97.32, 96.67)),
    Row("17", "no causal mask", ("task.causal=false",), (99.23, 98.66, 95.33)),
    Row("19", "mean of the tokens", ("task.pool=mean",), (97.79, 99.33, 96.33)),
)  # fmt: skip
"""Rows 1 and 16 of the book are one here: the last token is the last real one, and padding, row
13, is never looked at."""


def main() -> int:
    """The exit code: 1 if a row failed, 130 after Ctrl-C."""
    quiet_ctrl_c()
    args = _arguments()
    results = []
    with noted_interrupts() as interrupts:
        for row in ROWS:
            if args.rows and row.number not in args.rows:
                continue
            print(f"row {row.number}: {row.change}", file=sys.stderr, flush=True)
            results.append((row, _run(row, args)))
            if interrupts:
                break
    _write_table(args.out / "ablation.csv", results)
    _plot(args.out / "ablation.png", results)
    if interrupts:
        print("stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return int(any("error" in found for _, found in results))


def _arguments() -> argparse.Namespace:
    parser = Parser(description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/ablation"),
        help="folder of the runs and the table",
    )
    parser.add_argument("--rows", nargs="*", default=[], help="numbers of rows; default: all")
    parser.add_argument(
        "overrides", nargs="*", help="for every row, such as data.path=FILE model=gpt2-nano"
    )
    args = parser.parse_intermixed_args()
    known = [row.number for row in ROWS]
    if unknown := [number for number in args.rows if number not in known]:
        hint = ", and -- stands between rows and overrides" if "=" in unknown[0] else ""
        parser.error(f"there is no row {unknown[0]}; there are {', '.join(known)}{hint}")
    for override in args.overrides:
        if override.startswith("-") or "=" not in override:
            parser.error(f"{override} is no override: give key=value")
        if _key(override) in OURS:
            parser.error(f"{override}: leave it out, each row has its own {_key(override)}")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {args.out}: {error.strerror}; give another folder")
    return args


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _run(row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """The run's summary, or `error`."""
    folder = args.out / f"row-{row.number}"
    error = _train(row, args, folder)
    if SAME_RUN in error:  # it was stopped
        error = _train(row, args, folder, "resume=auto")
    if error:
        if OTHER_RUN in error:
            error = f"{folder} holds a run with other settings: give another --out, or delete it"
        print(f"row {row.number} failed: {error}", file=sys.stderr)
        return {"error": error}
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def _train(row: Row, args: argparse.Namespace, folder: Path, *more: str) -> str:
    """Run train.py; returns the last line of its errors, if it fails."""
    # Only runs that were trained for this table count, not those in other folders.
    places = [f"output_root={quoted(str(args.out))}", f"hydra.run.dir={quoted(str(folder))}"]
    fixed = ["task=classification", *places, "skip_if_trained=true", *more]
    given = {_key(override) for override in row.overrides}
    common = [override for override in args.overrides if _key(override) not in given]
    command = [sys.executable, str(TRAIN), *fixed, *common, *row.overrides]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if not done.returncode:
        return ""
    last = done.stderr.strip().rpartition("\n")[2].removeprefix("error: ")
    return last or f"exit code {done.returncode}"


def _accuracies(found: dict[str, Any]) -> list[float | None]:
    """The accuracy in per cent on each split; None where it was not measured."""
    accuracies = (found.get("metrics", {}).get(f"{split}/accuracy") for split in SPLITS)
    return [None if accuracy is None else 100 * accuracy for accuracy in accuracies]


def _write_table(path: Path, results: list[tuple[Row, dict[str, Any]]]) -> None:
    header = ["row", "change", "train", "validation", "test", "minutes"]
    table = Table(*header, "the book: train", "validation", "test", title="accuracy, per cent")
    with replacing(path) as draft, draft.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "book train", "book validation", "book test", "error"])
        for row, found in results:
            ours = ["" if a is None else f"{a:.2f}" for a in _accuracies(found)]
            minutes = f"{found['seconds'] / 60:.2f}" if "seconds" in found else ""
            book = ["" if math.isnan(a) else f"{a:.2f}" for a in row.published]
            cells = [row.number, row.change, *ours, minutes, *book]
            writer.writerow([*cells, found.get("error", "")])
            table.add_row(*cells)
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
    for row, found in results:
        if "error" in found:
            console.print(f"row {row.number}: {found['error']}", highlight=False, markup=False)
    console.print(f"{path}, {path.with_suffix('.png')}", highlight=False, markup=False)


def _plot(path: Path, results: list[tuple[Row, dict[str, Any]]]) -> None:
    figure, axes = new_figure(8, 0.45 * len(results) + 1.8)
    lowest: float = CHANCE
    for place, (row, found) in enumerate(results):
        test = _accuracies(found)[2]
        lowest = min(lowest, CHANCE if test is None else test // 10 * 10)
        if test is not None:
            axes.barh(place - 0.2, test, 0.4, color="tab:blue", label="here")
        axes.barh(place + 0.2, row.published[2], 0.4, color="tab:gray", label="the book")
    labels = [f"{row.number}: {row.change}" for row, _ in results]
    axes.set_yticks(range(len(results)), labels)
    axes.invert_yaxis()
    axes.set(
        xlabel="test accuracy (per cent)", xlim=(lowest, 100), title="What changes the classifier"
    )
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
