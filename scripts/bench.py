"""Speed and memory, measured side by side: python scripts/bench.py KIND.

Each contestant runs in a process of its own, so that its allocator and its peak memory are its own.
They take turns, so that a machine that gets faster or slower affects all alike.
"""

import argparse
import json
import os
import platform
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks import answers, classify, data, decode, instruct, startup, train
from benchmarks.common import Contestant, positive
from benchmarks.report import costs, show, summaries
from benchmarks.rounds import in_own_process, take_turns

from gptlit.cli.arguments import printable
from gptlit.cli.entry import quiet_ctrl_c
from gptlit.cli.parser import Parser
from gptlit.errors import UserError
from gptlit.files import replacing
from gptlit.training.stopping import INTERRUPTED

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
"""Options that say how to measure; the others say what to measure."""
ENVIRONMENT = re.compile(r"(OMP|MKL|GPTLIT|TORCH|CUDA|PYTORCH)_\w+|LD_PRELOAD|ATEN_CPU_CAPABILITY")
"""Variables that may change a figure."""
OPTIONS = {"device": "device", "precision": "precision", "data.path": "data", "ckpt": "weights"}
"""Keys of the commands, and the options of this script for them."""


def main() -> int:
    """The exit code: 1 if a contestant failed, 2 if nothing can be measured with these options, 130
    after Ctrl-C."""
    quiet_ctrl_c()
    args = _arguments()
    try:
        if args.worker:
            measurement = KINDS[args.kind].CONTESTANTS[args.worker](args)
            print("\n" + json.dumps(asdict(measurement)))
            return 0
        report = _report(args)
        if report["contestants"]:
            show(report)
            if args.json:
                _write(args.json, report)
        elif report["interrupted"]:
            print("stopped before anything was measured", file=sys.stderr)
    except UserError as error:
        print(f"error: {printable(in_options(str(error)))}", file=sys.stderr)
        return 2
    if report["interrupted"]:
        return INTERRUPTED
    return int(any("error" in row for row in report["contestants"].values()))


def _report(args: argparse.Namespace) -> dict[str, Any]:
    """All rounds, their summary, and what is needed to repeat them.

    Raises:
        UserError: the options do not fit the machine, or the data.
    """
    from gptlit.device import device_name
    from gptlit.training.summary import git_commit, versions

    kind = KINDS[args.kind]
    report: dict[str, Any] = {
        "kind": args.kind,
        "command": shlex.join(sys.argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "device": device_name(kind.check(args)),
            "system": platform.platform(),
            "environment": {k: v for k, v in os.environ.items() if ENVIRONMENT.fullmatch(k)},
            "load_before": os.getloadavg()[0],
        },
        "versions": versions(),
        "git_commit": git_commit(),
        "options": {name: value for name, value in vars(args).items() if name not in RUNNING},
        "baseline": args.baseline,
    }
    if _has_transformers():
        report["versions"]["transformers"] = version("transformers")
    turns, report["interrupted"] = take_turns(args.contestants, args.rounds, in_own_process)
    report["machine"]["load_after"] = os.getloadavg()[0]
    results = {name: turns[name].measured for name in turns}
    figures = summaries(results, args.baseline)
    errors = {name: {"error": turns[name].error} for name in turns if turns[name].error}
    report["contestants"] = {
        name: figures.get(name, {}) | errors.get(name, {})
        for name in turns
        if name in figures or name in errors
    }
    report["costs"] = costs(results, kind.COSTS)
    return report


def _arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n", maxsplit=1)[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, kind in KINDS.items():
        sub = kinds.add_parser(
            name,
            help=kind.__doc__,
            description=kind.__doc__,
            epilog=told(kind.CONTESTANTS),
            formatter_class=_Help,
        )
        kind.add_arguments(sub)
        sub.add_argument("--rounds", type=positive, default=3, help="processes per contestant")
        sub.add_argument("--contestants", help=f"some of: {','.join(kind.CONTESTANTS)}")
        sub.add_argument("--baseline", help="whom the others are compared with")
        sub.add_argument("--json", type=Path, help="file for the figures of all rounds")
        sub.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.json and (why := _not_writable(args.json)):
        parser.error(f"--json {args.json}: {why}; give a file in a folder that exists")
    kind = KINDS[args.kind]
    names = [name for name in kind.CONTESTANTS if not _is_missing(name)]
    args.contestants = args.contestants.split(",") if args.contestants else names
    if unknown := [name for name in args.contestants if name not in kind.CONTESTANTS]:
        parser.error(f"no contestant {unknown[0]!r}; there are: {', '.join(kind.CONTESTANTS)}")
    if missing := [name for name in args.contestants if _is_missing(name)]:
        parser.error(f"{missing[0]!r} is not installed: pip install -e '.[test]', or leave it out")
    if not args.baseline:
        chosen = kind.BASELINE in args.contestants
        args.baseline = kind.BASELINE if chosen else args.contestants[-1]
    elif args.baseline not in args.contestants:
        parser.error(f"--baseline {args.baseline}: choose from {', '.join(args.contestants)}")
    return args


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Names defaults where there are any, and leaves lines as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def told(contestants: Mapping[str, Contestant]) -> str:
    """The docstrings of the contestants that have one."""
    docs = {
        name: " ".join((measure.__doc__ or "").split()) for name, measure in contestants.items()
    }
    lines = [fill(f"{name}: {docs[name]}", subsequent_indent="  ") for name in docs if docs[name]]
    return "\n".join(["contestants:", *lines]) if lines else ""


def _is_missing(contestant: str) -> bool:
    return contestant.startswith("transformers") and not _has_transformers()


def _has_transformers() -> bool:
    return find_spec("transformers") is not None


def in_options(message: str) -> str:
    """A message about a command's keys, such as data.path=, with the options of this script."""
    keys = "|".join(map(re.escape, OPTIONS))
    return re.sub(rf"(?<![\w.])({keys})=", lambda key: f"--{OPTIONS[key[1]]} ", message)


def _not_writable(path: Path) -> str | None:
    """Why a file cannot be written, as far as can be told in advance; None if nothing is wrong."""
    if path.is_dir():
        return "it is a folder"
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            return None
    except OSError as error:
        return error.strerror


def _write(path: Path, report: dict[str, Any]) -> None:
    try:
        with replacing(path) as draft:
            draft.write_text(json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write --json {path}: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())
