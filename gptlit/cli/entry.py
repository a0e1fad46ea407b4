"""Where the commands begin. They import what they need only after Ctrl-C has been made quiet, since
it may come during the imports."""

import gc
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType


@contextmanager
def large_imports() -> Iterator[None]:
    """Import large packages without the garbage collector, which would look through all of their
    objects many times during the import, now and then after it, and once more at the end: this
    takes seconds in all."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # in a sweep's next run, it would keep what must be freed
            gc.freeze()
        if was_on:
            gc.enable()


def is_interruption(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused an error: a module that is being imported may turn it into another."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ctrl-C ends a command by its signal, without a traceback."""
    if is_interruption(error):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    sys.__excepthook__(kind, error, trace)


def quiet_ctrl_c() -> None:
    """From now on Ctrl-C ends the process without a traceback."""
    sys.excepthook = _excepthook


def open_standard_streams() -> None:
    """Give a process that was started without its input, output or errors empty ones. They take the
    numbers of those that are closed: a file of the user's that got one would be written to by
    whatever writes messages."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115


def _require_working_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        print("error: the working folder was deleted: go to another one", file=sys.stderr)
        sys.exit(2)


def _run(command: str) -> None:
    quiet_ctrl_c()
    open_standard_streams()
    _require_working_folder()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A model may write characters that the encoding lacks, which must not end a run.
        sys.stdout.reconfigure(errors="replace")
    try:
        import_module(f"gptlit.cli.{command}").main()
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        sys.exit(1)  # as Rich does for what it prints
    finally:
        # On Ctrl-C while it exits, Python would print where it was.
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))


def _reader_has_gone() -> bool:
    """Whether nobody reads the output any more, as after `| head`. If so, the rest of it is
    dropped, about which Python would complain while it exits."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


# The entry points of the scripts, and of the commands that the wheel installs.
train = partial(_run, "train")
generate = partial(_run, "generate")
classify = partial(_run, "classify")
evaluate = partial(_run, "evaluate")
export = partial(_run, "export")
prepare_corpus = partial(_run, "prepare_corpus")
