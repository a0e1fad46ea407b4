"""`output=...`: a file that can be written, by one command at a time, and is not read by it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gptlit.errors import UserError


def output_file(typed: str) -> Path:
    """The file that is meant; for a link, the file that it leads to, which a new one will replace.

    Raises:
        UserError: it is a folder, a device or a pipe, or it is in no folder that exists.
    """
    try:
        path = Path(typed).expanduser()
        is_special = path.exists() and not path.is_file() and not path.is_dir()
        path = path.resolve() if path.is_symlink() else path
        fits = path.parent.is_dir() and not path.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, or the home of no user
        why = getattr(error, "strerror", None) or error
        raise UserError(f"output={typed} cannot be written: {why}; choose another file") from error
    if is_special:
        raise UserError(f"output={typed} is a device or a pipe; give a file")
    if not fits:
        raise UserError(f"output={typed}: give a file in a folder that exists")
    return path


def check_unread(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Find out before the work whether its result would replace what it is made from.

    Raises:
        UserError: a file that is to be written is one that is read.
    """
    there = [path for path in read if path.exists()]
    for path in written:
        if path.exists() and any(path.samefile(other) for other in there):
            raise UserError(f"output: {path} is a file that is read; give another output=FILE")


@contextmanager
def alone(output: Path, journal: Path) -> Iterator[None]:
    """Keep other commands from writing the same output meanwhile, on systems and file systems that
    have locks.

    Args:
        output: the file to write.
        journal: a file beside it that stays there; made if it is missing.

    Raises:
        UserError: another command is writing it, or the journal cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        file = journal.open("ab")
    except OSError as error:
        raise UserError(
            f"cannot write {journal}: {error.strerror}; give another output=FILE"
        ) from error
    with file:
        try:
            # A lock of lockf would end as soon as this process closes the journal anywhere.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{output} is in use: another command is writing it; wait for its end, or give"
                " another output=FILE"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
