"""A corpus that was tokenized in several goes is that of one go."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gptlit.data import jobs, journal
from gptlit.data.bytebar import ByteBar
from gptlit.data.corpus import Advance, Document, Part, TextFiles
from gptlit.data.shards import MANIFEST
from gptlit.data.tokenizing import Plan
from gptlit.errors import UserError
from gptlit.tokenizer import ByteTokenizer

Files = list[list[list[str]]]  # of files documents, and of documents pieces


class Texts:
    """Files from memory, which notes those that are read."""

    name = "some texts"

    def __init__(self, files: Files) -> None:
        self.files = files
        self.size = sum(len(piece) for file in files for text in file for piece in text)
        self.done = self.part = 0
        self.read: list[int] = []

    def parts(self, cache_dir: Path, seen: Advance) -> list[Part]:
        return [Part(f"file {i}", 1, repr(file), "") for i, file in enumerate(self.files)]

    def documents(self, first_part: int = 0) -> Iterator[Document]:
        for number, file in enumerate(self.files):
            if number >= first_part:
                self.read.append(number)
                for text in file:
                    self.part = number
                    yield self._pieces(text)

    def _pieces(self, text: list[str]) -> Iterator[str]:
        for piece in text:
            self.done += len(piece)
            yield piece


class StoppedError(Exception):
    pass


class Stopping(ByteTokenizer):
    """Fails at its `after`-th piece; not the registered tokenizer, so that threads run it."""

    def __init__(self, after: int = 10**9) -> None:
        self.left = after
        self.encoded: list[str] = []

    def encode_to_numpy(self, text: str) -> np.ndarray:
        self.encoded.append(text)
        self.left -= 1
        if self.left < 0:
            raise StoppedError
        return super().encode_to_numpy(text)


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is a job, and each job is noted."""
    monkeypatch.setattr(jobs, "PIECE_CHARS", 1)
    monkeypatch.setattr(journal, "POINT_S", 0.0)


def write(
    sources: list[Any], draft: Path, tokenizer: ByteTokenizer | None = None, **changed: Any
) -> journal.Journal:
    given: dict[str, Any] = {"val_fraction": 0.4, "seed": 3, "shard_tokens": 7, **changed}
    bar = ByteBar(bar=False)
    plan = Plan(sources, tokenizer or Stopping(), draft, bar=bar, workers=1, **given)
    notes = plan.journal(draft)
    plan.write(draft, notes)
    return notes


def content(folder: Path) -> dict[str, bytes]:
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    files.pop("hashes.json", None)
    return files


def of(files: Files, n_sources: int) -> list[Texts]:
    return [Texts(files)] if n_sources == 1 else [Texts(files[:2]), Texts(files[2:])]


pieces = st.text("abcdefgh ", min_size=1, max_size=5)
texts = st.lists(pieces, max_size=3)
FILES = st.lists(st.lists(texts, max_size=4), min_size=3, max_size=6)


@settings(derandomize=True, max_examples=150)
@given(files=FILES, stops=st.lists(st.integers(0, 9), max_size=4), n_sources=st.integers(1, 2))
def test_however_often_it_stops_the_result_is_that_of_one_go(
    tmp_path_factory: pytest.TempPathFactory, files: Files, stops: list[int], n_sources: int
) -> None:
    folder = tmp_path_factory.mktemp("work")
    assume(any(text for file in files for text in file))
    write(of(files, n_sources), folder / "once")
    for stop in stops:
        if not (folder / "often" / MANIFEST).exists():
            try:
                write(of(files, n_sources), folder / "often", Stopping(stop))
            except StoppedError:
                continue
    if not (folder / "often" / MANIFEST).exists():
        write(of(files, n_sources), folder / "often")
    assert content(folder / "often") == content(folder / "once")


LONG: Files = [
    [[f"{file}-{text}-{piece} " for piece in range(3)] for text in range(4)] for file in range(5)
]


def stopped(tmp_path: Path, after: int = 40, **changed: Any) -> Path:
    """A draft of LONG that stopped at a piece of its fourth file."""
    with pytest.raises(StoppedError):
        write([Texts(LONG)], tmp_path / "draft", Stopping(after), **changed)
    return tmp_path / "draft"


def test_what_is_done_is_neither_read_nor_tokenized_again(tmp_path: Path) -> None:
    draft = stopped(tmp_path)
    tokenizer, source = Stopping(), Texts(LONG)
    write([source], draft, tokenizer)
    assert source.read == [3, 4]
    every = [piece for file in LONG for text in file for piece in text]
    # Three at most were tokenized, but not written when it stopped.
    assert tokenizer.encoded == every[-len(tokenizer.encoded) :]
    assert 20 <= len(tokenizer.encoded) <= 23


@pytest.mark.parametrize("change", ["changed", "gone", "new", "last"])
def test_a_changed_source_is_noticed_and_what_stands_before_it_is_kept(
    tmp_path: Path, change: str
) -> None:
    draft = stopped(tmp_path)
    files = [list(file) for file in LONG]
    if change == "changed":
        files[2][1] = ["other ", "text "]
    elif change == "gone":
        del files[2]
    elif change == "new":
        files.insert(2, [["a new one "]])
    else:
        files[4] = [["other "]]
    tokenizer, source = Stopping(), Texts(files)
    notes = write([source], draft, tokenizer)
    assert notes.changed == ("file 4" if change == "last" else "file 2")
    assert source.read[0] == (3 if change == "last" else 1)  # the last note is of its last document
    write([Texts(files)], tmp_path / "once")
    assert content(draft) == content(tmp_path / "once")


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"val_fraction": 0.3}, {"shard_tokens": 8}], ids=str
)
def test_other_settings_start_from_the_beginning(tmp_path: Path, change: dict[str, Any]) -> None:
    draft = stopped(tmp_path)
    assert write([Texts(LONG)], draft, **change).changed == "the settings"
    write([Texts(LONG)], tmp_path / "once", **change)
    assert content(draft) == content(tmp_path / "once")


@pytest.mark.parametrize("seed", range(6))
def test_a_change_within_the_first_draw_starts_from_the_beginning(
    tmp_path: Path, seed: int
) -> None:
    # One of the first ten documents is drawn; of eight, if there are no more, it is another one.
    draft = stopped(tmp_path, 22, val_fraction=0.1, seed=seed)
    notes = write([Texts(LONG[:2])], draft, val_fraction=0.1, seed=seed)
    assert notes.changed == "file 2"
    write([Texts(LONG[:2])], tmp_path / "once", val_fraction=0.1, seed=seed)
    assert content(draft) == content(tmp_path / "once")


@pytest.mark.parametrize("damage", ["torn note", "short shard", "missing shard", "no sources"])
def test_a_damaged_draft_costs_work_and_nothing_else(tmp_path: Path, damage: str) -> None:
    draft = stopped(tmp_path)
    shard = sorted(draft.glob("train-*.bin"))[-3]
    if damage == "torn note":
        with (draft / journal.PROGRESS).open("ab") as file:
            file.write(b"[[0, 3, 1")
    elif damage == "short shard":
        os.truncate(shard, 4)
    elif damage == "missing shard":
        shard.unlink()
    else:
        (draft / journal.SOURCES).unlink()
    write([Texts(LONG)], draft)
    write([Texts(LONG)], tmp_path / "once")
    assert content(draft) == content(tmp_path / "once")


def test_nothing_stays_of_what_stopped_before_its_first_note(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        write([Texts(LONG)], tmp_path / "draft", Stopping(0))
    assert not (tmp_path / "draft").exists()


def rows(path: Path, n: int) -> None:
    path.write_text("".join(json.dumps({"text": f"{path.stem} row {i}"}) + "\n" for i in range(n)))


def test_files_with_rows_go_on_within_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in "abc":
        rows(folder / f"{name}.jsonl", 10)
    (folder / "bb.txt").write_text("a text between the tables")
    (folder / "d.txt").write_text("a last text")
    for after in (1, 12, 19, 25, 31):
        draft = tmp_path / f"draft {after}"
        with pytest.raises(StoppedError):
            write([TextFiles(str(folder))], draft, Stopping(after))
        write([TextFiles(str(folder))], draft)
        if after > 1:
            assert content(draft) == content(tmp_path / "draft 1")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    rows(file, 3)
    source = TextFiles(str(file))
    source.parts(tmp_path)
    rows(file, 4)
    with pytest.raises(UserError, match=rf"{name} changed while it was read"):
        [list(document) for document in source.documents()]
