"""One process at a time has a run folder; a lock ends with the process that has it."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptlit.errors import UserError
from gptlit.training.lock import LOCK, locked, take

HOLD = """
import os, sys, time
from pathlib import Path
from gptlit.training.lock import take

assert take(Path(sys.argv[1]))
if os.fork() == 0:  # as a process that loads data
    os.close(1)
    time.sleep(100)
print(os.getpid(), flush=True)
time.sleep(100)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the folder `run`, with a child."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) == process.pid
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_folder_in_use_is_refused_with_the_one_who_has_it(
    tmp_path: Path, other: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "run", Path("run")):
        with pytest.raises(UserError, match=rf"run is in use: process {other.pid} on .*hydra.run."):
            take(folder)
    with locked(tmp_path / "elsewhere"):
        pass


def test_a_killed_process_leaves_no_lock_not_even_to_its_children(
    tmp_path: Path, other: "subprocess.Popen[str]"
) -> None:
    other.kill()
    other.wait()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).read_text().startswith(f"process {os.getpid()} on ")


def test_a_lock_is_given_back_by_the_one_who_took_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        with locked(tmp_path / "." / ""):
            assert not take(tmp_path)
        assert not take(tmp_path)
    assert take(tmp_path)


def test_a_file_system_without_locks_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert not take(tmp_path)
    with locked(tmp_path):
        pass
