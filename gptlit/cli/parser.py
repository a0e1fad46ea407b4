"""Argparse for scripts that have no config."""

import argparse
import sys
from typing import NoReturn

from gptlit.cli.arguments import printable


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the other commands do."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        print(f"error: {printable(message)}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)
