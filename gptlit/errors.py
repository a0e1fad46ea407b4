"""What is said to the user: the one exception that means "the user can cure this", and paths."""

from pathlib import Path


class UserError(Exception):
    """A mistake in what the user gave: a config value, a file, a missing device.

    The message is one line that names what was found, what was expected and the cure. The
    commands print it without a traceback and end with exit code 2.
    """


def short_path(path: Path) -> Path:
    """As it is read and typed most easily: from the working folder, if it lies below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
