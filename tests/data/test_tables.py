"""Tables come out as they went in, with more columns."""

import csv
import datetime
import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from gptlit.data.tables import Table, read_table
from gptlit.data.tables_out import WRITERS, check_writable, write_table
from gptlit.errors import UserError

ROWS = [{"id": "1", "text": "hi"}, {"id": "2", "text": 'a, "b"'}, {"id": "", "text": ""}]
MORE: dict[str, list[Any]] = {"label": ["ham", "spam", "ham"], "probability": [0.5, 0.75, 1.0]}


def read(path: Path, column: str = "text") -> Table:
    return read_table(str(path), "input", column)


def write(table: Table, path: Path, more: dict[str, list[Any]] = MORE) -> Path:
    check_writable(path, table, "output")
    write_table(path, table, more, "output")
    return path


def given_as(folder: Path, suffix: str) -> Path:
    path = folder / f"given{suffix}"
    return write(Table(folder, ROWS, ["x"] * len(ROWS)), path, {})


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("output", WRITERS)
def test_any_format_becomes_any_other(tmp_path: Path, suffix: str, output: str) -> None:
    table = read(given_as(tmp_path, suffix))
    assert (table.rows, table.columns) == (ROWS, ["id", "text"])
    assert table.texts("text", "column") == ["hi", 'a, "b"', ""]
    back = read(write(table, tmp_path / f"out{output}"))
    number = str if output in (".csv", ".tsv") else float
    for i, (row, before) in enumerate(zip(back.rows, ROWS, strict=True)):
        assert row == {
            **before,
            "label": MORE["label"][i],
            "probability": number([0.5, 0.75, 1.0][i]),
        }
    assert {path.name for path in tmp_path.iterdir()} == {f"given{suffix}", f"out{output}"}


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=50)
@given(texts=st.lists(text, min_size=1, max_size=5))
def test_text_of_any_kind_survives(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("survives")
    table = Table(folder, [{"text": one} for one in texts], ["x"] * len(texts))
    for suffix in (".csv", ".json", ".jsonl", ".parquet"):
        path = write(table, folder / f"out{suffix}", {"label": texts})
        assert read(path).rows == [{"text": one, "label": one} for one in texts]
    if not any(mark in one for one in texts for mark in "\t\n\r"):
        path = write(table, folder / "out.tsv", {"label": texts})
        assert read(path).rows == [{"text": one, "label": one} for one in texts]


def test_a_text_file_has_one_text_on_each_line(tmp_path: Path) -> None:
    (tmp_path / "given.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n a, b \nlast")
    table = read(tmp_path / "given.txt", "message")
    assert table.texts("message", "column") == ["one", "", " a, b ", "last"]
    (tmp_path / "given.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    assert read(tmp_path / "given.txt.gz").texts("text", "column") == ["one", "two"]


def test_a_text_may_be_longer_than_csvs_default_limit(tmp_path: Path) -> None:
    (tmp_path / "given.csv").write_text("text\n" + "word " * 100_000)
    assert read(tmp_path / "given.csv").texts("text", "column") == ["word " * 100_000]


def test_several_columns_may_have_no_name(tmp_path: Path) -> None:
    (tmp_path / "given.csv").write_text("v1,text,,,\nham,hi,,,\n")
    table = read(tmp_path / "given.csv")
    assert table.rows == [{"v1": "ham", "text": "hi", "": ""}]


def test_columns_of_a_parquet_file_keep_their_types(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    given_ = pyarrow.table(
        {
            "text": ["a", "b"],
            "n": pyarrow.array([1, None], pyarrow.int16()),
            "day": [day, None],
            "tags": pyarrow.array(["x", "y"]).dictionary_encode(),
        }
    )
    parquet.write_table(given_, tmp_path / "given.parquet")
    table = read(tmp_path / "given.parquet")
    more = {"label": ["ham", "spam"]}
    back = parquet.read_table(write(table, tmp_path / "out.parquet", more))
    assert back.drop(["label"]) == given_
    with write(table, tmp_path / "out.csv", more).open(newline="") as file:
        assert [*csv.reader(file)][1] == ["a", "1", "2024-02-29", "x", "ham"]
    lines = write(table, tmp_path / "out.jsonl", more).read_text().splitlines()
    assert json.loads(lines[0])["day"] == "2024-02-29"


DATES = {
    "year": (pyarrow.timestamp("ms"), 253402300800 * 10**3, "10000-01-01 00:00:00.000"),
    "zone": (pyarrow.timestamp("us", "UTC"), 253402300800 * 10**6, "10000-01-01 00:00:00.000000Z"),
    "day": (pyarrow.date32(), -800_000, "-0221-09-04"),
    "nanoseconds": (pyarrow.timestamp("ns"), 10**18 + 1, "2001-09-09 01:46:40.000000001"),
    "time": (pyarrow.time64("ns"), 1, "00:00:00.000000001"),
}


@pytest.mark.parametrize("case", DATES)
def test_dates_that_python_has_none_for_come_out_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    kind, number, shown = DATES[case]
    given_ = pyarrow.table({"text": ["a", "b"], "date": pyarrow.array([number, None], kind)})
    parquet.write_table(given_, tmp_path / "given.parquet")
    with monkeypatch.context() as without_pandas:  # which has nanoseconds
        without_pandas.setattr(pyarrow.lib, "_pandas_api", SimpleNamespace(have_pandas=False))
        table, more = read(tmp_path / "given.parquet"), {"label": ["ham", "spam"]}
    with write(table, tmp_path / "out.csv", more).open(newline="") as file:
        assert [*csv.reader(file)][1:] == [["a", shown, "ham"], ["b", "", "spam"]]
    back = parquet.read_table(write(table, tmp_path / "out.parquet", more))
    assert back["date"] == given_["date"]


def test_a_date_inside_of_an_object_that_python_has_none_for_is_told(tmp_path: Path) -> None:
    date = pyarrow.StructArray.from_arrays([pyarrow.array([2**40], pyarrow.timestamp("s"))], ["x"])
    parquet.write_table(pyarrow.table({"text": ["a"], "x": date}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet cannot be read as Parquet: .*; write it again"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(("name", "form"), [("given.jsonl", "%s\n\n%s\n"), ("a.json", "[%s,%s]")])
def test_rows_of_json_may_differ(tmp_path: Path, name: str, form: str) -> None:
    rows = '{"text": "a", "n": 1}', '{"text": "\\ud800", "tags": ["x"], "ok": true}'
    (tmp_path / name).write_text(form % rows)
    table, more = read(tmp_path / name), {"label": ["ham", "spam"]}
    out = write(table, tmp_path / "out.jsonl", more).read_text().splitlines()
    assert json.loads(out[0]) == {"text": "a", "n": 1, "label": "ham"}
    assert json.loads(out[1])["text"] == "\ud800"
    listed = json.loads(write(table, tmp_path / "out.json", more).read_bytes())
    assert listed == [*map(json.loads, out)]
    with write(table, tmp_path / "out.csv", more).open(newline="", encoding="utf-8") as file:
        header, first, second = csv.reader(file)
    assert header == ["text", "n", "tags", "ok", "label"]
    assert (first, second[1:]) == (["a", "1", "", "", "ham"], ["", '["x"]', "true", "spam"])
    assert parquet.read_table(write(table, tmp_path / "out.parquet", more)).num_rows == 2


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(max_examples=100, derandomize=True)
@given(rows=st.lists(st.dictionaries(st.sampled_from("ab") | st.text(), values), min_size=1))
@example(rows=[{"a": 2**70}, {"a": 1}])
@example(rows=[{"a": {}}, {"a": [{}]}, {"a": {"b": {}}}])
@example(rows=[{"\ud800": {"\ud800": "\ud800"}}])
def test_whatever_json_has_can_be_written_as_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("json")
    lines = [json.dumps({"text": "x", **row}) for row in rows]
    (folder / "given.jsonl").write_text("\n".join(lines))
    out = write(
        read(folder / "given.jsonl"), folder / "out.parquet", {"label": ["ham"] * len(rows)}
    )
    assert parquet.read_table(out).num_rows == len(rows)


def test_what_parquet_has_no_type_for_is_text_there(tmp_path: Path) -> None:
    table = Table(tmp_path, [{"n": 2**70, "meta": {}}, {"n": 1, "meta": {"a": {}}}], ["x"] * 2)
    back = parquet.read_table(write(table, tmp_path / "out.parquet", {})).to_pylist()
    assert back == [{"n": str(2**70), "meta": "{}"}, {"n": "1", "meta": '{"a": {}}'}]


BAD = {
    "no columns": (
        "a.csv",
        "",
        r"a.csv is empty; expected a line with the names of the columns, and rows",
    ),
    "blank": ("a.jsonl", "\n \n", r"a.jsonl has no rows; give one with texts as input="),
    "only a header": ("a.csv", "text\n", r"a.csv has no rows"),
    "fields": ("a.csv", "text,x\na\n", r"a.csv:2 has 1 fields, but the first line names 2 columns"),
    "quote": ("a.csv", 'text\n"a\n', r"a.csv:2 cannot be read as .csv"),
    "twice": ("a.csv", "text,text\na,b\n", r"a.csv has two columns 'text'"),
    "no column": ("a.tsv", "txt\na\n", r"a.tsv:2: no column 'text'; there are: 'txt'; set column="),
    "semicolons": ("a.csv", "text;x\nA, b;1\n", r"a.csv:2 has 2 fields, .* 1 columns: semicolons"),
    "quoted and semicolons": ("a.csv", 'text;x\n"A"; "b"\n', r"cannot be read.*; semicolons are"),
    "json": ("a.jsonl", '{"text": "a"}\n{"text"\n', r"a.jsonl:2 is not JSON"),
    "no object": ("a.jsonl", "[1]\n", r"a.jsonl:1 is no JSON object"),
    "no object in a list": (
        "a.json",
        '[{"text": "a"}, 1]',
        r"a.json: row 2 is no JSON object but a n",
    ),
    "lines": ("a.json", '{"text": "a"}\n{"text": "b"}', r"a.json is not JSON: .*name .* .jsonl\)$"),
    "one object": (
        "a.json",
        '{"text": "a"}',
        r"a.json holds an object; .*one list of objects, .*\]$",
    ),
    "columns": ("a.json", '{"text": {"0": "a"}}', r"holds an object; .* with orient='records'$"),
    "one row without": (
        "a.jsonl",
        '{"text": "a"}\n{"x": 1}\n',
        r"a.jsonl:2: no column 'text'.*; mend or",
    ),
    "no text": ("a.jsonl", '{"text": null}\n', r"a.jsonl:1: column 'text' holds None, expected t"),
    "binary": ("a.csv", "text\n\0\n", r"a.csv is a binary file"),
    "parquet": ("a.parquet", "PAR1 no more", r"a.parquet cannot be read as Parquet"),
    "kind": ("a.xlsx", "text\n", r"input=.*a.xlsx: expected a file whose name ends in .csv, "),
    "markdown": ("a.md", "text\n", r"input=.*a.md: expected a file whose name ends in .csv, "),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_read_is_named_with_the_place(tmp_path: Path, case: str) -> None:
    name, content, pattern = BAD[case]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=pattern) as caught:
        read(tmp_path / name).texts("text", "column")
    assert "\n" not in str(caught.value)


def test_broken_text_in_a_parquet_file_is_named_too(tmp_path: Path) -> None:
    ends = pyarrow.array([0, 1], pyarrow.int32()).buffers()[1]
    column = pyarrow.StringArray.from_buffers(1, ends, pyarrow.py_buffer(b"\xff"))
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet cannot be read as Parquet: .* byte 0xff"):
        read(tmp_path / "a.parquet")


def test_two_columns_of_a_parquet_file_with_one_name_are_told(tmp_path: Path) -> None:
    columns = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    parquet.write_table(pyarrow.table(columns, ["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet has two columns 'text'; give them different"):
        read(tmp_path / "a.parquet")


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(
        UserError, match=r"input=.*: this is a folder; give one file whose name ends in"
    ):
        read(tmp_path / "folder.csv")


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    path = tmp_path / "given.csv"
    path.write_text('text\n"a\tb"\n')
    (tmp_path / "link.csv").symlink_to(path)
    table = read(path)
    for name, pattern in {
        "given.csv": r"output=.*given.csv is the file that is read",
        "link.csv": r"output=.*link.csv is the file that is read",
        "out.txt": r"output=.*out.txt: expected a file whose name ends in .csv, .tsv",
        "no/out.csv": r"output=.*out.csv: give a file in a folder that exists",
        "out.tsv": r"given.csv:2 has a tab or a line end in it, which .tsv cannot hold",
    }.items():
        with pytest.raises(UserError, match=pattern):
            check_writable(tmp_path / name, table, "output")
    path.write_text('text,"a\tb"\nx,y\n')
    with pytest.raises(UserError, match=r"given.csv: a column's name has a tab or a line end in"):
        check_writable(tmp_path / "out.tsv", read(path), "output")


def test_a_broken_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(draft: Path, *_: Any) -> None:
        draft.write_text("half")
        raise OSError(28, "No space left on device")

    table, out = read(given_as(tmp_path, ".csv")), tmp_path / "out.csv"
    out.write_text("before")
    monkeypatch.setitem(WRITERS, ".csv", full)
    with pytest.raises(UserError, match=r"cannot write output=.*: No space left on device; choose"):
        write_table(out, table, MORE, "output")
    assert out.read_text() == "before"
    broken = tmp_path / "no" / "out.parquet"
    with pytest.raises(UserError, match=r"cannot write output=.*out.parquet: No such file or dir"):
        write_table(broken, table, MORE, "output")
    assert {path.name for path in tmp_path.iterdir()} == {"given.csv", "out.csv"}
