"""Stopping when asked to: by SIGTERM, by Slurm before its time limit (SIGUSR1), by Ctrl-C.

During a step, a signal is only noted: the training loop looks for it once the step is done, saves,
and stops. At any other time there is nothing to lose, and the process stops at once or, if it is
importing a module, as soon as that is done.
Lightning's own handlers talk to the other processes, and save, inside the signal handler, in the
middle of a step. So they are left out, see `gptlit.training.setup`.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from gptlit.training.launch import first_process, launched

RESUME_ME = getattr(os, "EX_TEMPFAIL", 75)
"""Exit code of a run that was asked to stop: the same command with resume=auto goes on."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")
SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
REMINDER = getattr(signal, "SIGALRM", None)
"""Signal that the process sends to itself while it waits for the end of an import."""
REMIND_S = 0.05


@dataclass
class _State:
    """The state of this process, since signals are sent to processes."""

    handled: bool = False
    """Whether the handlers are in place."""
    begun: bool = False
    """Whether it is known what the run can be resumed from."""
    asked: signal.Signals | None = None
    """The first signal."""
    held: bool = False
    """Whether the training loop will ask for the signal."""
    raised: bool = False
    """Whether `Stopped` has been raised."""
    saved_step: int | None = None


_now = _State()


class Stopped(SystemExit):
    """Ends the process, and a sweep with it, with an exit code that asks for another start.

    It is not an `Exception`, so that nothing on its way takes it for a failure.
    """

    def __init__(self) -> None:
        _now.raised = True
        code = INTERRUPTED if _now.asked == signal.SIGINT else RESUME_ME
        super().__init__(0 if is_child_of_lightning() else code)


def is_child_of_lightning() -> bool:
    """Whether Lightning has started this process beside the first one.

    When all processes end, it must exit without an error code. Lightning would take one for a crash
    and kill the first process, which may still be tidying up.
    """
    return launched() is None and not first_process()


def begin(saved_step: int | None) -> None:
    """A run begins; `saved_step` is the step that it can be resumed from, if there is one."""
    _now.begun, _now.held, _now.saved_step = True, False, saved_step
    if _now.asked:  # while the run before it in a sweep was ending
        raise Stopped


def asked() -> bool:
    """Whether this process has been asked to stop."""
    return _now.asked is not None


def hold() -> None:
    """From now on a signal is only noted: the caller asks whether to stop."""
    _now.held = True


def let_go() -> None:
    """From now on a signal stops the process at once."""
    _now.held = False


def saved(step: int) -> None:
    """The run can be resumed from this step."""
    _now.saved_step = step


def saved_step() -> int | None:
    """The step that the run can be resumed from, if there is one."""
    return _now.saved_step


@contextmanager
def stoppable() -> Iterator[None]:
    """Handle the signals, and print where the run was stopped. Signals that the process was told to
    ignore are left alone. Inside another `stoppable`, or outside of the main thread, it does only
    what `unmasked` does."""
    if _now.handled or threading.current_thread() is not threading.main_thread():
        with unmasked():
            yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {number: _handle for number in SIGNALS if before[number] != signal.SIG_IGN}
    if REMINDER:
        before[REMINDER], ours[REMINDER] = signal.getsignal(REMINDER), _remind
    for number, handler in ours.items():
        signal.signal(number, handler)
    vars(_now).update(vars(_State(handled=True)))
    try:
        with unmasked():
            yield
    except Stopped:
        if first_process():
            print(_where(), file=sys.stderr, flush=True)
        raise
    finally:
        if REMINDER:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number in ours:
            signal.signal(number, before[number])
        vars(_now).update(vars(_State()))


@contextmanager
def unmasked() -> Iterator[None]:
    """Turn an error back into `Stopped` if that was raised before: a compiled module that is being
    imported turns `Stopped` into an ImportError, and Hydra turns whatever is raised while it
    composes a config into an error of its own."""
    try:
        yield
    except Exception as error:
        if _now.raised:
            raise Stopped from error
        raise


def _handle(number: int, frame: FrameType | None) -> None:
    impatient = _now.asked is not None and number == signal.SIGINT
    _now.asked = _now.asked or signal.Signals(number)
    if _now.raised:
        if impatient:
            raise KeyboardInterrupt
    elif impatient:
        raise Stopped
    else:
        _stop(frame)


def _remind(number: int, frame: FrameType | None) -> None:
    if _now.asked and not _now.raised:
        _stop(frame)


def _stop(frame: FrameType | None) -> None:
    """Stop at once, or as soon as an import is done; not if the training loop will ask."""
    if _now.held:
        return
    if REMINDER and _is_importing(frame):
        signal.setitimer(signal.ITIMER_REAL, REMIND_S)
        return
    raise Stopped


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported, which an exception would leave unfinished: the module's
    C code turns it into an ImportError, which others take for a missing package."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _where() -> str:
    by = "by another process" if _now.asked is None else f"by {_now.asked.name}"
    if {"-m", "--multirun"} & set(sys.argv):
        return f"stopped {by}"
    if not _now.begun:
        return f"stopped {by} before the run began; start again with the same command"
    if _now.saved_step is None:
        return f"stopped {by} before a step was saved; start again with the same command"
    return f"stopped {by} after step {_now.saved_step:,}; go on with resume=auto"
