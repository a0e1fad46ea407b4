"""What the user is shown: the one exception that means "the user can cure this", the messages of
others, paths, and what a model writes."""

import re
from pathlib import Path

_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@")
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t\r"}
_SEEN = {**_PICTURES, 0x7F: "\u2421", **dict.fromkeys(range(0x80, 0xA0), "\ufffd"), ord("\r"): None}
"""What control characters are shown as, by their codes."""


class UserError(Exception):
    """A mistake in what the user gave: a config value, a file, a missing device.

    The message is one line that names what was found, what was expected and the cure. The
    commands print it without a traceback and end with exit code 2.
    """


def in_one_line(error: BaseException, longest: int = 200) -> str:
    """An exception's message, cut to `longest` characters; its type's name if it has none. It may
    have the words of a server, so it is no command to a terminal; and it tells no password."""
    return visible_line(without_login(str(error)))[:longest] or type(error).__name__


def without_login(text: str) -> str:
    """A text without the names and passwords of URLs such as https://name:password@host/."""
    return _LOGIN.sub("", text)


def short_path(path: Path) -> Path:
    """The path as it is easiest to read and type: from the working folder, if it is inside that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def visible(text: str) -> str:
    """A model's text for a terminal, to which control characters would be commands: they are
    replaced by Unicode's pictures of them. Line ends and tabs stay, carriage returns are left
    out."""
    return text.translate(_SEEN)


def visible_line(text: str) -> str:
    """Like `visible`, but in one line, for names of classes and the like."""
    return visible(" ".join(text.split()))
