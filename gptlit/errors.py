"""What is said to the user: the one exception that means "the user can cure this", what others
say, paths, and what a model writes."""

from pathlib import Path

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t\r"}
_SEEN = {**_PICTURES, 0x7F: "\u2421", **dict.fromkeys(range(0x80, 0xA0), "\ufffd"), ord("\r"): None}
"""By their codes, what control characters are shown as."""


class UserError(Exception):
    """A mistake in what the user gave: a config value, a file, a missing device.

    The message is one line that names what was found, what was expected and the cure. The
    commands print it without a traceback and end with exit code 2.
    """


def in_one_line(error: BaseException, longest: int = 200) -> str:
    """What an exception says, cut to so many characters; its type where it says nothing."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def short_path(path: Path) -> Path:
    """As it is read and typed most easily: from the working folder, if it lies below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def visible(text: str) -> str:
    """A model's text for a terminal, to which control characters would be commands: in their place
    are Unicode's pictures of them. Line ends and tabs stay, carriage returns are left out."""
    return text.translate(_SEEN)


def visible_line(text: str) -> str:
    """The same in one line, for names of classes and the like."""
    return visible(" ".join(text.split()))
