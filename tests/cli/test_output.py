"""Where a result may be written."""

import os
from pathlib import Path

import pytest

from gptlit.cli.output import check_unread, output_file
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


def test_a_file_by_another_name_is_the_same(tmp_path: Path) -> None:
    read = tmp_path / "read.json"
    read.touch()
    os.link(read, tmp_path / "linked.json")
    check_unread([tmp_path / "new.json"], [read, tmp_path / "gone.json"])
    with pytest.raises(UserError, match=r"linked\.json is a file that is read"):
        check_unread([tmp_path / "new.json", tmp_path / "linked.json"], [read])
