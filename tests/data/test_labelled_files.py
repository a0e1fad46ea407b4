import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from gptlit.data.labelled_files import Columns, LabelledTable, class_names, read_labelled_table
from gptlit.errors import UserError

COLUMNS = Columns("text", "label")
TEXTS = ["plain", 'comma, "quotes"\nand a line end\r\n', "naïve 日本 😀", "  spaces  ", "12", ""]
LABELS = ["ham", "spam", "ham", "eggs", "ham", "spam"]


def as_csv(texts: list[str], labels: list[Any]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["id", "label", "text"])
    writer.writerows(zip(range(len(texts)), labels, texts, strict=True))
    return file.getvalue().encode()


def as_jsonl(texts: list[str], labels: list[Any]) -> bytes:
    rows = zip(texts, labels, strict=True)
    return "\n".join(json.dumps({"text": t, "id": 1, "label": n}) for t, n in rows).encode()


def as_json(texts: list[str], labels: list[Any]) -> bytes:
    return b"[" + as_jsonl(texts, labels).replace(b"\n", b",\n") + b"]"


def read(path: Path, columns: Columns = COLUMNS) -> LabelledTable:
    return read_labelled_table(str(path), columns)


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("suffix", "write"), [(".csv", as_csv), (".jsonl", as_jsonl), (".json", as_json)]
)
def test_rows_read_the_same_from_every_kind_of_file(
    tmp_path: Path, suffix: str, write: Callable[[list[str], list[str]], bytes], packing: str
) -> None:
    data = b"\xef\xbb\xbf" + write(TEXTS, LABELS)
    packed = {"": data, ".gz": gzip.compress(data), ".zst": zstandard.compress(data)}[packing]
    path = tmp_path / f"rows{suffix.upper()}{packing}"
    path.write_bytes(packed)
    table = read(path)
    assert (table.texts, table.labels, table.name) == (TEXTS, LABELS, str(path))


def test_rows_of_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": range(6), "text": TEXTS, "label": pd.Categorical(LABELS)})
    frame.to_parquet(tmp_path / "rows.parquet")
    table = read(tmp_path / "rows.parquet")
    assert (table.texts, table.labels) == (TEXTS, LABELS)


def test_a_tsv_file_has_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_bytes(b'label\ttext\nham\t"so, he said\nspam\tno" way \r\n\n')
    table = read(tmp_path / "rows.tsv")
    assert table.texts == ['"so, he said', 'no" way ']
    assert table.labels == ["ham", "spam"]


def test_other_names_of_columns(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("stars,the review,text\n5,good,x\n1,bad,y\n")
    table = read(tmp_path / "rows.csv", Columns("the review", "stars"))
    assert (table.texts, table.labels) == (["good", "bad"], ["5", "1"])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b", "B"], ["B", "a", "b"]),
        ([10, 2, -1], ["-1", "2", "10"]),
        (["10", "2", "x"], ["10", "2", "x"]),
        (["9" * 5000, "10"], ["10", "9" * 5000]),  # longer than Python's numbers may be
        ([True, False, True], ["False", "True"]),
        ([" ham", "ham ", "spam"], ["ham", "spam"]),
    ],
)
def test_what_labels_may_be(tmp_path: Path, labels: list[Any], names: list[str]) -> None:
    texts = [f"text {number}" for number in range(len(labels))]
    (tmp_path / "rows.jsonl").write_bytes(as_jsonl(texts, labels))
    (tmp_path / "rows.csv").write_bytes(as_csv(texts, labels))
    pd.DataFrame({"text": texts, "label": labels}).to_parquet(tmp_path / "rows.parquet")
    for path in tmp_path.iterdir():
        table = read(path)
        assert table.labels == [str(label).strip() for label in labels]
        assert class_names(table.labels) == names


@settings(derandomize=True, max_examples=100)
@given(rows=st.lists(st.tuples(st.text(), st.sampled_from("ab")), min_size=1))
def test_whatever_json_holds_is_read_as_text(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    texts = [text.replace("\0", "") for text, _ in rows]
    path.write_bytes(as_jsonl(texts, [label for _, label in rows]))
    table = read(path)
    assert table.labels == [label for _, label in rows]
    for found, text in zip(table.texts, texts, strict=True):
        assert found == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        found.encode()


def test_halves_of_characters_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a\\ud83d b", "label": "x\\ud83d"}')
    table = read(tmp_path / "rows.jsonl")
    assert (table.texts, table.labels) == (["a\ufffd b"], ["x\ufffd"])


MISTAKES = [
    ("a.csv", b"", r"a\.csv is empty; expected .* 'text' and 'label' among them"),
    ("a.csv", b"text,label\n", r"a\.csv has no rows; give one .* as data\.path="),
    ("a.jsonl", b"\n\n", r"a\.jsonl has no rows"),
    ("a.json", b"[]", r"a\.json has no rows; give one .* as data\.path="),
    ("a.json", b"", r"a\.json has no rows"),
    ("a.json", b"[1]", r"a\.json: row 1 is no JSON object but a number; expected .* 'text' and 'l"),
    (
        "a.json",
        b'[{"text": "x", "label": 1}, {"text": "y"}]',
        r"row 2: no column 'label'; .*'text'",
    ),
    (
        "a.json",
        b'[{"text": {"en": "x"}, "label": 1}]',
        r"row 1: column 'text' holds {'en'",
    ),
    ("a.csv", b"body,label\nx,ham\n", r"no column 'text'; there are: 'body', 'label'; set data\.t"),
    ("a.csv", b"text,kind\nx,ham\n", r"no column 'label'; .*'kind'; set data\.label_column"),
    ("a.csv", b"text;label\nx;ham\n", r"there are: 'text;label'"),
    ("a.csv", b"text,label\nx,ham\na, b,ham\n", r"a\.csv:3 has 3 fields, .* names 2 .*in quotes"),
    ("a.csv", b"text,label\nx,ham\ny\n", r"a\.csv:3 has 1 fields, .* names 2"),
    ("a.csv", b'text,label\nx,ham\n"never ends,ham\n', r"a\.csv:3 cannot be read as \.csv: .*quot"),
    ("a.csv", b"text,label\nx,ham\ny, \n", r"a\.csv:3: column 'label' holds ' ', expected a label"),
    ("a.csv", b"text,label\nx\0,ham\n", r"a\.csv is a binary file: NUL byte at offset 12"),
    ("a.csv", b"text,label\ncaf\xe9,ham\n", r"a\.csv is not UTF-8 text: byte 0xe9 at offset 14"),
    ("a.tsv", b'text\tlabel\n"x\ty"\tham\n', r"a\.tsv:2 has 3 fields, .*quotes mean nothing"),
    ("a.jsonl", b'{"text": "x", "label": "a"}\n{"text": \n', r"a\.jsonl:2 is not JSON"),
    (
        "a.jsonl",
        b'["x", "ham"]\n',
        r"a\.jsonl:1 is no JSON object but a list; .* 'text' and 'label'",
    ),
    ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1 is not JSON: maximum recursion depth"),
    ("a.jsonl", b'{"text": "x"}\n', r"a\.jsonl:1: no column 'label'; there are: 'text'"),
    ("a.jsonl", b'{"text": 7, "label": "a"}\n', r"a\.jsonl:1: column 'text' holds 7, expected t"),
    ("a.jsonl", b'{"text": null, "label": "a"}\n', r"column 'text' holds None"),
    ("a.jsonl", b'{"text": "a\\u0000b", "label": "a"}\n', r"column 'text' holds 'a\\x00b'"),
    ("a.jsonl", b'{"text": "x", "label": null}\n', r"column 'label' holds None, expected a label"),
    ("a.jsonl", b'{"text": "x", "label": 1.5}\n', r"column 'label' holds 1\.5, expected a label"),
    ("a.jsonl", b'{"text": "x", "label": ["a"]}\n', r"column 'label' holds \['a'\]"),
    (
        "a.jsonl",
        b'{"text": "x", "label": 1}\n{"text": "y", "label": "1"}\n',
        r"a\.jsonl:2: column 'label' holds '1', but whole numbers in the rows before",
    ),
    (
        "a.jsonl",
        b'{"text": "x", "label": 1}\n{"text": "y", "label": true}\n',
        r"a\.jsonl:2: column 'label' holds True, but whole numbers",
    ),
    ("a.parquet", b"no parquet", r"a\.parquet cannot be read as Parquet"),
    ("a.csv.gz", b"no gzip", r"a\.csv\.gz is damaged"),
    ("a.xlsx", b"PK", r"data\.path=.*a\.xlsx: expected a file whose name ends in \.csv, \.tsv"),
    ("a.parquet.gz", b"", r"a\.parquet\.gz: expected a file whose name ends"),
]


@pytest.mark.parametrize(("name", "data", "told"), MISTAKES)
def test_mistakes_in_a_file_are_named_in_one_line(
    tmp_path: Path, name: str, data: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=told) as raised:
        read(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_mistakes_in_parquet_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": ["x", None], "label": [1, 2], "share": [0.5, 1.0]}).to_parquet(path)
    with pytest.raises(UserError, match="no column 'kind'; there are: 'text', 'label', 'share'"):
        read(path, Columns("text", "kind"))
    with pytest.raises(UserError, match="row 2: column 'text' holds None, expected text"):
        read(path)
    with pytest.raises(UserError, match="row 1: column 'label' holds 1, expected text") as raised:
        read(path, Columns("label", "text"))
    assert "data.text_column" in str(raised.value)


def test_a_path_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    for name in ("missing.csv", "a.txt"):
        with pytest.raises(UserError, match=rf"data\.val_path=.*{name}: "):
            read_labelled_table(str(tmp_path / name), COLUMNS, "data.val_path")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_of_columns_with_one_name_the_first_counts(tmp_path: Path, suffix: str) -> None:
    names = ["", "text", "label", "text", "", ""]
    frame = pd.DataFrame([["", "first", "ham", "second", "", ""]], columns=names)
    path = tmp_path / f"rows{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        columns = [pyarrow.array(frame.iloc[:, i]) for i in range(len(names))]
        parquet.write_table(pyarrow.table(columns, names=names), path)
    assert (read(path).texts, read(path).labels) == (["first"], ["ham"])
