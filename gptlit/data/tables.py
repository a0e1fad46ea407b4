"""Whole tables: .csv, .tsv, .json, .jsonl, .parquet, and .txt with one text on each line.

Every mistake in a file ends in a UserError that names the file and the place in it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlit.data.readers import FileKind, existing, file_kind, names_of, read_text
from gptlit.data.rows import (
    MEND,
    SET,
    Row,
    Rows,
    arrow_rows,
    check_columns,
    check_distinct,
    named_as_parquet,
    not_text,
    place_of,
    read_rows,
    text_lines,
)
from gptlit.errors import UserError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


@dataclass
class Table:
    """The rows of a file. A row of JSON has only the keys that its object has; rows of other files
    have all columns."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    """Where each row stands, for errors."""
    arrow: Any = None
    """The pyarrow table of a .parquet file, with the columns' types."""

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order in which they first occur."""
        return list(self.arrow.column_names if self.arrow else dict.fromkeys(_names(self.rows)))

    def texts(self, column: str, key: str) -> list[str]:
        """The text of each row.

        Args:
            column: its name.
            key: the config key that sets it.

        Raises:
            UserError: there is no such column, or it holds something that is not text.
        """
        for number, (place, row) in enumerate(zip(self.places, self.rows, strict=True)):
            check_columns(place, row, [(column, key)], MEND if number else SET)
            if not isinstance(row[column], str):
                raise not_text(place, column, row[column], key)
        return [row[column] for row in self.rows]


def read_table(path: str, key: str, column: str) -> Table:
    """Read a table whole, with all columns.

    Args:
        path: a file whose name ends in one of `SUFFIXES` or in .txt, plain or packed.
        key: the config key that `path` came from, named in errors.
        column: a name for the only column of a .txt file.

    Raises:
        UserError: the file does not exist, or is of no known kind, damaged, binary or without rows.
    """
    file, kind = find_table(path, key, (*SUFFIXES, ".txt"))
    table = Table(file)
    if kind.suffix == ".parquet":
        table.arrow = _read_parquet(file)
        rows = _arrow_rows(file, table.arrow)
    else:
        rows = _lines(file, kind, column) if kind.suffix == ".txt" else read_rows(file, kind)
    for place, row in rows:
        table.places.append(place)
        table.rows.append(row)
    if not table.rows:
        raise UserError(f"{file} has no rows; give one with texts as {key}=…")
    return table


def find_table(path: str | Path, key: str, allowed: tuple[str, ...]) -> tuple[Path, FileKind]:
    """The file that `path` names and its kind, one of the `allowed`.

    Raises UserError, which names the config's `key`, if there is none, or one of another kind.
    """
    file = existing(path, key)
    kind = file_kind(file, allowed)
    if kind is None or not file.is_file():
        this = "this is a folder; give one" if file.is_dir() else "expected a"
        raise UserError(f"{key}={path}: {this} file whose name ends in {names_of(allowed)}")
    return file, kind


def _lines(file: Path, kind: FileKind, column: str) -> Rows:
    lines = text_lines(read_text(file, kind))
    for number, line in enumerate(lines, 1):
        yield f"{file}:{number}", {column: line.rstrip("\r\n")}


def _read_parquet(file: Path) -> Any:
    """The file as a pyarrow table."""
    from pyarrow import parquet

    with named_as_parquet(file), parquet.ParquetFile(file) as opened:
        return opened.read()


def _arrow_rows(file: Path, arrow: Any) -> Rows:
    check_distinct(file, arrow.column_names)
    with named_as_parquet(file):
        for number, row in enumerate(arrow_rows(arrow), 1):
            yield place_of(file, number), row


def _names(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        yield from row
