"""Seconds until a command answers, and until a module is there."""

import argparse
import subprocess
import sys
import time

from benchmarks.common import ROOT, Contestant, Measurement

BASELINE = "python"
COSTS: dict[str, tuple[str, str]] = {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There is nothing to set."""


def _command(*command: str, expected: int = 0) -> Contestant:
    """Wall time of `python COMMAND...` in the checkout."""

    def measure(_args: argparse.Namespace) -> Measurement:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode != expected:
            last = done.stderr.strip().rpartition("\n")[2]
            raise RuntimeError(f"exit code {done.returncode}: {last}")
        return Measurement(seconds, "s")

    return measure


CONTESTANTS: dict[str, Contestant] = {
    "python": _command("-c", "pass"),
    "import gptlit": _command("-c", "import gptlit"),
    "import gptlit.model": _command("-c", "import gptlit.model"),
    "import for training": _command(
        "-c", "import gptlit.training.run, gptlit.tasks.pretrain, gptlit.data.pydocs"
    ),
    "train.py --help": _command("train.py", "--help"),
    "train.py modle=x": _command("train.py", "modle=x", expected=2),
    "generate.py --help": _command("generate.py", "--help"),
}
