"""Where a result may be written."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from gptlit.cli.output import alone, check_unread, output_file
from gptlit.errors import UserError


def test_a_home_folder_may_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_file("~/out.json") == tmp_path / "out.json"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (".", r"output=\.: give a file in a folder that exists"),
        ("no/out.json", "output=no/out.json: give a file in a folder that exists"),
        ("x" * 300, "output=x* cannot be written: File name too long; choose another file"),
        ("~nobody-of-this-name/x", "output=~nobody-of-this-name/x cannot be written: .*"),
    ],
    ids=["folder", "in no folder", "too long", "no home"],
)
def test_what_cannot_be_written_is_told(typed: str, line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        output_file(typed)


def test_a_device_or_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out").symlink_to("pipe")
    for name in ("pipe", "out"):
        with pytest.raises(UserError, match=f"output=.*/{name} is a device or a pipe; give a file"):
            output_file(str(tmp_path / name))


def test_what_a_link_leads_to_is_written_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("large.json")
    for _ in range(2):
        assert output_file(str(tmp_path / "link.json")) == tmp_path / "large.json"
        (tmp_path / "large.json").touch()


def test_a_file_by_another_name_is_the_same(tmp_path: Path) -> None:
    read = tmp_path / "read.json"
    read.touch()
    os.link(read, tmp_path / "linked.json")
    check_unread([tmp_path / "new.json"], [read, tmp_path / "gone.json"])
    with pytest.raises(UserError, match=r"linked\.json is a file that is read"):
        check_unread([tmp_path / "new.json", tmp_path / "linked.json"], [read])


def test_one_command_at_a_time_writes_an_output(tmp_path: Path) -> None:
    output, journal = tmp_path / "a.json", tmp_path / "a.progress.jsonl"
    for _ in range(2):
        with alone(output, journal):
            journal.read_bytes()  # which ends no lock
            line = (
                r"a\.json is in use: another command is writing it; wait for its end, or give anot"
            )
            with pytest.raises(UserError, match=line), alone(output, journal):
                pass
            with alone(tmp_path / "b.json", tmp_path / "b.progress.jsonl"):
                pass
    journal.write_text("kept")
    with alone(output, journal):
        assert journal.read_text() == "kept"


def test_a_file_system_without_locks_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    journal = tmp_path / "a.progress.jsonl"
    with alone(tmp_path / "a.json", journal), alone(tmp_path / "a.json", journal):
        pass


def test_a_journal_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.progress.jsonl").mkdir()
    line = r"^cannot write .*a\.progress\.jsonl: Is a directory; give another output=FILE$"
    with (
        pytest.raises(UserError, match=line),
        alone(tmp_path / "a.json", tmp_path / "a.progress.jsonl"),
    ):
        pass
