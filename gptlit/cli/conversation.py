"""Texts that are typed, or come through a pipe, one after another."""

import io
import sys
from collections.abc import Iterator

from gptlit.errors import UserError


def typed(invitation: str) -> Iterator[str]:
    """Each line that is more than white space, until quit or the end.

    Args:
        invitation: what a terminal shows first.

    Raises:
        UserError: what is read is not text.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="strict")  # some locales would let halves of characters pass
    if sys.stdin.isatty():
        print(invitation)
    while True:
        try:
            text = input("> ")
        except EOFError:
            print()
            return
        except UnicodeDecodeError as error:
            raise UserError(
                f"what is read from the standard input is not {error.encoding} text"
                f" ({error.reason}); convert it, for instance with iconv -f latin1 -t utf-8"
            ) from None
        if text.strip() == "quit":
            return
        if text.strip():
            yield text
