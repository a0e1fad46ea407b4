"""Hydra entry points: the only place that knows Hydra."""

import signal
import sys
from types import TracebackType


def is_interruption(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: what is being imported may make it another error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ctrl-C while a command's modules are imported ends it by its signal, without a traceback."""
    if is_interruption(error):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _excepthook
