"""Python that says of the packages that only tests and sweeps need that they are not installed, for
the commands that tests start. Importing them still works.

torchmetrics imports what is installed, which takes a third of a command's start.
"""

import importlib.util
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, PackageNotFoundError

HIDDEN = ("scipy", "transformers")

from_name, find_spec = Distribution.from_name, importlib.util.find_spec


def distribution(name: str) -> Distribution:
    """`Distribution.from_name` where nothing is hidden."""
    if name in HIDDEN:
        raise PackageNotFoundError(name)
    return from_name(name)


def spec(name: str, package: str | None = None) -> ModuleSpec | None:
    """`importlib.util.find_spec` where nothing is hidden."""
    return None if name in HIDDEN else find_spec(name, package)


Distribution.from_name = distribution  # type: ignore[assignment,method-assign]
importlib.util.find_spec = spec
