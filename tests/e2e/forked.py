"""Commands in forked processes of a program that has made the imports already, which would take
longer than what they have to do.

In all other respects they run as they would: the script, its main(), real file descriptors, a
folder of their own.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
LEAN = Path(__file__).parent / "lean"
"""On PYTHONPATH it hides what users need not have installed."""

MODULES = (
    *("gptlit.training.run", "gptlit.inference.api", "gptlit.data.labelled", "hydra.main"),
    *("gptlit.data.instructions", "gptlit.data.text", "gptlit.data.pydocs"),
    *(f"gptlit.cli.{name}" for name in ("train", "generate", "classify", "evaluate", "export")),
    *("gptlit.evaluation.perplexity", "gptlit.cli.answers", "matplotlib.backends.backend_pdf"),
)
IMPORTS_S = 120.0
"""The first command waits for them."""


def import_all() -> None:
    """What the commands would import."""
    from hydra.core.plugins import Plugins

    for module in MODULES:
        importlib.import_module(module)
    Plugins.instance()  # of Hydra, which it looks for in each command
    gc.freeze()  # a collection would write to all of it, and so copy it in each process


def become(
    script: str, args: list[str], cwd: Path, stdin: Path, out: Path, err: Path, **env: str
) -> int:
    """Be `python <script>.py args...` in this forked process, in a session of its own, to its end.

    Returns:
        the exit code, for the process to end with.
    """
    os.setsid()
    os.chdir(cwd)
    os.environ |= {"PWD": str(cwd), **env}
    for number, place in enumerate((stdin, out, err)):
        flags = os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY
        os.dup2(os.open(place, flags, 0o600), number)
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
    return code


class Starter:
    """The program that forks. It ends with the process that has it.

    Args:
        env: its environment, and that of the commands.
    """

    def __init__(self, env: dict[str, str]) -> None:
        path = os.pathsep.join(map(str, (ROOT, Path(__file__).parent, LEAN)))
        env = {**env, "PYTHONPATH": path, "GPTLIT_ALLOCATOR": "system"}  # which would start anew
        self._program = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, env=env)

    def start(
        self,
        script: str,
        *args: str,
        cwd: Path,
        stdin: Path | None = None,
        out: Path | None = None,
        err: Path,
        **env: str,
    ) -> "Forked":
        """Begin a command; where there is no file for what goes in or out, nothing does."""
        assert self._program.stdin is not None
        with tempfile.TemporaryDirectory() as folder:
            pipe = Path(folder) / "pipe"
            os.mkfifo(pipe)
            files = [str(stdin or os.devnull), str(out or os.devnull), str(err)]
            asked = {"script": script, "args": args, "cwd": str(cwd), "files": files, "env": env}
            self._program.stdin.write(json.dumps({"pipe": str(pipe), **asked}).encode() + b"\n")
            self._program.stdin.flush()
            said = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # or it would wait for the other side
            return Forked(os.fdopen(said))


class Forked:
    """A command that a `Starter` has started, with the methods of a `subprocess.Popen`.

    Args:
        said: its number, and once it has ended its exit code, each on a line.
    """

    def __init__(self, said: IO[str]) -> None:
        self._said = said
        self.pid = self._number(IMPORTS_S)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit code; that of a signal is negative."""
        if self.returncode is None:
            self.returncode = self._number(timeout)
            self._said.close()
        return self.returncode

    def _number(self, timeout: float) -> int:
        if not select.select([self._said], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a forked command", timeout)
        return int(self._said.readline())

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)


def main() -> None:
    """Start what stdin asks for, each watched by a process that says what became of it."""
    import_all()
    while line := sys.stdin.readline():
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            watch(**json.loads(line))
            os._exit(0)


def watch(
    *, pipe: str, script: str, args: list[str], cwd: str, files: list[str], env: dict[str, str]
) -> None:
    """Write into `pipe` the number of the command's process, then its exit code."""
    with Path(pipe).open("w", buffering=1) as said:
        pid = os.fork()
        if pid == 0:
            code = become(script, args, Path(cwd), *map(Path, files), **env)
            # What the interpreter does at its end, but for freeing what it shares with its parent.
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            os._exit(code)
        print(pid, file=said)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=said)


if __name__ == "__main__":
    main()
