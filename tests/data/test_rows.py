"""Rows of .csv, .tsv, .json, .jsonl and .parquet files."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from gptlit.data import readers
from gptlit.data.readers import FileKind, file_kind
from gptlit.data.rows import read_rows, read_texts, text_lines
from gptlit.errors import UserError

ROWS = ["plain", 'comma, "quotes"\nand a line end', "naïve 日本 😀", "  spaces  ", "1234", "\r\n"]


def kind_of(path: Path) -> FileKind:
    kind = file_kind(path)
    assert kind is not None
    return kind


def texts(path: Path, column: str = "text") -> list[str]:
    return list(read_texts(path, kind_of(path), column, "data.column"))


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
    pd.DataFrame({"id": range(len(ROWS)), "text": ROWS}).to_parquet(path)
    assert texts(path) == ROWS
    (first, row), *_ = read_rows(path, kind_of(path))
    assert (first, row) == (f"{path}: row 1", {"id": 0, "text": ROWS[0]})


def test_of_parquet_columns_with_one_name_the_first_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pyarrow.table([["first"], ["second"]], names=["text", "text"])
    parquet.write_table(table, path)
    assert texts(path) == ["first"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_where_chunks_end_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str, chunk: int
) -> None:
    monkeypatch.setattr(readers, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(readers, "PACKED_CHUNK_BYTES", chunk)
    path = tmp_path / f"rows.csv{packing}"
    path.write_bytes(packed(b"\xef\xbb\xbf" + as_csv(ROWS), packing))
    assert texts(path, "id") == ["0", "1", "2", "3", "4", "5"]
    assert texts(path) == ROWS


@given(st.text("ab\r\n", min_size=1), st.integers(1, 9))
def test_lines_are_those_of_the_whole_text(text: str, chunk: int) -> None:
    chunks = [text[start : start + chunk] for start in range(0, len(text), chunk)]
    assert list(text_lines(chunks)) == text.splitlines(keepends=True)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_is_one(tmp_path: Path, end: str) -> None:
    for name, lines in [("a.csv", ["text", "one", "two"]), ("a.tsv", ["text", "one", "two"])]:
        path = tmp_path / name
        path.write_text(end.join(lines), newline="")
        kind = file_kind(path, (".csv", ".tsv"))
        assert kind is not None
        assert list(read_texts(path, kind, "text", "data.column")) == ["one", "two"]


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
        seen: list[int] = []
        list(read_rows(path, kind_of(path), [("text", "data.column")], seen.append))
        assert seen[-1] == path.stat().st_size
        assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.jsonl", b'{"body": "x", "id": 1}\n', r"a\.jsonl:1: no column 'text'; .*'body', 'id'"),
        (
            "a.csv",
            b"body,id\nx,1\n",
            r"a\.csv: no column 'text'; there are: 'body', 'id'.*data\.col",
        ),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', r"a\.jsonl:3 is not JSON: .*: column 10; e"),
        ("a.jsonl", b'"x"\n', r"a\.jsonl:1 is no JSON object but text; .* with the keys 'text'$"),
        ("a.jsonl", b'{"x": 1}\n', r"a\.jsonl:1: no column 'text'; there are: 'x'; set data\.col"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"x": 1}\n',
            r"a\.jsonl:2: no column 'text'; .*'x'; mend or remove the row, or set data\.column=…$",
        ),
        (
            "a.csv",
            b"1,%s\n" % (b"word " * 99),
            r"'1', 'word .{31}\.\.\.; set data\.column=…, or name the columns",
        ),
        ("a.csv", b'a;text\n"x"; "y"\n', r"column 'text'; .*; semicolons are between its columns"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": 7}\n',
            r"a\.jsonl:2: column 'text' holds 7, expected",
        ),
        ("a.jsonl", b'{"text": null}\n', r"a\.jsonl:1: column 'text' holds None"),
        ("a.csv", b"id,text\n1,x\n2\n", r"a\.csv:3 has 1 fields, .* names 2 columns"),
        ("a.csv", b"text;id\nx;1\n", r"there are: 'text;id'; semicolons are .* commas in a \.csv"),
        ("a.csv", b"text\tid\nx\t1\n", r"there are: .*; tabs are .*, tabs in a \.tsv file"),
        ("a.csv", b'text\nfine\n"never ends\nhere\n', r"a\.csv:4 cannot be read as \.csv"),
        ("a.parquet", b"no parquet", r"a\.parquet cannot be read as Parquet"),
    ],
)
def test_mistakes_in_a_file_are_named_in_one_line(
    tmp_path: Path, name: str, data: bytes, told: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=told) as raised:
        texts(path)
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
