"""Run corrupted command lines, each in a forked process of its own (see `forked`).

    python fuzz_worker.py WORLD RESULTS... < NUMBERS

There are as many workers as files for results. They share the pipe NUMBERS: the next number to run,
in two bytes. One line of JSON for each goes into the worker's file.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from forked import ROOT, become, import_all
from fuzzing import Command, corrupted

TRAINS_S = 2.0
"""CPU seconds after which a command is taken to be at work."""
HANGS_S = 240.0
"""Other work on the machine lengthens them."""
NUMBER_BYTES = 2
PAUSE_S = 0.02
MEMORY = 12 << 30
WITH_LIGHTNING = ("gptlit.training.run", "gptlit.data.module", "gptlit.tasks.base")
"""Through which commands import it."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    number: int
    code: int | None
    """None: it was still at work, and was ended."""
    cpu_s: float
    stdout: str
    stderr: str
    lightning: bool
    """Whether it came so far as to import Lightning."""


class Aside(MetaPathFinder, Loader):
    """Modules that have been imported, and are not there until somebody imports them again.

    Args:
        names: of the modules.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.modules = {name: sys.modules.pop(name) for name in names}
        self.mark: Path | None = None
        """A file that is made when one of them is imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in self.modules else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        if self.mark is not None:
            self.mark.touch()


def run(command: Command, world: Path, lightning: Aside) -> Outcome:
    """Run one command in a copy of the world."""
    # Below two folders more, so that `..` is a place of its own too.
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        work = Path(scratch) / "a" / "b"
        shutil.copytree(world, work, symlinks=True)
        out, err = Path(scratch) / "stdout", Path(scratch) / "stderr"
        lightning.mark = Path(scratch) / "lightning"
        pid = os.fork()
        if pid == 0:
            _be_the_command(command, work, out, err)
        code, cpu_s = _wait(pid)
        came_far = lightning.mark.exists()
        return Outcome(command.number, code, cpu_s, _text(out), _text(err), came_far)


def _be_the_command(command: Command, work: Path, out: Path, err: Path) -> NoReturn:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    env = {**os.environ, "GPTLIT_CACHE": str(work / "cache"), "HOME": str(work)}
    files = [os.open(os.devnull, os.O_RDONLY)]
    files += [os.open(path, os.O_WRONLY | os.O_CREAT, 0o600) for path in (out, err)]
    script = str(ROOT / f"{command.script}.py")
    os._exit(become([script, *command.args], work, files, env))


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
    world, *results = map(Path, sys.argv[1:])
    import_all()
    workers = []
    for result in results:
        workers.append(os.fork())
        if workers[-1] == 0:
            work(world, result)
            os._exit(0)
    codes = [os.waitpid(worker, 0)[1] for worker in workers]
    sys.exit(any(codes))


def work(world: Path, result: Path) -> None:
    """Run commands until there are no more."""
    lightning = Aside(WITH_LIGHTNING)
    sys.meta_path.insert(0, lightning)
    with result.open("w") as file:
        while number := os.read(sys.stdin.fileno(), NUMBER_BYTES):
            outcome = run(corrupted(int.from_bytes(number, "big")), world, lightning)
            file.write(json.dumps(asdict(outcome)) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
