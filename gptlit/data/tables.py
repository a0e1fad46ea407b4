"""Tables: .csv, .tsv, .jsonl, .parquet, and .txt, which has one text on each line.

Every mistake in a file ends in a UserError that names the file and the place in it.
"""

import csv
import difflib
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlit.data.readers import FileKind, file_kind, names_of, read_text
from gptlit.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row]]
"""Where each row stands, for errors, and the row."""
Wanted = Sequence[tuple[str, str]]
"""Names of columns, each with the config key that it came from."""


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
        for place, row in zip(self.places, self.rows, strict=True):
            _check_columns(place, row, [(column, key)])
            if not isinstance(row[column], str):
                raise not_text(place, column, row[column], key)
        return [row[column] for row in self.rows]


def read_table(path: str, key: str, column: str) -> Table:
    """Read a table whole, with all columns.

    Args:
        path: a file whose name ends in one of `SUFFIXES` or in .txt, plain or packed.
        key: the config key that `path` came from, named in errors.
        column: the name of a .txt file's one column.

    Raises:
        UserError: the file is not there, of no known kind, damaged, binary or without rows.
    """
    file, kind = find_table(path, key, (*SUFFIXES, ".txt"))
    table = Table(file)
    if kind.suffix == ".parquet":
        table.arrow = _read_parquet(file, [])
        rows = _arrow_rows(file, table.arrow)
    else:
        rows = _lines(file, kind, column) if kind.suffix == ".txt" else table_rows(file, kind)
    for place, row in rows:
        table.places.append(place)
        table.rows.append(row)
    if not table.rows:
        raise UserError(f"{file} has no rows; give one with texts as {key}=…")
    return table


def existing(path: str, key: str) -> Path:
    """The file or folder that `path` names. `key` is the config key that it came from.

    Raises UserError where there is none.
    """
    place = Path(path).expanduser()
    if not place.exists():
        siblings = place.parent.iterdir() if place.parent.is_dir() else []
        near = difflib.get_close_matches(place.name, [there.name for there in siblings], 1)
        cure = f"did you mean {place.parent / near[0]}?" if near else "give one that exists"
        raise UserError(f"{key}={path}: there is no such file; {cure}")
    return place


def find_table(path: str, key: str, allowed: tuple[str, ...]) -> tuple[Path, FileKind]:
    """The file that `path` names and its kind, one of the `allowed`.

    Raises UserError where there is none, or another kind of file; it names the config's `key`.
    """
    file = existing(path, key)
    kind = file_kind(file, allowed)
    if kind is None or not file.is_file():
        raise UserError(f"{key}={path}: expected a file whose name ends in {names_of(allowed)}")
    return file, kind


def table_rows(file: Path, kind: FileKind, wanted: Wanted = ()) -> Rows:
    """The rows of a table, one after another. A .tsv file has no quotes, as its standard says.

    Args:
        file: of one of the `SUFFIXES`, plain or packed.
        kind: its kind.
        wanted: columns that every row has to have; others may be left out. Without, rows have all.

    Raises:
        UserError: the file is damaged or binary, a row is broken, or a column is missing.
    """
    if kind.suffix == ".parquet":
        return _arrow_rows(file, _read_parquet(file, wanted))
    text = "".join(read_text(file, kind, lambda done: None))
    if kind.suffix == ".jsonl":
        return _json_rows(file, text, wanted)
    return _delimited_rows(file, kind.suffix, text, wanted)


def _delimited_rows(file: Path, suffix: str, text: str, wanted: Wanted) -> Rows:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than many a text
    lines = io.StringIO(text, newline="")
    if suffix == ".tsv":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        cure = "texts in a .tsv file have no tabs and line ends, and quotes mean nothing"
    else:
        reader = csv.reader(lines, strict=True)
        cure = 'put texts with commas, quotes or line ends in quotes, and "" for a quote inside'
    try:
        header = next(reader, None)
        if header is None:
            among = f", {_listed(wanted)} among them" if wanted else ""
            raise UserError(
                f"{file} is empty; expected a line with the names of the columns{among}, and rows "
                "below it"
            )
        _check_columns(file, header, wanted)
        at = {name: header.index(name) for name, _ in wanted}
        if not wanted:
            at = {name: i for i, name in enumerate(header)}
            # Those without a name may be several: spreadsheets write them where cells were emptied.
            if twice := next((name for name in at if name and header.count(name) > 1), None):
                raise UserError(f"{file} has two columns {twice!r}; give them different names")
        for fields in reader:
            if fields and len(fields) != len(header):
                raise UserError(
                    f"{file}:{reader.line_num} has {len(fields)} fields, but the first line names "
                    f"{len(header)} columns: {cure}"
                )
            if fields:
                yield f"{file}:{reader.line_num}", {name: fields[i] for name, i in at.items()}
    except csv.Error as error:
        raise UserError(
            f"{file}:{reader.line_num} cannot be read as {suffix}: {error}; {cure}"
        ) from None


def _json_rows(file: Path, text: str, wanted: Wanted) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place} is not JSON: {error}; expected one object per line") from None
        if not isinstance(row, dict):
            form = f"with the keys {_listed(wanted)}" if wanted else "per line"
            raise UserError(f"{place} is no JSON object; expected one {form}")
        _check_columns(place, row, wanted)
        yield place, row


def _lines(file: Path, kind: FileKind, column: str) -> Rows:
    text = "".join(read_text(file, kind, lambda done: None))
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        yield f"{file}:{number}", {column: line.removesuffix("\r")}


def _read_parquet(file: Path, wanted: Wanted) -> Any:
    """The file as pyarrow has it."""
    from pyarrow.parquet import ParquetFile

    with _named_as_parquet(file), ParquetFile(file) as opened:
        _check_columns(file, opened.schema_arrow.names, wanted)
        arrow = opened.read(columns=[name for name, _ in wanted] or None)
    # Of columns with one name the first, as in a .csv file.
    return arrow.select([arrow.column_names.index(name) for name, _ in wanted]) if wanted else arrow


def _arrow_rows(file: Path, arrow: Any) -> Rows:
    number = 0
    with _named_as_parquet(file):
        for batch in arrow.to_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{file}: row {number}", row


@contextmanager
def _named_as_parquet(file: Path) -> Iterator[None]:
    """Errors of pyarrow say which file they are of."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file} cannot be read as Parquet: {error}; write it again") from None


def _names(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        yield from row


def _listed(wanted: Wanted) -> str:
    return " and ".join(repr(name) for name, _ in wanted)


def _check_columns(place: object, names: Collection[str], wanted: Wanted) -> None:
    """Raises UserError where one that is wanted is not among the names."""
    for name, key in wanted:
        if name not in names:
            there = ", ".join(map(repr, names)) or "none"
            raise UserError(f"{place}: no column {name!r}; there are: {there}; set {key}=…")


def not_text(place: str, column: str, value: object, key: str) -> UserError:
    """What to say about a column, set by the config's `key`, whose value at `place` is no text."""
    return UserError(
        f"{place}: column {column!r} holds {shown(value)}, expected text; mend or remove the row, "
        f"or set {key} to a column of text"
    )


def shown(value: object) -> str:
    """A value as errors show it, 40 characters at most."""
    short = repr(value)
    return short if len(short) <= 40 else short[:37] + "..."
