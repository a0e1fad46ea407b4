"""Python without the packages that only tests and sweeps need, for the commands that tests start.

torchmetrics imports them where they are installed, which takes a third of a command's start.
"""

import sys
from importlib.metadata import Distribution, PackageNotFoundError

HIDDEN = ("scipy", "transformers")

from_name = Distribution.from_name


def find(name: str) -> Distribution:
    """`Distribution.from_name` where nothing is hidden."""
    if name in HIDDEN:
        raise PackageNotFoundError(name)
    return from_name(name)


Distribution.from_name = find  # type: ignore[assignment,method-assign]
sys.modules |= dict.fromkeys(HIDDEN)  # type: ignore[arg-type]
