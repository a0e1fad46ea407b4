"""Hydra entry points: the only place that knows Hydra."""

import sys
from typing import Any


def _excepthook(kind: type[BaseException], *rest: Any) -> None:
    """Ctrl-C while a command's modules are imported is no error: Python ends by the signal."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, *rest)


sys.excepthook = _excepthook
