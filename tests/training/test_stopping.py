"""Signals are noted while a step is taken, and end the process at any other time."""

import importlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from gptlit.training import stopping
from gptlit.training.stopping import INTERRUPTED, RESUME_ME, Stopped, stoppable


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All is as it was, whatever a test has done; the command is not a sweep."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    yield
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert not stopping.asked()


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_the_code_is_the_one_of_sysexits() -> None:
    assert (RESUME_ME, INTERRUPTED) == (75, 130)


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_nothing_to_lose(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Stopped) as caught, stoppable():
        send(number)
    assert caught.value.code == (INTERRUPTED if number == signal.SIGINT else RESUME_ME)
    line = "before the run began; start again with the same command"
    assert capfd.readouterr().err == f"stopped by {number.name} {line}\n"


@pytest.mark.parametrize(
    ("step", "where"),
    [
        (None, "before a step was saved; start again with the same command"),
        (30, "after step 30; go on with resume=auto"),
    ],
)
def test_a_run_that_has_begun_says_what_it_can_be_resumed_from(
    step: int | None, where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stopped), stoppable():
        stopping.begin(step)
        send(signal.SIGTERM)
    assert capfd.readouterr().err == f"stopped by SIGTERM {where}\n"


def test_a_signal_waits_until_it_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Stopped), stoppable():
        stopping.begin(None)
        stopping.hold()
        assert not stopping.asked()
        for _ in range(2):  # Slurm sends several
            send(signal.SIGTERM)
        assert stopping.asked()
        stopping.saved(1200)
        raise Stopped
    assert capfd.readouterr().err == "stopped by SIGTERM after step 1,200; go on with resume=auto\n"


def test_a_second_ctrl_c_does_not_wait() -> None:
    with pytest.raises(Stopped) as caught, stoppable():
        stopping.hold()
        send(signal.SIGINT)
        assert stopping.asked()
        send(signal.SIGINT)
        raise AssertionError
    assert caught.value.code == INTERRUPTED


def test_more_signals_do_not_disturb_the_end() -> None:
    with pytest.raises(Stopped), stoppable():
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGTERM)
            send(signal.SIGUSR1)


def test_the_next_run_of_a_sweep_does_not_begin() -> None:
    with pytest.raises(Stopped), stoppable():
        stopping.hold()
        send(signal.SIGTERM)
        stopping.begin(None)


@pytest.mark.parametrize("cause", [True, False])
def test_an_error_that_a_library_made_of_it_is_no_error(
    cause: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """As compiled modules do that are being imported; not all of them name the cause."""

    def imported() -> None:
        try:
            send(signal.SIGTERM)
        except BaseException as error:
            raise ImportError("initialization failed") from (error if cause else None)

    caught = []
    with pytest.raises(Stopped), stoppable():
        stopping.begin(30)
        try:
            with stoppable():  # of one run, in a sweep that goes on after errors
                imported()
        except Exception as error:
            caught.append(error)
    assert not caught
    assert capfd.readouterr().err == "stopped by SIGTERM after step 30; go on with resume=auto\n"


def test_errors_of_a_run_that_nobody_stopped_are_errors() -> None:
    with pytest.raises(ImportError), stoppable(), stoppable():
        stopping.hold()
        send(signal.SIGTERM)
        raise ImportError


def test_it_ends_a_process_past_everything_that_catches_errors() -> None:
    assert issubclass(Stopped, SystemExit) and not issubclass(Stopped, Exception)


def test_what_the_process_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with stoppable():
            send(signal.SIGUSR1)
            assert not stopping.asked()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_other_threads_have_no_signals() -> None:
    seen = []

    def work() -> None:
        with stoppable():
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_lightning_still_has_what_is_switched_off() -> None:
    """`make_trainer` replaces these methods; under other names Lightning's would win."""
    trainer = Trainer(accelerator="cpu", logger=False)
    connector = trainer._signal_connector
    assert callable(connector.register_signal_handlers)
    assert connector.received_sigterm is False
    assert callable(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)


def test_a_child_of_lightning_leaves_without_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Stopped().code == 0
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert Stopped().code == RESUME_ME


@pytest.mark.skipif(stopping.REMINDER is None, reason="no timer to wait with")
def test_an_import_is_not_left_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.2)\n"
    (tmp_path / "interrupted_module.py").write_text(module + "whole = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Stopped) as caught, stoppable():
        imported = importlib.import_module("interrupted_module")
        assert imported.whole and stopping.asked()
        time.sleep(5)
        raise AssertionError("nobody stopped it")
    assert caught.value.code == INTERRUPTED
    assert capfd.readouterr().err.startswith("stopped by SIGINT before the run began")


@pytest.mark.skipif(stopping.REMINDER is None, reason="no timer to wait with")
def test_nothing_reminds_of_a_signal_once_all_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"
    (tmp_path / "last_module.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    with stoppable():
        importlib.import_module("last_module")
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
