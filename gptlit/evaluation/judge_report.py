"""What a judge says of answers: figures, the result file, tables and a histogram."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptlit.errors import visible, visible_line
from gptlit.evaluation.answers import ANSWER
from gptlit.figures import new_figure, save_figure, set_title

PLACES = {"instruction": "instruction", "input": "input", "output": "output", "response": ANSWER}
"""Placeholders of a prompt, and the key of an entry that fills each."""
N_WORST = 5
"""How many of the worst answers are shown."""


def judged_texts(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of an entry that are judged; one that is missing or null is empty."""
    return {name: entry.get(name) or "" for name in PLACES.values()}


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one answer."""

    score: int | None
    """From 0 to 100; None if there is no score."""
    reason: str = ""
    """Why there is no score."""


@dataclass(frozen=True)
class JudgeReport:
    """What the judge says of all answers."""

    judge: str
    """Name of the protocol."""
    model: str
    """The model that judged."""
    entries: Sequence[Mapping[str, Any]]
    """What was judged."""
    verdicts: Sequence[Verdict]
    """One for each entry."""

    @property
    def scores(self) -> list[int]:
        """The scores that there are, in the order of the entries."""
        return [v.score for v in self.verdicts if v.score is not None]

    @property
    def mean(self) -> float | None:
        """Over the scores that there are."""
        return fmean(self.scores) if self.scores else None

    @property
    def median(self) -> float | None:
        """Over the scores that there are."""
        return float(median(self.scores)) if self.scores else None

    @property
    def histogram(self) -> dict[str, int]:
        """Scores in each ten: "0-9", "10-19" and so on; the last is "90-100"."""
        counts = [0] * 10
        for score in self.scores:
            counts[min(score // 10, 9)] += 1
        return {f"{i * 10}-{i * 10 + (9 if i < 9 else 10)}": n for i, n in enumerate(counts)}

    @property
    def worst(self) -> list[int]:
        """Indices of the entries with the lowest scores, the lowest first."""
        places = [i for i, v in enumerate(self.verdicts) if v.score is not None]
        return sorted(places, key=lambda i: self.verdicts[i].score or 0)[:N_WORST]

    def to_dict(self) -> dict[str, Any]:
        """The contents of the result file; the same for the same verdicts."""
        return {
            "judge": self.judge,
            "model": self.model,
            "mean": self.mean,
            "median": self.median,
            "scored": len(self.scores),
            "unscored": len(self.verdicts) - len(self.scores),
            "histogram": self.histogram,
            "worst": [
                {"entry": i, "score": self.verdicts[i].score, **judged_texts(self.entries[i])}
                for i in self.worst
            ],
            "scores": [
                {"entry": i, "score": v.score, **({"reason": v.reason} if v.reason else {})}
                for i, v in enumerate(self.verdicts)
            ],
        }


def print_report(report: JudgeReport, console: Console | None = None) -> None:
    """Print the figures, the histogram and the worst answers as tables.

    Args:
        report: of a judge.
        console: default: standard output.
    """
    console = console or Console()
    n_unscored = len(report.verdicts) - len(report.scores)
    # As Text here and below, in which brackets are no markup.
    facts = Table(title=Text(f"Scores by {report.model} ({report.judge})"), show_header=False)
    facts.add_row("answers", f"{len(report.verdicts):,}: {len(report.scores):,} scored")
    facts.add_row("mean", "none" if report.mean is None else f"{report.mean:.1f} of 100")
    facts.add_row("median", "none" if report.median is None else f"{report.median:g} of 100")
    most = max(report.histogram.values()) or 1
    for ten, count in report.histogram.items():
        facts.add_row(ten, f"{'█' * round(30 * count / most)} {count}".strip())
    facts.add_row("unscored", str(n_unscored))
    console.print(facts)
    if report.worst:
        worst = Table("entry", "score", "instruction", "answer", title="Lowest scores")
        for i in report.worst:
            texts = judged_texts(report.entries[i])
            shown = (str(i), str(report.verdicts[i].score), texts["instruction"], texts[ANSWER])
            worst.add_row(*(Text(_short(str(text))) for text in shown))
        console.print(worst)
    if n_unscored:
        unscored = Table("entry", "why there is no score", title="Unscored")
        rows = [(i, v.reason) for i, v in enumerate(report.verdicts) if v.score is None]
        for i, reason in rows[:N_WORST]:
            unscored.add_row(str(i), Text(visible(reason)))
        if n_unscored > N_WORST:
            unscored.add_row("…", f"and {n_unscored - N_WORST} more, in the result file")
        console.print(unscored)


def _short(text: str) -> str:
    """The beginning of a text, in one line."""
    text = visible_line(text)
    return text if len(text) <= 120 else text[:119] + "…"


def plot_scores(report: JudgeReport, path: Path) -> None:
    """Draw the histogram of the scores.

    Args:
        report: of a judge.
        path: the PNG file to write, in a folder that exists.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(6, 4)
    axes.bar(list(report.histogram), list(report.histogram.values()), width=0.9)
    title = f"{len(report.scores)} of {len(report.verdicts)} answers scored by {report.model}"
    set_title(figure, title)
    axes.set(xlabel="score (0 to 100)", ylabel="number of answers")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="x", labelrotation=45)
    if report.mean is not None:
        axes.axvline(report.mean / 10 - 0.5, color="black", linestyle="--", label="mean")
        axes.legend()
    save_figure(figure, path)
