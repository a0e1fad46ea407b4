"""`output=...`: a file that can be written, and none that the command reads."""

from collections.abc import Iterable
from pathlib import Path

from gptlit.errors import UserError


def output_file(typed: str) -> Path:
    """The file that is meant.

    Raises:
        UserError: it is a folder, or in none.
    """
    try:
        path = Path(typed).expanduser()
        fits = path.parent.is_dir() and not path.is_dir()
    except (OSError, RuntimeError) as error:  # a name that is too long, or a home that is nobody's
        why = getattr(error, "strerror", None) or error
        raise UserError(f"output={typed} cannot be written: {why}; choose another file") from error
    if not fits:
        raise UserError(f"output={typed}: give a file in a folder that exists")
    return path


def check_unread(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Find out before the work whether its result would take the place of what it is made from.

    Raises:
        UserError: a file that is to be written is one that is read.
    """
    there = [path for path in read if path.exists()]
    for path in written:
        if path.exists() and any(path.samefile(other) for other in there):
            raise UserError(f"output: {path} is a file that is read; give another output=FILE")
