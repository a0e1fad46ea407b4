"""The summary of all rounds: medians, ratios, a table."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from benchmarks.common import Measurement

Rounds = Sequence[Measurement]


def summaries(results: Mapping[str, Rounds], against: str) -> dict[str, dict[str, Any]]:
    """The figures of each contestant that was measured, compared with the one `against`.

    MFU is relative to the highest peak that any process found for the precision, since a busy
    machine lowers a peak that is measured.
    """
    peaks: dict[str | None, float] = {}
    for m in (m for rounds in results.values() for m in rounds):
        peaks[m.precision] = max(m.peak_flops or 0, peaks.get(m.precision, 0))
    baseline = results.get(against, ())
    return {
        name: _summary(rounds, baseline, peaks[rounds[0].precision])
        for name, rounds in results.items()
        if rounds
    }


def _summary(rounds: Rounds, baseline: Rounds, peak: float) -> dict[str, Any]:
    values = [m.value for m in rounds]
    flops = [m.flops for m in rounds if m.flops is not None]
    memory = [m.memory_gb for m in rounds if m.memory_gb is not None]
    comparable = baseline and baseline[0].unit == rounds[0].unit
    return {
        "unit": rounds[0].unit,
        "precision": rounds[0].precision,
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "mfu": statistics.median(flops) / peak if flops else None,
        "memory_gb": max(memory) if memory else None,
        "others_cores": statistics.median(m.others_cores for m in rounds),
        "ratio": ratios(rounds, baseline) if comparable else None,
        "rounds": [asdict(m) for m in rounds],
    }


def costs(
    results: Mapping[str, Rounds], pairs: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, float]]:
    """How much more time our contestant takes than a plain one, for each pair of them; both measure
    rates."""
    return {
        label: {name: r - 1 for name, r in ratios(results[plain], results[ours]).items()}
        for label, (ours, plain) in pairs.items()
        if results.get(plain) and results.get(ours)
    }


def ratios(ours: Rounds, theirs: Rounds) -> dict[str, float]:
    """Our values divided by theirs, in the rounds that both have."""
    pairs = list(zip(ours, theirs, strict=False))
    medians = [statistics.median(m.value for m in rounds) for rounds in zip(*pairs, strict=True)]
    return {
        "of_medians": medians[0] / medians[1],
        "by_rounds": statistics.median(a.value / b.value for a, b in pairs),
    }


def show(report: dict[str, Any]) -> None:
    """Print the report as a table, without the columns that this kind has no figures for."""
    machine, options, against = report["machine"], report["options"], report["baseline"]
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 140)
    shown = ("python", "torch", "transformers")
    versions = (f"{name} {report['versions'].get(name)}" for name in shown)
    load = f"load {machine['load_before']:.1f} to {machine['load_after']:.1f}"
    console.print(", ".join((machine["device"], *versions, load)))
    if options:
        console.print(", ".join(f"{name}={value}" for name, value in options.items()))
    rows = {name: _cells(row, against) for name, row in report["contestants"].items()}
    titles = [title for title in _cells({}, against) if any(row[title] for row in rows.values())]
    table = Table(Column("contestant", no_wrap=True))
    for title in titles:
        table.add_column(title, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(row[title] for title in titles))
    console.print(table)
    for label, cost in report["costs"].items():
        of_medians, by_rounds = cost["of_medians"], cost["by_rounds"]
        console.print(f"{label}: {of_medians:+.1%} of the medians, {by_rounds:+.1%} by rounds")
    if report["interrupted"]:
        console.print("stopped by Ctrl-C: these are the rounds until then")


def _cells(row: dict[str, Any], against: str) -> dict[str, str]:
    """A row of the table, by column."""
    unit, ratio = row.get("unit", ""), row.get("ratio") or {}
    return {
        "precision": row.get("precision") or "",
        **{name: figure(row.get(name), unit) for name in ("median", "min", "max")},
        "unit": unit,
        "MFU": figure(row.get("mfu"), "%"),
        "peak GB": figure(row.get("memory_gb"), "GB"),
        f"/ {against}": figure(ratio.get("of_medians"), "x"),
        "by rounds": figure(ratio.get("by_rounds"), "x"),
        "others' cores": figure(row.get("others_cores"), "cores"),
        "failed": row.get("error", ""),
    }


def figure(value: float | None, unit: str) -> str:
    """A number with as many digits as are meaningful for its unit."""
    if value is None:
        return ""
    if unit == "%":
        return f"{value:.1%}"
    if unit in ("x", "s", "GB", "cores"):
        return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
