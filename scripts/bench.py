"""Speed and memory, measured side by side: python scripts/bench.py KIND.

Each contestant runs in a process of its own, so that its allocator and its peak memory are its
own, and they take turns, so that a machine that drifts hits all alike.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import answers, classify, data, decode, instruct, startup, train
from benchmarks.common import Measurement, positive, resolved
from rich.console import Console
from rich.table import Column, Table

KINDS = {
    "train": train,
    "classify": classify,
    "instruct": instruct,
    "decode": decode,
    "answers": answers,
    "data": data,
    "startup": startup,
}
RUNNING = ("kind", "rounds", "json", "contestants", "baseline", "worker")
"""Options of the measuring; the others say what is measured."""


def main() -> int:
    """The exit code: 1 if a contestant failed."""
    args = _arguments()
    if args.worker:
        measurement = KINDS[args.kind].CONTESTANTS[args.worker](args)
        print("\n" + json.dumps(asdict(measurement)))
        return 0
    report: dict[str, Any] = {
        "kind": args.kind,
        "machine": _machine(args),
        "options": {name: value for name, value in vars(args).items() if name not in RUNNING},
        "baseline": args.baseline,
    }
    results, errors = _take_turns(args)
    report["machine"]["load_after"] = os.getloadavg()[0]
    peak = max((m.peak_flops or 0 for rounds in results.values() for m in rounds), default=0)
    report["contestants"] = {
        name: _summary(results[name], results.get(args.baseline), peak)
        if name in results
        else {"error": errors[name]}
        for name in args.contestants
    }
    report["costs"] = {
        label: {name: ratio - 1 for name, ratio in _ratios(results[plain], results[ours]).items()}
        for label, (ours, plain) in KINDS[args.kind].COSTS.items()
        if plain in results and ours in results
    }
    _show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if errors else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, kind in KINDS.items():
        sub = kinds.add_parser(
            name, help=kind.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        kind.add_arguments(sub)
        sub.add_argument("--rounds", type=positive, default=3, help="processes per contestant")
        sub.add_argument("--contestants", help=f"some of: {','.join(kind.CONTESTANTS)}")
        sub.add_argument("--baseline", help="whom the others are compared with")
        sub.add_argument("--json", type=Path, help="file for the figures of all rounds")
        sub.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: give a file in a folder that exists")
    kind = KINDS[args.kind]
    names = [
        name
        for name in kind.CONTESTANTS
        if not name.startswith("transformers") or _has_transformers()
    ]
    args.contestants = args.contestants.split(",") if args.contestants else names
    if unknown := [name for name in args.contestants if name not in kind.CONTESTANTS]:
        parser.error(f"no contestant {unknown[0]!r}; there are: {', '.join(kind.CONTESTANTS)}")
    if not args.baseline:
        chosen = kind.BASELINE in args.contestants
        args.baseline = kind.BASELINE if chosen else args.contestants[-1]
    elif args.baseline not in args.contestants:
        parser.error(f"--baseline {args.baseline}: choose from {', '.join(args.contestants)}")
    return args


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on, besides the options."""
    import torch

    from gptlit.device import device_name
    from gptlit.errors import UserError

    try:
        device = resolved(args)[0] if "device" in args else "cpu"
    except UserError as error:
        sys.exit(f"error: {error}")
    return {
        "device": device_name(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers") if _has_transformers() else None,
        "load_before": os.getloadavg()[0],
    }


def _has_transformers() -> bool:
    return find_spec("transformers") is not None


def _take_turns(
    args: argparse.Namespace,
) -> tuple[dict[str, list[Measurement]], dict[str, str]]:
    """Measurements of each contestant that never failed, by rounds; errors of the others."""
    results: dict[str, list[Measurement]] = {name: [] for name in args.contestants}
    errors: dict[str, str] = {}
    for round_ in range(1, args.rounds + 1):
        for name in list(results):
            try:
                results[name].append(_run(name))
                newest = results[name][-1]
                said = f"{_figure(newest.value, newest.unit)} {newest.unit}"
                said += f", {newest.note}" if newest.note else ""
                said += f", others on {newest.others_cores:.2f} cores"
            except RuntimeError as error:
                del results[name]
                said = errors[name] = str(error)
            print(f"round {round_}/{args.rounds}: {name}: {said}", file=sys.stderr)
    return results, errors


def _run(name: str) -> Measurement:
    """One contestant in a process of its own.

    Raises:
        RuntimeError: it failed; the message is its last line.
    """
    env = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    others, start = _others_seconds(), time.monotonic()
    done = subprocess.run(
        [sys.executable, *sys.argv, "--worker", name],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(last or f"exit code {done.returncode}")
    cores = (_others_seconds() - others) / (time.monotonic() - start)
    measurement = Measurement(**json.loads(done.stdout.splitlines()[-1]))
    return replace(measurement, others_cores=round(max(cores, 0.0), 2))


def _others_seconds() -> float:
    """CPU time of all processes but this one and its children; 0 where there is no /proc/stat."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    user, nice, system, _idle, _wait, *rest = map(int, path.read_text().split()[1:9])
    ours = sum(os.times()[:4])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - ours


def _summary(
    rounds: list[Measurement], baseline: list[Measurement] | None, peak: float
) -> dict[str, Any]:
    """A contestant's figures over all rounds, compared with a baseline of the same unit.

    MFU is of the highest peak that any process saw: where it is measured, a busy machine
    lowers it.
    """
    values = [m.value for m in rounds]
    flops = [m.flops for m in rounds if m.flops is not None]
    memory = [m.memory_gb for m in rounds if m.memory_gb is not None]
    comparable = baseline is not None and baseline[0].unit == rounds[0].unit
    return {
        "unit": rounds[0].unit,
        "precision": rounds[0].precision,
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "mfu": statistics.median(flops) / peak if flops else None,
        "memory_gb": max(memory) if memory else None,
        "others_cores": statistics.median(m.others_cores for m in rounds),
        "ratio": _ratios(rounds, baseline) if baseline and comparable else None,
        "rounds": [asdict(m) for m in rounds],
    }


def _ratios(ours: list[Measurement], theirs: list[Measurement]) -> dict[str, float]:
    """How many times theirs ours is."""
    pairs = zip(ours, theirs, strict=True)
    medians = [statistics.median(m.value for m in rounds) for rounds in (ours, theirs)]
    return {
        "of_medians": medians[0] / medians[1],
        "by_rounds": statistics.median(a.value / b.value for a, b in pairs),
    }


def _show(report: dict[str, Any]) -> None:
    """The report as a table, without the columns that this kind has no figures for."""
    machine, options, against = report["machine"], report["options"], report["baseline"]
    console = Console(highlight=False)
    console.width = max(console.width, 140)
    versions = (f"{name} {machine[name]}" for name in ("python", "torch", "transformers"))
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


def _cells(row: dict[str, Any], against: str) -> dict[str, str]:
    """A row of the table, by column."""
    unit, ratio = row.get("unit", ""), row.get("ratio") or {}
    return {
        "precision": row.get("precision") or "",
        **{name: _figure(row.get(name), unit) for name in ("median", "min", "max")},
        "unit": unit,
        "MFU": _figure(row.get("mfu"), "%"),
        "peak GB": _figure(row.get("memory_gb"), "GB"),
        f"/ {against}": _figure(ratio.get("of_medians"), "x"),
        "by rounds": _figure(ratio.get("by_rounds"), "x"),
        "others' cores": _figure(row.get("others_cores"), "cores"),
        "failed": row.get("error", ""),
    }


def _figure(value: float | None, unit: str) -> str:
    """A number with as many digits as mean something."""
    if value is None:
        return ""
    if unit == "%":
        return f"{value:.1%}"
    if unit in ("x", "s", "GB", "cores"):
        return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
