"""Files become text."""

import gzip
import zipfile
from pathlib import Path

import pytest
import zstandard

from gptlit.data import readers
from gptlit.data.readers import existing, file_kind, read_text
from gptlit.errors import UserError


def text(path: Path) -> str:
    kind = file_kind(path)
    assert kind is not None
    return "".join(read_text(path, kind, lambda done: None))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_where_chunks_end_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str, chunk: int
) -> None:
    monkeypatch.setattr(readers, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(readers, "PACKED_CHUNK_BYTES", chunk)
    plain = "\ufeffénd of lines\r\n stay 😀\nnaïve 日本"
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packing]
    path = tmp_path / f"text.txt{packing}"
    path.write_bytes(pack(plain.encode()))
    assert text(path) == plain.removeprefix("\ufeff")


def test_a_zst_file_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "text.txt.zst"
    path.write_bytes(zstandard.compress(b"one ") + zstandard.compress(b"two"))
    assert text(path) == "one two"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"fine until \xff here", r"t\.txt is not UTF-8 text: byte 0xff at offset 11"),
        (b"caf\xe9", r"byte 0xe9 at offset 3 .*iconv -f latin1 -t utf-8$"),
        ("naïve 😀".encode()[:-1], r"offset 7 \(unexpected end of data\)"),
        (b"GIF8\x00", r"t\.txt is a binary file: NUL byte at offset 4"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 4, 1 << 20])
def test_no_text_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, told: str, chunk: int
) -> None:
    monkeypatch.setattr(readers, "CHUNK_BYTES", chunk)
    path = tmp_path / "t.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=told):
        text(path)


def test_a_workbook_called_csv_is_told_from_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with zipfile.ZipFile(path, "w") as workbook:
        workbook.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(
        UserError, match=r"a\.csv is not text but a zip archive.* save the sheet as"
    ):
        text(path)


@pytest.mark.parametrize("order", ["le", "be"])
def test_what_windows_calls_unicode_is_told_as_utf_16(tmp_path: Path, order: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffThe cat".encode(f"utf-16-{order}"))
    with pytest.raises(UserError, match=r"not UTF-8 text but UTF-16; .* iconv -f utf-16 -t utf-8$"):
        text(path)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        (
            "a.txt.gz",
            b"no gzip",
            r"a\.txt\.gz is damaged: .*, or take \.gz off its name if it is not",
        ),
        (
            "a.txt",
            gzip.compress(b"text", mtime=0),
            r"a\.txt is a \.gz file by its content: name it a\.txt\.gz$",
        ),
        ("a.txt", zstandard.compress(b"text"), r"a\.txt is a \.zst file by its .* a\.txt\.zst$"),
        ("a.txt", b"PAR1\x15\0", r"a\.txt is a \.parquet file by its content: name it a\.parquet$"),
        ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-9], r"a\.txt\.gz is damaged"),
        ("a.txt.zst", b"no zstandard", r"a\.txt\.zst is damaged"),
        (
            "a.txt.zst",
            zstandard.compress(b"text" * 99)[:-1],
            r"a\.txt\.zst is damaged: .*end early",
        ),
    ],
)
def test_damaged_files_are_named_in_one_line(
    tmp_path: Path, name: str, data: bytes, told: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=told) as raised:
        text(path)
    assert "\n" not in str(raised.value)


def test_a_path_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text\n")
    (tmp_path / "moved.csv").symlink_to("gone.csv")
    assert existing(str(tmp_path), "input") == tmp_path
    for name, told in {
        "review.csv": r"review\.csv: there is no such file; did you mean input=.*/reviews\.csv\?",
        "moved.csv": r"input=.*/moved\.csv: .*/moved\.csv is a link that leads to no file; mend it",
        "other": r"other: there is no such file; give one that exists",
        "folder/reviews.csv": r"there is no folder .*/folder; give one that exists",
    }.items():
        with pytest.raises(UserError, match=told):
            existing(tmp_path / name, "input")


def test_a_path_that_cannot_be_looked_at_is_told_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    with pytest.raises(UserError, match=r"^input=.*aaa: .*; give "):
        existing(tmp_path / ("a" * 300), "input")
    with pytest.raises(UserError, match=r"^input=~no one/a\.csv: Could not determine home"):
        existing("~no one/a.csv", "input")
    monkeypatch.setattr(Path, "exists", closed)
    with pytest.raises(UserError, match=r"^input=a\.csv: Permission denied; give a file or folder"):
        existing("a.csv", "input")
