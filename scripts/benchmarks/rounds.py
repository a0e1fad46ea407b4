"""Contestants that take turns, each time in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from interrupts import noted_interrupts

from benchmarks.common import Measurement
from benchmarks.report import figure


@dataclass
class Turns:
    """The results of one contestant."""

    measured: list[Measurement] = field(default_factory=list)
    """One for each round."""
    error: str = ""
    """Why it has no more turns."""


def take_turns(
    names: Iterable[str], rounds: int, measure: Callable[[str], Measurement]
) -> tuple[dict[str, Turns], bool]:
    """All rounds of all contestants; a contestant that fails gets no more turns.

    Returns:
        the results of each contestant, and whether Ctrl-C came before the end.
    """
    results = {name: Turns() for name in names}
    with noted_interrupts() as interrupts:
        for round_ in range(1, rounds + 1):
            for name, turns in results.items():
                if turns.error:
                    continue
                try:
                    newest = measure(name)
                    turns.measured.append(newest)
                    said = _told(newest)
                except RuntimeError as error:
                    if interrupts:
                        return results, True
                    said = turns.error = str(error)
                print(f"round {round_}/{rounds}: {name}: {said}", file=sys.stderr)
                if interrupts:
                    return results, True
    return results, False


def _told(measurement: Measurement) -> str:
    said = f"{figure(measurement.value, measurement.unit)} {measurement.unit}"
    said += f", {measurement.note}" if measurement.note else ""
    return f"{said}, others on {measurement.others_cores:.2f} cores"


def in_own_process(name: str) -> Measurement:
    """One contestant, measured by this command's worker.

    Raises:
        RuntimeError: it failed; the message says why.
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
        raise RuntimeError(why_failed(done.returncode, done.stderr))
    cores = (_others_seconds() - others) / (time.monotonic() - start)
    measurement = Measurement(**json.loads(done.stdout.splitlines()[-1]))
    return replace(measurement, others_cores=round(max(cores, 0.0), 2))


def why_failed(code: int, stderr: str) -> str:
    """One line about a process that has ended with an exit code other than 0."""
    if code < 0:  # its last output, if any, does not say why
        memory = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{memory}"
    last = stderr.strip().rpartition("\n")[2]
    return last.removeprefix("error: ") or f"exit code {code}"


def _others_seconds() -> float:
    """CPU time of all processes but this one and its children; 0 where there is no /proc/stat."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    user, nice, system, _idle, _wait, *rest = map(int, path.read_text().split()[1:9])
    ours = sum(os.times()[:4])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - ours
