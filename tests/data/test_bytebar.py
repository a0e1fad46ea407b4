"""Progress is told on a terminal and in a log."""

import pytest

from gptlit.data import bytebar
from gptlit.data.bytebar import ByteBar


def work(bar: ByteBar) -> None:
    with bar:
        bar.start("checking", 3_000_000)
        bar.advance(3_000_000)
        bar.start("tokenizing", 3_000_000, done=1_000_000)
        bar.reach(2_000_000)


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 10.0, 10.0, 50.0])
    monkeypatch.setattr(bytebar.time, "monotonic", lambda: next(times))
    work(ByteBar(bar=True, lines=True))
    # What was done before counts neither for the speed nor for the time left.
    told = "tokenizing: 2 of 3 MB, 0.0 MB/s, 0:00:40 left\n"
    assert capsys.readouterr().err == told


def test_a_terminal_gets_a_bar_with_speed_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    work(ByteBar(bar=True, lines=True))
    shown = capsys.readouterr().err
    assert "tokenizing" in shown
    assert "2.0/3.0 MB" in shown
    assert "0:00:" in shown or "-:--:--" in shown


def test_where_neither_is_wanted_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    work(ByteBar(bar=False))
    assert capsys.readouterr().err == ""
