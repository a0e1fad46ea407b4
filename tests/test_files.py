"""A file is replaced by a whole one, or stays as it was."""

import os
from pathlib import Path

import pytest

from gptlit.files import read_object, replacing


def test_the_old_content_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old" and draft.parent == tmp_path
        assert draft.name.startswith(".") and draft.suffix == ".tmp"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def write_file(draft: Path) -> None:
    draft.write_text("half")


def write_folder(draft: Path) -> None:
    draft.mkdir()
    (draft / "part").write_text("half")


def write_link(draft: Path) -> None:
    draft.symlink_to("kept", target_is_directory=True)


@pytest.mark.parametrize("write", [write_file, write_folder, write_link])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_is_not_finished_is_removed(
    write: object, error: type[BaseException], tmp_path: Path
) -> None:
    assert callable(write)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    with pytest.raises(error), replacing(tmp_path / "new") as draft:
        write(draft)
        raise error
    assert list(tmp_path.iterdir()) == [kept] and (kept / "file").exists()


@pytest.mark.parametrize("write", [write_folder, write_link])
def test_folders_and_links_get_their_name_too(write: object, tmp_path: Path) -> None:
    assert callable(write)
    with replacing(tmp_path / "new") as draft:
        write(draft)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError), replacing(tmp_path / "none" / "a.txt") as draft:
        draft.write_text("")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, '{"a": ' * 100_000, "\0", "9" * 5000]
)
def test_what_holds_no_object_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    assert read_object(tmp_path / "a.json") is read_object(tmp_path / "b.json") is None


def test_a_draft_that_a_killed_process_of_the_same_number_left_is_not_written_to(
    tmp_path: Path,
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a.txt"
    victim.write_text("mine")
    draft = tmp_path / f".a.txt.{os.getpid()}.tmp"
    draft.symlink_to(victim)
    with replacing(path) as now:
        assert now == draft
        now.write_text("new")
    assert (victim.read_text(), path.read_text(), path.is_symlink()) == ("mine", "new", False)
    (draft / "old").mkdir(parents=True)
    with replacing(tmp_path / "a.txt") as now:
        assert not now.exists()
        now.write_text("newer")
    assert path.read_text() == "newer" and sorted(tmp_path.iterdir()) == [path, victim]
