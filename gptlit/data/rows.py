"""The rows of a table, one after another: .csv, .tsv, .json, .jsonl and .parquet.

Every mistake in a file ends in a UserError that names the file and the place in it.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptlit.data.readers import FileKind, Seen, read_text
from gptlit.errors import UserError

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row]]
"""The place of each row, for errors, and the row itself."""
Wanted = Sequence[tuple[str, str]]
"""Names of columns, each with the config key that it came from."""
SET = "set {key}=…"
NAME = f"{SET}, or name the columns in the first line"
MEND = f"mend or remove the row, or {SET}"
"""Advice on a column that is not there: in general, in a file with a header, and in a row below
others that have it."""


def read_rows(
    file: Path, kind: FileKind, wanted: Wanted = (), seen: Seen = lambda done: None
) -> Rows:
    """The rows of a table, as a stream. A .tsv file has no quotes, as its standard says. A .json
    file is one list, which is read whole.

    Args:
        file: .csv, .tsv, .json or .jsonl, plain or packed, or .parquet.
        kind: its kind.
        wanted: columns that every row must have; others may be left out. If empty, rows have all.
        seen: called with how many bytes of the file have been read.

    Raises:
        UserError: the file is damaged or binary, a row is broken, or a column is missing.
    """
    if kind.suffix == ".parquet":

        def pick(names: list[str]) -> list[str]:
            check_columns(file, names, wanted)
            return [name for name, _ in wanted] or names

        return parquet_rows(file, pick, seen)
    chunks = read_text(file, kind, seen)
    if kind.suffix == ".json":
        return _listed_rows(file, json_list(file, chunks, "objects"), wanted)
    lines = text_lines(chunks)
    if kind.suffix == ".jsonl":
        return _json_rows(file, lines, wanted)
    return _delimited_rows(file, kind.suffix, lines, wanted)


def read_texts(
    file: Path, kind: FileKind, column: str, key: str, seen: Seen = lambda done: None
) -> Iterator[str]:
    """The text in `column` of each row of `read_rows`.

    Also raises UserError for a value that is not text, naming the config's `key` for the column.
    """
    for place, row in read_rows(file, kind, [(column, key)], seen):
        if not isinstance(row[column], str):
            raise not_text(place, column, row[column], key)
        yield row[column]


def text_lines(chunks: Iterable[str]) -> Iterator[str]:
    """The lines of a text that comes in chunks, with their ends: \\n, \\r\\n or \\r."""
    held: list[str] = []
    end = ""  # a \r at the end of a chunk may be half of \r\n
    for chunk in chunks:
        text = end + chunk
        end = "\r" if text.endswith("\r") else ""
        for line in io.StringIO(text.removesuffix(end), newline=""):
            held.append(line)
            if line.endswith(("\r", "\n")):
                yield "".join(held)
                held = []
    if held or end:
        yield "".join(held) + end


def parquet_rows(
    file: Path, pick: Callable[[list[str]], Sequence[str]], seen: Seen = lambda done: None
) -> Rows:
    """The rows of a .parquet file, as a stream.

    Args:
        file: the file.
        pick: takes the names of all columns, and returns those that the rows are to have.
        seen: called with how many bytes of the file have been read.

    Raises:
        UserError: the file cannot be read.
    """
    from pyarrow.parquet import ParquetFile

    with named_as_parquet(file), ParquetFile(file) as opened:
        columns = pick(opened.schema_arrow.names)
        size, rows, number = file.stat().st_size, opened.metadata.num_rows, 0
        for batch in opened.iter_batches(batch_size=1024, columns=list(columns)):
            # Of columns with the same name take the first, as in a .csv file.
            first = batch.select([batch.schema.names.index(name) for name in columns])
            for row in arrow_rows(first):
                number += 1
                yield place_of(file, number), row
            seen(size * number // rows)


def arrow_rows(arrow: Any) -> Iterator[Row]:
    """The rows of a pyarrow table or batch. A column of dates or times that Python cannot hold
    (the year 10000, nanoseconds) becomes one of text.

    Raises OverflowError and ValueError for such dates inside of lists and objects.
    """
    columns = [_values(column) for column in arrow.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(arrow.schema.names, values, strict=True))


def _values(column: Any) -> list[Any]:
    import pyarrow

    try:
        return column.to_pylist()
    except (OverflowError, ValueError):
        if not pyarrow.types.is_temporal(column.type):
            raise
        return column.cast(pyarrow.string()).to_pylist()


@contextmanager
def named_as_parquet(file: Path) -> Iterator[None]:
    """Turn errors of pyarrow into a UserError that names the file."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OverflowError, ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read as Parquet: {error}; write it again") from None


def place_of(file: Path, number: int) -> str:
    """How errors name a row of a file without lines, counted from 1."""
    return f"{file}: row {number}"


def _delimited_rows(file: Path, suffix: str, lines: Iterator[str], wanted: Wanted) -> Rows:
    csv.field_size_limit(2**31 - 1)  # many texts are longer than the default of 128 KiB
    if suffix == ".tsv":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        cure = "texts in a .tsv file have no tabs and line ends, and quotes mean nothing"
    else:
        reader = csv.reader(lines, strict=True)
        cure = 'put texts with commas, quotes or line ends in quotes, and "" for a quote inside'
    header: list[str] | None = None
    try:
        header = next(reader, None)
        if header is None:
            among = f", {_listed(wanted)} among them" if wanted else ""
            raise UserError(
                f"{file} is empty; expected a line with the names of the columns{among}, and rows "
                "below it"
            )
        check_columns(file, header, wanted, NAME)
        at = {name: header.index(name) for name, _ in wanted}
        if not wanted:
            at = {name: i for i, name in enumerate(header)}
            check_distinct(file, header)
        for fields in reader:
            if fields and len(fields) != len(header):
                raise UserError(
                    f"{file}:{reader.line_num} has {len(fields)} fields, but the first line names "
                    f"{len(header)} columns: {other_separator(header) or cure}"
                )
            if fields:
                yield f"{file}:{reader.line_num}", {name: fields[i] for name, i in at.items()}
    except csv.Error as error:
        cure = other_separator(header or ()) or cure
        raise UserError(
            f"{file}:{reader.line_num} cannot be read as {suffix}: {error}; {cure}"
        ) from None


def _json_rows(file: Path, lines: Iterator[str], wanted: Wanted) -> Rows:
    cure = SET
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            row = json_line(line)
        except ValueError as error:
            raise UserError(f"{place} is not JSON: {error}; expected one object per line") from None
        yield place, _object(place, row, wanted, cure)
        cure = MEND


def json_line(line: str) -> Any:
    """What a line of a .jsonl file holds. Raises ValueError, which names the column, if it is not
    JSON."""
    try:
        return json.loads(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:  # counts the lines of its text, which is one
        raise ValueError(f"{error.msg}: column {error.pos + 1}") from None
    except RecursionError as error:
        raise ValueError(str(error)) from None


def json_list(file: Path, chunks: Iterable[str], what: str) -> list[Any]:
    """The list that a .json file holds; an empty one if the file has no text.

    Args:
        file: its path, for errors.
        chunks: its text.
        what: what its elements are called in errors.

    Raises:
        UserError: it is not JSON, or no list.
    """
    text = "".join(chunks)
    if not text.strip():
        return []
    try:
        there = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is not JSON: {error}; expected one list of {what} (if each line is one of "
            "them, name the file .jsonl)"
        ) from None
    if not isinstance(there, list):
        by_column = isinstance(there, dict) and all(isinstance(one, dict) for one in there.values())
        cure = ", as pandas writes with orient='records'" if there and by_column else ""
        raise UserError(
            f"{file} holds {kind_of(there)}; expected one list of {what}, [{{…}}, …]{cure}"
        )
    return there


def _listed_rows(file: Path, rows: list[Any], wanted: Wanted) -> Rows:
    for number, row in enumerate(rows, 1):
        place = place_of(file, number)
        yield place, _object(place, row, wanted, MEND if number > 1 else SET)


def _object(place: str, row: Any, wanted: Wanted, cure: str) -> Row:
    """A row of JSON, if it is an object with the wanted keys; `cure` as in `check_columns`."""
    if not isinstance(row, dict):
        form = f"the keys {_listed(wanted)}" if wanted else "a key for each column"
        raise UserError(f"{place} is no JSON object but {kind_of(row)}; expected one with {form}")
    check_columns(place, row, wanted, cure)
    return row


def check_columns(place: object, names: Collection[str], wanted: Wanted, cure: str = SET) -> None:
    """Raises UserError if a wanted column is not among the names. `cure` says what to do, with a
    place for the config key."""
    for name, key in wanted:
        if name not in names:
            there = ", ".join(map(shown, names)) or "none"
            told = other_separator(names) or cure.format(key=key)
            raise UserError(f"{place}: no column {name!r}; there are: {there}; {told}")


def other_separator(names: Collection[str]) -> str:
    """What to do if a table seems to have another separator, all its names in one; else ""."""
    only = next(iter(names), "") if len(names) == 1 else ""
    for mark, said in ((";", "semicolons"), ("\t", "tabs")):
        if mark in only:
            return f"{said} are between its columns: use commas in a .csv file, tabs in a .tsv file"
    return ""


def check_distinct(file: Path, names: Sequence[str]) -> None:
    """Raises UserError for two columns of the same name. Several without a name are allowed, since
    spreadsheets write them for cells that were emptied."""
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise UserError(f"{file} has two columns {twice!r}; give them different names")


def _listed(wanted: Wanted) -> str:
    return " and ".join(repr(name) for name, _ in wanted)


def not_text(place: str, column: str, value: object, key: str) -> UserError:
    """The error for a column, set by the config's `key`, whose value at `place` is not text."""
    return UserError(
        f"{place}: column {column!r} holds {shown(value)}, expected text; mend or remove the row, "
        f"or set {key} to a column of text"
    )


def shown(value: object) -> str:
    """A value as errors show it, 40 characters at most."""
    short = repr(value)
    return short if len(short) <= 40 else short[:37] + "..."


def kind_of(value: Any) -> str:
    """What a value of JSON is, for errors: "an object", "a number"."""
    kinds = {dict: "an object", list: "a list", str: "text", type(None): "null"}
    kinds |= {bool: "true or false", int: "a number", float: "a number"}
    if isinstance(value, float) and math.isnan(value):  # how pandas writes a missing text
        return "NaN"
    return kinds.get(type(value)) or f"{value!r:.40}"
