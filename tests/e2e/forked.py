"""Commands in forked processes of a program that has made the imports already, which would take
longer than what they have to do.

In all other respects they run as they would: the script, its main(), real file descriptors, a
folder of their own. What they start with `sys.executable` is forked too, where it can be.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

import forked_python

ROOT = Path(__file__).parents[2]
LEAN = Path(__file__).parent / "lean"
"""On PYTHONPATH it hides what users need not have installed."""

MODULES = (
    *("gptlit.training.run", "gptlit.inference.api", "gptlit.data.labelled", "hydra.main"),
    *("gptlit.data.instructions", "gptlit.data.text", "gptlit.data.pydocs"),
    *(f"gptlit.cli.{name}" for name in ("train", "generate", "classify", "evaluate", "export")),
    *("gptlit.evaluation.perplexity", "gptlit.cli.answers", "matplotlib.backends.backend_pdf"),
)
IMPORTS_S = 300.0
"""The first command waits for them."""
DRAW = "DRAW"
"""Environment variable: pictures are drawn only where it is set. They take a short run a third of
its time; otherwise their files are empty."""


def import_all() -> None:
    """What the commands would import, and what they would then read each time."""
    from hydra.core.plugins import Plugins

    from gptlit.tokenizer import get_tokenizer

    for module in MODULES:
        importlib.import_module(module)
    Plugins.instance()  # of Hydra, which it looks for in each command
    get_tokenizer("gpt2")
    gc.freeze()  # a collection would write to all of it, and so copy it in each process


def become(args: Sequence[str], cwd: str | Path, files: Sequence[int], env: dict[str, str]) -> int:
    """Be `python args...` in this forked process, in a session of its own, to its end.

    Args:
        args: a script, or -m and a module, and what follows.
        cwd: the folder to run in.
        files: descriptors of what are to be its stdin, stdout and stderr; they are closed.
        env: the environment.

    Returns:
        the exit code, for the process to end with.
    """
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ |= {**env, "PWD": str(cwd), "GPTLIT_ALLOCATOR": "system"}  # or it would start anew
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.path[1:1] = [p for p in env["PYTHONPATH"].split(os.pathsep) if p not in sys.path]
    _number_this_process()
    if DRAW not in env:
        _draw_nothing()
    code = 0
    try:
        _run(*args)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _run(first: str, *rest: str) -> None:
    if first == "-m":
        module, *args = rest
        sys.argv, sys.path[0] = [module, *args], str(Path.cwd())
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


def _number_this_process() -> None:
    """Tell Lightning its place among the processes of a run, which it asks for when imported."""
    from lightning.fabric.utilities import rank_zero

    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0


def _draw_nothing() -> None:
    from matplotlib.figure import Figure

    def save(self: Figure, path: str | Path, **_: object) -> None:
        Path(path).touch()

    Figure.savefig = save  # type: ignore[assignment]
    Figure.get_layout_engine = lambda self: None  # type: ignore[method-assign]


class Starter:
    """The program that forks. It ends with the process that has it.

    Args:
        env: its environment, and that of the commands.
        within: a command that starts another one, which it is started with.
    """

    def __init__(self, env: dict[str, str], within: Sequence[str] = ()) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        name = self._folder.name
        path = os.pathsep.join(map(str, (ROOT, Path(__file__).parent, LEAN)))
        self._env = {**env, "PYTHONPATH": path}
        self.python = Path(name) / "python"
        """For other programs to start commands with: forks what it can (see `forked_python`)."""
        words = (sys.executable, "-I", "-S", forked_python.__file__, name)
        self.python.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        self.python.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(forked_python.address(name))
            listener.listen(100)
            fd = listener.fileno()
            self.program = subprocess.Popen(
                [*within, sys.executable, __file__, str(fd), str(self.python)],
                stdin=subprocess.PIPE,
                env=self._env,
                pass_fds=[fd],
            )

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
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(Path(stdin or os.devnull).open("rb")).fileno()]
            for path in (out, err):
                files.append(stack.enter_context(Path(path or os.devnull).open("wb")).fileno())
            given = [str(ROOT / f"{script}.py"), *args]
            env = {**self._env, **env}
            return Forked(forked_python.ask(self._folder.name, given, str(cwd), env, files))


class Forked:
    """A command that a `Starter` has started, with the methods of a `subprocess.Popen`.

    Args:
        connection: see `forked_python.ask`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
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
            self._connection.close()
        return self.returncode

    def _number(self, timeout: float) -> int:
        if not select.select([self._connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a forked command", timeout)
        return int(_line(self._connection))

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)


def _line(connection: socket.socket) -> bytes:
    """What comes up to the end of a line, and nothing of the next one."""
    line = bytearray()
    while not line.endswith(b"\n") and (byte := connection.recv(1)):
        line += byte
    return bytes(line)


def main() -> None:
    """Start what is asked for, until stdin ends; each is watched by a process of its own."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    import_all()
    sys.executable = sys.argv[2]  # with which a command starts others
    while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
        connection, _ = listener.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            listener.close()
            watch(connection)
            os._exit(0)
        connection.close()


def watch(connection: socket.socket) -> None:
    """Run the command that is asked for, and say what becomes of it."""
    start, files, *_ = socket.recv_fds(connection, 1, 3)
    request = json.loads(start + connection.makefile("rb").readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        code = become(**request, files=files)
        # What the interpreter does at its end, but for freeing what it shares with its parent.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        os._exit(code)
    for file in files:
        os.close(file)  # or who reads from it would wait for more
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{pid}\n".encode())
        threading.Thread(target=_end_with, args=(connection, pid), daemon=True).start()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(f"{code}\n".encode())


def _end_with(connection: socket.socket, pid: int) -> None:
    """End a command, and what it has started, once nobody waits for it any more."""
    connection.recv(1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
