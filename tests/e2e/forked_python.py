"""The `python` of programs that tests start: scripts of this checkout are run by the program that
has made their imports already (see `forked`), everything else by Python itself.

    python -I -S forked_python.py FOLDER ARGS...

FOLDER holds the socket at which that program listens.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence

HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  pathlib takes as long as the rest
ROOT = os.path.dirname(os.path.dirname(HERE))  # noqa: PTH120
MODULES = ("torch.distributed.run", "submitit.core._submit")
"""What is run with -m, besides scripts."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def address(folder: str) -> str:
    """Of the socket."""
    return f"{folder}/socket"


def ask(
    folder: str, args: Sequence[str], cwd: str, env: dict[str, str], files: Sequence[int]
) -> socket.socket:
    """Begin `python args...`; `files` are its stdin, stdout and stderr.

    Returns:
        a connection that says the number of its process, and when it has ended its exit code, each
        on a line. Closing it ends the command.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address(folder))
    request = json.dumps({"args": args, "cwd": cwd, "env": env}).encode() + b"\n"
    socket.send_fds(connection, [request[:1]], files)
    connection.sendall(request[1:])
    return connection


def can_be_forked(args: Sequence[str]) -> bool:
    """Whether that program has imported what these arguments of Python's need."""
    if f"{HERE}/lean" not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        return False
    what, *rest = args or [""]
    if what == "-m":
        return rest[:1] in [[module] for module in MODULES]
    folder = os.path.dirname(os.path.realpath(what))  # noqa: PTH120
    return what.endswith(".py") and folder in (ROOT, f"{ROOT}/scripts")


def main() -> None:
    """Wait for the command as if this process were it."""
    folder, *args = sys.argv[1:]
    given = args[1:] if args[:1] == ["-u"] else args
    lines = None
    if can_be_forked(given):
        with contextlib.suppress(OSError):  # it has ended
            connection = ask(folder, given, os.getcwd(), dict(os.environ), (0, 1, 2))  # noqa: PTH109
            lines = connection.makefile()
    if lines is None:
        os.execv(sys.executable, [sys.executable, *args])
    pid = int(lines.readline())

    def forward(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in SIGNALS:
        signal.signal(number, forward)
    code = int(lines.readline() or 1)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
