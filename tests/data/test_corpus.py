import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.data import corpus
from gptlit.data.corpus import TextFiles, cut_pieces
from gptlit.errors import UserError
from gptlit.tokenizer import get_tokenizer

spaces = st.sampled_from(
    [" ", "  ", "\n", "\n\n", " \n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\u00a0", "\u2028"]
)
words = st.sampled_from(
    ["a", "word", "'s", "'", "don't", "we've", "12", "½", "٣", "é", "日本", "😀", "!", "\u200b"]
)
fragments = spaces | words | st.just("<|endoftext|>")


@settings(derandomize=True, max_examples=500)
@given(
    chunks=st.lists(st.lists(fragments, max_size=12).map("".join) | st.text(), max_size=8),
    size=st.integers(1, 12),
)
def test_pieces_tokenized_apart_give_the_ids_of_the_whole(chunks: list[str], size: int) -> None:
    gpt2 = get_tokenizer("gpt2")
    pieces = list(cut_pieces(chunks, size))
    assert all(pieces)
    assert "".join(pieces) == "".join(chunks)
    ids = [token for piece in pieces for token in gpt2.encode(piece)]
    assert ids == gpt2.encode("".join(chunks))


def test_pieces_of_prose_are_about_as_long_as_asked_for() -> None:
    pieces = list(cut_pieces(["It is a truth universally acknowledged. "] * 100, size=200))
    assert max(map(len, pieces)) <= 200 + 2 * 40


def test_a_piece_grows_where_there_is_no_place_to_cut() -> None:
    assert list(cut_pieces(["x" * 50, "y" * 50, "z and", " more"], size=60)) == [
        "x" * 50 + "y" * 50 + "z",
        " and more",
    ]


def read(*paths: str | Path, **settings: str) -> list[str]:
    files = TextFiles([str(path) for path in paths], **settings)
    return ["".join(document) for document in files.documents()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "b.txt": "bee",
        "a.md": "ay",
        "sub/c.jsonl": '{"text": "sea"}\n{"text": ""}\n{"text": "see"}\n',
        "sub/image.png": "no text",
        ".git/config.txt": "hidden",
        "empty.txt": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_folder_is_read_with_its_subfolders_by_name(folder: Path) -> None:
    assert read(folder) == ["ay", "bee", "sea", "see"]


def test_globs_and_lists_are_read_in_their_order_and_a_file_once(folder: Path) -> None:
    assert read(folder / "**/*.jsonl", folder / "b.txt") == ["sea", "see", "bee"]
    assert read(folder / "b.txt", folder / "[ab].*") == ["bee", "ay"]


def test_a_file_that_has_several_names_is_read_once(folder: Path) -> None:
    (folder / "c.txt").symlink_to("b.txt")
    (folder / "same").symlink_to(".")
    assert read(folder) == ["ay", "bee", "sea", "see"]
    names = ("b.txt", "sub/../b.txt", "c.txt", "same/b.txt", "sub/../c.txt", "*.txt")
    for name in names:
        assert TextFiles(str(folder / name)).files.keys() >= {(folder / "b.txt").resolve()}
    assert read(*(folder / name for name in names)) == ["bee"]


def test_the_kind_of_a_link_is_that_of_its_name(folder: Path) -> None:
    (folder / "blob").write_text('{"text": "dee"}\n')
    (folder / "d.jsonl").symlink_to("blob")
    assert read(folder / "d.jsonl") == ["dee"]
    with pytest.raises(UserError, match=r"d\.jsonl:1: no column 'x'"):
        read(folder / "d.jsonl", column="x")


def test_a_folder_is_read_with_those_that_links_lead_to(folder: Path, tmp_path: Path) -> None:
    for name in ("books/1", "books/2/back", "books/.hidden", "elsewhere/deep"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.txt").write_text(name)
    books = tmp_path / "books"
    before = read(books)
    (books / "0").symlink_to("2")  # is read as 2, where it stood before
    (books / "2" / "back" / "up").symlink_to("../..")
    assert read(books) == before == ["books/1", "books/2/back"]
    (books / "11").symlink_to("../elsewhere")
    (tmp_path / "elsewhere" / "deep" / "books").symlink_to("../../books")
    (books / ".not").symlink_to(folder)
    assert read(books) == ["books/1", "elsewhere/deep", "books/2/back"]


def test_paths_may_be_relative_or_start_at_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    assert read("b.txt") == read("~/b.txt") == read("./b*") == ["bee"]


def test_documents_may_be_read_after_the_next_ones_were_asked_for(folder: Path) -> None:
    documents = list(TextFiles(str(folder)).documents())
    assert ["".join(document) for document in documents] == ["ay", "bee", "sea", "see"]


def test_progress_ends_at_the_size(folder: Path) -> None:
    files = TextFiles(str(folder))
    for document in files.documents():
        assert files.done <= files.size
        list(document)
    assert files.done == files.size == 50


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (
            "bb.txt",
            r"data\.path=.*/bb\.txt: there is no such file; did you mean data\.path=.*/b\.txt\?",
        ),
        ("subs/c.jsonl", r"there is no folder .*/subs; did you mean data\.path=.*/sub\?"),
        ("wholly/elsewhere.txt", r"there is no folder .*/wholly; give one that exists"),
        ("sub/image.png", r"image\.png: expected a file whose name ends in \.txt, \.md, \.jsonl"),
        ("*.tsv", r"\*\.tsv: this glob finds no file that ends in \.txt"),
        ("nothing", r"nothing: no file in this folder ends in \.txt"),
    ],
)
def test_a_path_that_leads_nowhere_is_named_with_the_cure(
    folder: Path, path: str, told: str
) -> None:
    (folder / "nothing").mkdir()
    with pytest.raises(UserError, match=told) as raised:
        TextFiles(str(folder / path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a" * 300, "sub/" + "a" * 300, "a" * 300 + "*.txt"])
def test_a_sentence_in_place_of_a_path_is_told(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"^data\.path=.*aa.*: .*; give "):
        TextFiles(str(folder / name))


def test_a_place_that_may_not_be_looked_at_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(place: str | Path) -> Any:
        if Path(place).name == "sub":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", closed)
    told = rf"^data\.path={folder}: {folder}/sub: Permission denied; give a file or folder that can"
    with pytest.raises(UserError, match=told):
        TextFiles(str(folder))
    monkeypatch.setattr(Path, "is_dir", closed)
    with pytest.raises(
        UserError, match=rf"^data\.path={folder}/sub: Permission denied; give a file"
    ):
        TextFiles(str(folder / "sub"))


def test_errors_name_the_key_that_the_path_came_from(folder: Path) -> None:
    with pytest.raises(UserError, match=r"data\.val_path=no\.txt"):
        TextFiles("no.txt", key="data.val_path")
    with pytest.raises(UserError, match=r"data\.path is an empty list"):
        TextFiles([])


def content(files: TextFiles, cache_dir: Path) -> list[tuple[str, str]]:
    return [(part.sha256, part.form) for part in files.parts(cache_dir)]


def test_the_hash_follows_content_kind_and_column(tmp_path: Path) -> None:
    def hashed(name: str, text: str, column: str = "text") -> list[tuple[str, str]]:
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(text)
        return content(TextFiles(str(tmp_path / "data" / name), column), tmp_path)

    assert hashed("a.txt", "one") == hashed("b.txt", "one")
    assert hashed("a.txt", "one") != hashed("a.txt", "two") != hashed("a.csv", "two")
    assert hashed("a.txt", "one") != hashed("a.csv", "one")
    assert hashed("a.csv", "one", "text") != hashed("a.csv", "one", "body")
    assert hashed("a.txt", "one", "text") == hashed("a.txt", "one", "body")


def test_a_file_is_hashed_again_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = Mock(wraps=corpus.file_sha256)
    monkeypatch.setattr(corpus, "file_sha256", hashed)
    monkeypatch.setattr(corpus, "MEMO_AGE_NS", -1)
    path = tmp_path / "a.txt"
    path.write_text("one")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    first = content(TextFiles(str(path)), tmp_path)
    assert content(TextFiles(str(path)), tmp_path) == first
    assert hashed.call_count == 1

    time.sleep(0.05)  # longer than a tick of the file system's clock
    path.write_text("two")
    os.utime(path, ns=times)
    assert content(TextFiles(str(path)), tmp_path) != first
    assert hashed.call_count == 2


def test_a_file_written_a_moment_ago_is_not_taken_for_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    content(TextFiles(str(path)), tmp_path)
    assert not (tmp_path / "hashes.json").exists()
