"""Where the commands begin. What they need is imported once Ctrl-C is quiet, which may come while
it is."""

import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import TracebackType


def train() -> None:
    """`python train.py` and `gptlit-train`."""
    _run("train")


def generate() -> None:
    """`python generate.py` and `gptlit-generate`."""
    _run("generate")


def classify() -> None:
    """`python classify.py` and `gptlit-classify`."""
    _run("classify")


def evaluate() -> None:
    """`python evaluate.py` and `gptlit-evaluate`."""
    _run("evaluate")


def export() -> None:
    """`python scripts/export.py` and `gptlit-export`."""
    _run("export")


def prepare_corpus() -> None:
    """`python scripts/prepare_corpus.py` and `gptlit-prepare-corpus`."""
    _run("prepare_corpus")


@contextmanager
def large_imports() -> Iterator[None]:
    """Import what is large without the garbage collector, which would look through all of it many
    times meanwhile, then now and again, and last of all at the end: seconds in all."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # in a sweep's next run it would keep what is to be freed
            gc.freeze()
        if was_on:
            gc.enable()


def is_interruption(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: what is being imported may make it another error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _run(command: str) -> None:
    sys.excepthook = _excepthook
    import_module(f"gptlit.cli.{command}").main()


def _excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ctrl-C ends a command by its signal, without a traceback."""
    if is_interruption(error):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    sys.__excepthook__(kind, error, trace)
