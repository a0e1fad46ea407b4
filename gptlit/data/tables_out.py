"""Tables written with more columns than they were read with: .csv, .tsv, .json, .jsonl and
.parquet."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from gptlit.data.tables import Table
from gptlit.errors import UserError
from gptlit.files import replacing
from gptlit.tokenizer import without_surrogates

NO_QUOTES = "\t\n\r"
"""Characters that no field of a .tsv file may have."""

Columns = Mapping[str, list[Any]]
"""Columns to add, by name, each with a value for each row."""


def check_writable(path: Path, table: Table, key: str) -> None:
    """Find out before the work whether its result can be written.

    Args:
        path: the file to write.
        table: the rows to write.
        key: the config key that `path` came from, named in errors.

    Raises:
        UserError: `path` is the table's own file or a folder, its folder does not exist, or its
            name stands for no format in which the rows can be written.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise UserError(f"{key}={path}: expected a file whose name ends in {', '.join(WRITERS)}")
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{key}={path}: give a file in a folder that exists")
    if path.exists() and path.samefile(table.path):
        raise UserError(f"{key}={path} is the file that is read; give another one")
    if suffix == ".tsv":
        rows = (row.values() for row in table.rows)
        places = (f"{table.path}: a column's name", *table.places)
        for place, fields in zip(places, chain([table.columns], rows), strict=True):
            if any(mark in _field(field) for field in fields for mark in NO_QUOTES):
                raise _not_in_tsv(place, key)


def check_labels(path: Path, labels: Iterable[str], key: str) -> None:
    """Find out before the work whether labels can be written into the table.

    Raises UserError as `check_writable` does.
    """
    for label in labels:
        if path.suffix.lower() == ".tsv" and any(mark in label for mark in NO_QUOTES):
            raise _not_in_tsv(f"the classifier's label {label!r:.40}", key)


def _not_in_tsv(what: str, key: str) -> UserError:
    return UserError(
        f"{what} has a tab or a line end in it, which .tsv cannot hold; give another format as"
        f" {key}=…"
    )


def write_table(path: Path, table: Table, more: Columns, key: str) -> None:
    """Write the rows and further columns, in the format that the name stands for. The file gets its
    final name only once it is complete.

    Args:
        path: allowed by `check_writable` and `check_labels`.
        table: the rows.
        more: columns that the table does not have.
        key: the config key that `path` came from, named in errors.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with replacing(path) as draft:
            WRITERS[path.suffix.lower()](draft, table, more)
    except OSError as error:
        # pyarrow's own message names the draft.
        why = os.strerror(error.errno) if error.errno else error
        raise UserError(f"cannot write {key}={path}: {why}; choose another file") from error


def _write_csv(draft: Path, table: Table, more: Columns) -> None:
    with draft.open("w", encoding="utf-8", errors="replace", newline="") as file:
        csv.writer(file).writerows(_fields(table, more))


def _write_tsv(draft: Path, table: Table, more: Columns) -> None:
    with draft.open("w", encoding="utf-8", errors="replace", newline="") as file:
        file.writelines("\t".join(fields) + "\n" for fields in _fields(table, more))


def _write_json(draft: Path, table: Table, more: Columns) -> None:
    with draft.open("wb") as file:
        for number, line in enumerate(_as_json(table, more)):
            file.write((b",\n" if number else b"[\n") + line)
        file.write(b"\n]\n")


def _write_jsonl(draft: Path, table: Table, more: Columns) -> None:
    with draft.open("wb") as file:
        file.writelines(line + b"\n" for line in _as_json(table, more))


def _as_json(table: Table, more: Columns) -> Iterator[bytes]:
    """Each row as an object, on one line."""
    for row in _extended(table, more):
        try:
            yield json.dumps(row, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:  # halves of surrogate pairs, which only escapes can hold
            yield json.dumps(row, default=str).encode()


def _write_parquet(draft: Path, table: Table, more: Columns) -> None:
    import pyarrow
    from pyarrow.parquet import write_table as write

    arrow = table.arrow
    if arrow is None:
        columns = [_arrow([row.get(name) for row in table.rows]) for name in table.columns]
        arrow = pyarrow.table(columns, [without_surrogates(name) for name in table.columns])
    for name, values in more.items():
        arrow = arrow.append_column(name, pyarrow.array(values))
    write(arrow, draft)


WRITERS: dict[str, Callable[[Path, Table, Columns], None]] = {
    ".csv": _write_csv,
    ".tsv": _write_tsv,
    ".json": _write_json,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
"""By the suffix of the file's name."""


def _extended(table: Table, more: Columns) -> Iterator[dict[str, Any]]:
    """Each row with the added columns."""
    for i, row in enumerate(table.rows):
        yield {**row, **{name: values[i] for name, values in more.items()}}


def _fields(table: Table, more: Columns) -> Iterator[list[str]]:
    """The names of the columns, then each row, as text."""
    names = [*table.columns, *more]
    yield names
    for row in _extended(table, more):
        yield [_field(row.get(name)) for name in names]


def _field(value: object) -> str:
    """A value as text: None is empty, and what JSON has a form for is written as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str) if _is_json(value) else str(value)


def _is_json(value: object) -> bool:
    return isinstance(value, bool | int | float | list | dict)


def _arrow(values: list[Any]) -> Any:
    """A column of one type. It is text if the values have several types, or one that Parquet lacks:
    whole numbers of more than 64 bits, and objects without keys."""
    import pyarrow
    from pyarrow.parquet import write_table as write

    try:
        column = pyarrow.array(values)
        write(pyarrow.table([column[:0]], [""]), pyarrow.BufferOutputStream())
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
        texts = [None if value is None else without_surrogates(_field(value)) for value in values]
        return pyarrow.array(texts)
    return column
