"""Run corrupted command lines, each in a forked process of its own with the imports already made.

    python fuzz_worker.py WORLD RESULTS FIRST STEP LAST

In all other respects the commands run as they would: the script, its main(), real file descriptors,
a folder of their own. One line of JSON for each goes into the file RESULTS.
"""

import contextlib
import importlib
import json
import os
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import NoReturn

from commands import ROOT
from fuzzing import Command, corrupted

HEAVY = ("gptlit.training.run", "gptlit.inference.api", "gptlit.data.labelled")
MORE = ("gptlit.data.instructions", "gptlit.data.text", "gptlit.data.pydocs", "hydra.main")
TRAINS_S = 3.0
"""CPU seconds after which a command is taken to be at work."""
HANGS_S = 60.0
PAUSE_S = 0.02
MEMORY = 12 << 30


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    number: int
    code: int | None
    """None: it was still at work, and was ended."""
    cpu_s: float
    stdout: str
    stderr: str


def run(command: Command, world: Path) -> Outcome:
    """Run one command in a copy of the world."""
    # Below two folders more, so that `..` is a place of its own too.
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        work = Path(scratch) / "a" / "b"
        shutil.copytree(world, work, symlinks=True)
        out, err = Path(scratch) / "stdout", Path(scratch) / "stderr"
        pid = os.fork()
        if pid == 0:
            _be_the_command(command, work, out, err)
        code, cpu_s = _wait(pid)
        return Outcome(command.number, code, cpu_s, _text(out), _text(err))


def _be_the_command(command: Command, work: Path, out: Path, err: Path) -> NoReturn:
    os.setsid()
    os.chdir(work)
    os.environ |= {"GPTLIT_CACHE": str(work / "cache"), "HOME": str(work), "PWD": str(work)}
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        place = (Path(os.devnull), out, err)[number]
        os.dup2(os.open(place, flags | (os.O_CREAT if number else 0), 0o600), number)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    script = ROOT / f"{command.script}.py"
    sys.argv = [str(script), *command.args]
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    code = 0
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(pid: int) -> tuple[int | None, float]:
    """The exit code and CPU seconds; ends what takes too long."""
    killed = False
    for looks in count():  # a clock would go on while the machine is paused
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if not killed and (_cpu_s(pid) > TRAINS_S or looks * PAUSE_S > HANGS_S):
            os.killpg(pid, signal.SIGKILL)
            killed = True
        time.sleep(PAUSE_S)
    if not killed:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # whatever it has left behind
    code = None if killed else os.waitstatus_to_exitcode(status)
    return code, usage.ru_utime + usage.ru_stime


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "backslashreplace") if path.is_file() else ""


def main() -> None:
    """As the head of the file says."""
    world, results = Path(sys.argv[1]), Path(sys.argv[2])
    first, step, last = map(int, sys.argv[3:6])
    for module in (*HEAVY, *MORE):
        importlib.import_module(module)
    with results.open("w") as file:
        for number in range(first, last, step):
            outcome = run(corrupted(number), world)
            file.write(json.dumps(asdict(outcome)) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
