"""Tables read whole, with all columns: .csv, .tsv, .jsonl, .parquet, and .txt, which has one text
on each line.

Every mistake in a file ends in a UserError that names the file and the place in it.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlit.data.labelled_files import existing, table_kind
from gptlit.data.readers import FileKind, file_kind, read_text
from gptlit.errors import UserError

READABLE = (
    ".csv, .tsv, .jsonl, .parquet or .txt, or, but for .parquet, one of these and .gz or .zst"
)

Row = Mapping[str, Any]


@dataclass
class Table:
    """The rows of a file. A row of a .jsonl file has the keys that stand there; rows of other files
    have all columns."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    """Where each row stands, for errors."""
    arrow: Any = None
    """A .parquet file as pyarrow has it, with the columns' types."""

    @property
    def columns(self) -> list[str]:
        """The names of all columns, as they first occur."""
        return list(self.arrow.column_names if self.arrow else dict.fromkeys(_names(self.rows)))

    def texts(self, column: str, key: str) -> list[str]:
        """The text of each row.

        Args:
            column: its name.
            key: of the config, that sets it.

        Raises:
            UserError: there is no such column, or it holds something that is no text.
        """
        found = []
        for place, row in zip(self.places, self.rows, strict=True):
            if column not in row:
                there = ", ".join(map(repr, row)) or "none"
                raise UserError(f"{place}: no column {column!r}; there are: {there}; set {key}=…")
            if not isinstance(row[column], str):
                shown = repr(row[column])
                raise UserError(
                    f"{place}: column {column!r} holds {shown[:37]}{'...' * (len(shown) > 37)},"
                    f" expected text; mend or remove the row, or set {key} to a column of text"
                )
            found.append(row[column])
        return found


def read_table(path: str, key: str, column: str) -> Table:
    """Read a table.

    Args:
        path: a file whose name ends as in `READABLE`.
        key: the config key that `path` came from, named in errors.
        column: the name of a .txt file's one column.

    Raises:
        UserError: the file is not there, of no known kind, damaged, binary or without rows.
    """
    file = existing(path, key)
    kind = table_kind(file) or file_kind(file)
    if kind is None or kind.suffix == ".md" or not file.is_file():
        raise UserError(f"{key}={path}: expected a file whose name ends in {READABLE}")
    table = Table(file)
    if kind.suffix == ".parquet":
        table.arrow = _read_parquet(file)
        table.rows = table.arrow.to_pylist()
        table.places = [f"{file}: row {number}" for number in range(1, len(table.rows) + 1)]
    else:
        text = "".join(read_text(file, kind, lambda done: None))
        for place, row in _records(file, kind, text, column):
            table.places.append(place)
            table.rows.append(row)
    if not table.rows:
        raise UserError(f"{file} has no rows; give one with texts as {key}=…")
    return table


def _records(file: Path, kind: FileKind, text: str, column: str) -> Iterator[tuple[str, Row]]:
    """Where each row stands, and the row."""
    if kind.suffix in (".csv", ".tsv"):
        yield from _delimited(file, kind, text)
        return
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        place = f"{file}:{number}"
        if kind.suffix == ".txt":
            yield place, {column: line.removesuffix("\r")}
        elif line.strip():
            yield place, _parsed(place, line)


def _parsed(place: str, line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {error}; expected one object per line") from None
    if not isinstance(row, dict):
        raise UserError(f"{place} is no JSON object; expected one per line")
    return row


def _delimited(file: Path, kind: FileKind, text: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than many a text
    lines = io.StringIO(text, newline="")
    if kind.suffix == ".tsv":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        cure = "texts in a .tsv file have no tabs and line ends, and quotes mean nothing"
    else:
        reader = csv.reader(lines, strict=True)
        cure = 'put texts with commas, quotes or line ends in quotes, and "" for a quote inside'
    try:
        header = next(reader, [])
        if twice := next((name for name in header if header.count(name) > 1), None):
            raise UserError(f"{file} has two columns {twice!r}; give them different names")
        for fields in reader:
            if fields and len(fields) != len(header):
                raise UserError(
                    f"{file}:{reader.line_num} has {len(fields)} fields, but the first line names"
                    f" {len(header)} columns: {cure}"
                )
            if fields:
                yield f"{file}:{reader.line_num}", dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{file}:{reader.line_num} cannot be read as {kind.suffix}: {error}; {cure}"
        ) from None


def _read_parquet(file: Path) -> Any:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as opened:
            return opened.read()
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file} cannot be read as Parquet: {error}; write it again") from None


def _names(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        yield from row
