"""One run at a time in a folder."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gptlit.errors import UserError, short_path

LOCK = Path("config") / "run.lock"
"""The lock file in a run folder. It stays there; what counts is whether a process locks it."""

_held: dict[Path, IO[str]] = {}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder; see `take`."""
    ours = take(folder)
    try:
        yield
    finally:
        if ours:
            _held.pop(folder.resolve()).close()


def take(folder: Path) -> bool:
    """Lock a run folder until this process ends, however it ends.

    Returns:
        whether this call has locked it: False if this process held the lock already, or if the
        system or the file system has no locks.

    Raises:
        UserError: another process has it locked.
        OSError: the folder does not exist and cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    place = folder.resolve()
    if place in _held:
        return False
    path = place / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        # Unlike flock's, this lock is not inherited by the processes that load data, which may
        # outlive a killed run for some seconds; and it works over NFS.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        with file:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return False
            raise UserError(_refusal(folder, file)) from None
    with suppress(OSError):  # only people read who holds it
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    _held[place] = file
    return True


def in_use() -> Path | None:
    """The folder that this process locked last and still holds, shortened for messages."""
    return short_path(next(reversed(_held))) if _held else None


def _refusal(folder: Path, file: IO[Any]) -> str:
    file.seek(0)
    who = file.read() or "another process"
    return (
        f"{short_path(folder)} is in use: {who} is training in it; wait for its end, or choose"
        " another folder with hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER for a sweep"
    )
