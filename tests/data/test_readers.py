import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import zstandard

from gptlit.data import readers
from gptlit.data.readers import file_kind, read_rows, read_text
from gptlit.errors import UserError

ROWS = ["plain", 'comma, "quotes"\nand a line end', "naïve 日本 😀", "  spaces  ", "1234"]


def texts(path: Path, column: str = "text") -> list[str]:
    kind = file_kind(path)
    assert kind is not None
    return list(read_rows(path, kind, column, lambda done: None))


def text(path: Path) -> str:
    kind = file_kind(path)
    assert kind is not None
    return "".join(read_text(path, kind, lambda done: None))


def packed(data: bytes, packing: str) -> bytes:
    if packing == ".gz":
        return gzip.compress(data)
    return zstandard.compress(data) if packing == ".zst" else data


def as_csv(rows: list[str]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(rows))
    return file.getvalue().encode()


def as_jsonl(rows: list[str]) -> bytes:
    return "\n".join(json.dumps({"id": i, "text": row}) for i, row in enumerate(rows)).encode()


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("suffix", "write"), [(".csv", as_csv), (".jsonl", as_jsonl)])
def test_rows_read_the_same_from_every_kind_of_file(
    tmp_path: Path, suffix: str, write: Callable[[list[str]], bytes], packing: str
) -> None:
    path = tmp_path / f"rows{suffix}{packing}"
    path.write_bytes(packed(write(ROWS), packing))
    assert texts(path) == ROWS


def test_rows_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"id": range(5), "text": ROWS}).to_parquet(path)
    assert texts(path) == ROWS


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_where_chunks_end_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str, chunk: int
) -> None:
    monkeypatch.setattr(readers, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(readers, "PACKED_CHUNK_BYTES", chunk)
    plain = "\ufeffénd of lines\r\n stay 😀\n" + "\n".join(ROWS)
    path = tmp_path / f"text.txt{packing}"
    path.write_bytes(packed(plain.encode(), packing))
    assert text(path) == plain.removeprefix("\ufeff")
    path = tmp_path / f"rows.csv{packing}"
    path.write_bytes(packed(b"\xef\xbb\xbf" + as_csv(ROWS), packing))
    assert texts(path, "id") == ["0", "1", "2", "3", "4"]
    assert texts(path) == ROWS


def test_a_zst_file_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "text.txt.zst"
    path.write_bytes(zstandard.compress(b"one ") + zstandard.compress(b"two"))
    assert text(path) == "one two"


def test_a_field_may_be_longer_than_csvs_default_limit(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(as_csv(["word " * 100_000]))
    assert texts(path) == ["word " * 100_000]


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    for name, data in [
        ("a.jsonl.gz", gzip.compress(as_jsonl(ROWS))),
        ("a.csv", as_csv(ROWS)),
        ("a.jsonl.zst", zstandard.compress(as_jsonl(ROWS))),
    ]:
        (tmp_path / name).write_bytes(data)
    pd.DataFrame({"text": ROWS}).to_parquet(tmp_path / "a.parquet")
    for path in tmp_path.iterdir():
        kind = file_kind(path)
        seen: list[int] = []
        assert kind is not None
        list(read_rows(path, kind, "text", seen.append))
        assert seen[-1] == path.stat().st_size
        assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"fine until \xff here", r"t\.txt is not UTF-8 text: byte 0xff at offset 11"),
        (b"caf\xe9", r"byte 0xe9 at offset 3"),
        ("naïve 😀".encode()[:-1], r"offset 7 \(unexpected end of data\)"),
        (b"PK\x03\x04\x00", r"t\.txt is a binary file: NUL byte at offset 4"),
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


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.jsonl", b'{"body": "x", "id": 1}\n', r"a\.jsonl:1: no column 'text'; .*'body', 'id'"),
        (
            "a.csv",
            b"body,id\nx,1\n",
            r"a\.csv: no column 'text'; there are: 'body', 'id'.*data\.col",
        ),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', r"a\.jsonl:3 is not JSON"),
        ("a.jsonl", b'"x"\n', r"a\.jsonl:1 is no JSON object"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": 7}\n',
            r"a\.jsonl:2: column 'text' holds 7, expected",
        ),
        ("a.jsonl", b'{"text": null}\n', r"a\.jsonl:1: column 'text' holds None"),
        ("a.csv", b"id,text\n1,x\n2\n", r"a\.csv:3: column 'text' holds None"),
        ("a.csv", b'text\nfine\n"never ends\nhere\n', r"a\.csv:4 is not CSV"),
        ("a.parquet", b"no parquet", r"a\.parquet cannot be read as Parquet"),
        ("a.txt.gz", b"no gzip", r"a\.txt\.gz is damaged"),
        ("a.txt.gz", gzip.compress(b"text" * 99)[:-9], r"a\.txt\.gz is damaged"),
        ("a.txt.zst", b"no zstandard", r"a\.txt\.zst is damaged"),
        (
            "a.txt.zst",
            zstandard.compress(b"text" * 99)[:-1],
            r"a\.txt\.zst is damaged: .*end early",
        ),
    ],
)
def test_mistakes_in_a_file_are_named_in_one_line(
    tmp_path: Path, name: str, data: bytes, told: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=told) as raised:
        text(path) if ".txt" in name else texts(path)
    assert "\n" not in str(raised.value)


def test_mistakes_in_parquet_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": ["x", None], "number": [1, 2]}).to_parquet(path)
    with pytest.raises(UserError, match="no column 'body'; there are: 'text', 'number'"):
        texts(path, "body")
    with pytest.raises(UserError, match="row 1: column 'number' holds 1, expected text"):
        texts(path, "number")
    with pytest.raises(UserError, match="row 2: column 'text' holds None"):
        texts(path)
