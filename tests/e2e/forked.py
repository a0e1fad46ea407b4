"""Commands in forked processes of a program that has made the imports already, which would take
longer than what they have to do.

In all other respects they run as they would: the script, its main(), real file descriptors, a
folder of their own.
"""

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from commands import LEAN, ROOT

MODULES = (
    *("gptlit.training.run", "gptlit.inference.api", "gptlit.data.labelled", "hydra.main"),
    *("gptlit.data.instructions", "gptlit.data.text", "gptlit.data.pydocs"),
)


def import_all() -> None:
    """What the commands would import."""
    for module in MODULES:
        importlib.import_module(module)


def become(script: str, args: list[str], cwd: Path, out: Path, err: Path, **env: str) -> NoReturn:
    """Turn this forked process into `python <script>.py args...`, in a session of its own."""
    os.setsid()
    os.chdir(cwd)
    os.environ |= {"PWD": str(cwd), **env}
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        place = (Path(os.devnull), out, err)[number]
        os.dup2(os.open(place, flags | (os.O_CREAT if number else 0), 0o600), number)
    path = ROOT / f"{script}.py"
    sys.argv = [str(path), *args]
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    code = 0
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Starter:
    """The program that forks; one command at a time.

    Args:
        env: its environment, and that of the commands.
    """

    def __init__(self, env: dict[str, str]) -> None:
        path = os.pathsep.join(map(str, (ROOT, Path(__file__).parent, LEAN)))
        env = {**env, "PYTHONPATH": path, "GPTLIT_ALLOCATOR": "system"}  # which would start anew
        self._program = subprocess.Popen(
            [sys.executable, __file__],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
        )

    def start(self, script: str, *args: str, cwd: Path, err: Path, **env: str) -> "Forked":
        """Begin a command. What it says on stdout is lost."""
        assert self._program.stdin is not None and self._program.stdout is not None
        asked = {"script": script, "args": args, "cwd": str(cwd), "err": str(err), "env": env}
        self._program.stdin.write(json.dumps(asked).encode() + b"\n")
        return Forked(int(self._program.stdout.readline()), self._program.stdout)

    def close(self) -> None:
        """End the program, once its command has ended."""
        self._program.communicate()


class Forked:
    """A command that a `Starter` has started, with the methods of a `subprocess.Popen`."""

    def __init__(self, pid: int, answers: Any) -> None:
        self.pid, self._answers = pid, answers
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit code; that of a signal is negative."""
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            self.returncode = int(self._answers.readline())
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)


def main() -> None:
    """Start what stdin asks for; write the number of its process, then its exit code."""
    import_all()
    while line := sys.stdin.readline():
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            cwd, err = Path(asked["cwd"]), Path(asked["err"])
            become(asked["script"], asked["args"], cwd, Path(os.devnull), err, **asked["env"])
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
