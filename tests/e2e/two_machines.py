"""Two machines on one: network namespaces that see nothing but each other, joined by a cable.

They go when the processes in them do; nothing outside of them changes.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

ADDRESSES = ("10.213.0.1", "10.213.0.2")
INTERFACE = "cable"


class NotAllowedError(Exception):
    """This machine does not let us have network namespaces; says why."""


@contextlib.contextmanager
def two_machines() -> Iterator[list[list[str]]]:
    """Yields for each machine what to put before a command that shall run on it.

    Without root's rights they lie in a user namespace of their own.

    Raises:
        NotAllowedError: there can be none here.
    """
    missing = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if not sys.platform.startswith("linux") or missing:
        raise NotAllowedError(f"needs Linux with ip, unshare and nsenter; missing: {missing}")
    with contextlib.ExitStack() as stack:
        root = os.geteuid() == 0
        first = _holder(stack, [] if root else ["--user", "--map-root-user"])
        user = [] if root else ["nsenter", f"--target={first}", "--user", "--preserve-credentials"]
        second = _holder(stack, [], within=user)
        enter = [[*user, *_nsenter(pid)] for pid in (first, second)]
        ends = [["name", INTERFACE, "netns", str(pid)] for pid in (first, second)]
        _run([*enter[0], "ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]])
        for machine, address in zip(enter, ADDRESSES, strict=True):
            _run([*machine, "ip", "address", "add", f"{address}/24", "dev", INTERFACE])
            for device in ("lo", INTERFACE):
                _run([*machine, "ip", "link", "set", device, "up"])
        yield enter


def _nsenter(pid: int) -> list[str]:
    return ["nsenter", f"--target={pid}", "--net"]


def _holder(stack: contextlib.ExitStack, more: list[str], within: list[str] | None = None) -> int:
    """The id of a process in a network namespace of its own, which it keeps until the end."""
    command = [*(within or []), "unshare", *more, "--net", "sh", "-c", "echo ready; exec cat"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    stack.callback(process.wait)
    stack.callback(process.stdin.close)  # ends it
    if process.stdout.readline() != "ready\n":
        raise NotAllowedError(process.stderr.read().strip())
    return process.pid


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotAllowedError(f"{' '.join(command)}: {done.stderr.strip()}")
