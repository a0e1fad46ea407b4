"""Texts with their labels, out of tables: .csv, .tsv, .jsonl and .parquet.

Every mistake in a file ends in a UserError that names the file and the place in it.
"""

import csv
import difflib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gptlit.data.readers import PACKINGS, FileKind, read_text
from gptlit.errors import UserError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
ALLOWED_NAMES = f"{', '.join(SUFFIXES)}, or, but for .parquet, one of these and .gz or .zst"
KINDS = {bool: "true or false", int: "whole numbers", str: "text"}
"""What labels may be."""


class Columns(NamedTuple):
    """The names of two columns."""

    text: str
    label: str


@dataclass
class LabelledTable:
    """Texts and their labels, row by row. `name` is what reports call them."""

    name: str
    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    """Where each label first occurs, for errors."""

    def add(self, place: str, text: str, label: str) -> None:
        """Append the row that stands at `place`."""
        self.texts.append(text)
        self.labels.append(label)
        self.places.setdefault(label, place)


def class_names(labels: Iterable[str]) -> list[str]:
    """The different labels in order: as numbers if all are whole ones, else as text."""
    names = sorted(set(labels))
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        names.sort(key=int)
    return names


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


def table_kind(path: Path) -> FileKind | None:
    """The kind of the table called `path`, or None for another kind of file."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    packing = suffixes.pop() if suffixes and suffixes[-1] in PACKINGS else ""
    suffix = suffixes.pop() if suffixes else ""
    known = suffix in SUFFIXES and not (suffix == ".parquet" and packing)
    return FileKind(suffix, packing) if known else None


def read_table(path: str, columns: Columns, key: str = "data.path") -> LabelledTable:
    """Read a table with a text and a label in each row.

    A label is text (spaces around it do not count), a whole number, or true or false; all labels of
    a file are of one kind. Text is kept as it is. A .tsv file has no quotes, as its standard says.

    path: a file whose name ends in one of `SUFFIXES`, plain or packed
    key: the config key that `path` came from, named in errors

    Raises UserError for a file that is not there, damaged, binary or empty, for a missing column,
    and for a row that is broken, has no label or no text.
    """
    file = existing(path, key)
    kind = table_kind(file)
    if kind is None or not file.is_file():
        raise UserError(f"{key}={path}: expected a file whose name ends in {ALLOWED_NAMES}")
    read = {".parquet": _parquet_rows, ".jsonl": _json_rows}.get(kind.suffix, _delimited_rows)
    table = LabelledTable(str(file))
    labels_are: type | None = None
    for place, text, label in read(file, kind, columns):
        if not isinstance(text, str) or "\0" in text:
            raise UserError(
                f"{place}: column {columns.text!r} holds {_short(text)}, expected text; mend or "
                "remove the row, or set data.text_column to a column of text"
            )
        if type(label) not in KINDS or not str(label).strip() or "\0" in str(label):
            raise UserError(
                f"{place}: column {columns.label!r} holds {_short(label)}, expected a label: text, "
                "a whole number, or true or false; mend or remove the row, or set data.label_column"
            )
        labels_are = labels_are or type(label)
        if labels_are is not type(label):
            raise UserError(
                f"{place}: column {columns.label!r} holds {_short(label)}, but "
                f"{KINDS[labels_are]} in the rows before; make all labels of one kind"
            )
        table.add(place, _without_surrogates(text), _without_surrogates(str(label).strip()))
    if not table.texts:
        raise UserError(f"{file} has no rows; give one with texts and labels as {key}=…")
    return table


Row = tuple[str, object, object]  # its place, text and label


def _delimited_rows(path: Path, kind: FileKind, columns: Columns) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than many a text
    text = io.StringIO("".join(read_text(path, kind, lambda done: None)), newline="")
    tabs = kind.suffix == ".tsv"
    if tabs:
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        cure = "texts in a .tsv file have no tabs and line ends, and quotes mean nothing"
    else:
        reader = csv.reader(text, strict=True)
        cure = 'put texts with commas, quotes or line ends in quotes, and "" for a quote inside'
    try:
        header = next(reader, None)
        if header is None:
            raise UserError(
                f"{path} is empty; expected a line with the names of the columns, {columns.text!r} "
                f"and {columns.label!r} among them, and rows below it"
            )
        text_at, label_at = (_found(name, key, header, path) for name, key in _named(columns))
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"{path}:{reader.line_num} has {len(row)} fields, but the first line names "
                    f"{len(header)} columns: {cure}"
                )
            if row:
                yield f"{path}:{reader.line_num}", row[text_at], row[label_at]
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num} cannot be read as {kind.suffix}: {error}; {cure}"
        ) from None


def _json_rows(path: Path, kind: FileKind, columns: Columns) -> Iterator[Row]:
    lines = "".join(read_text(path, kind, lambda done: None)).split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place} is not JSON: {error}; expected one object per line") from None
        if not isinstance(row, dict):
            raise UserError(
                f"{place} is no JSON object; expected one with the keys {columns.text!r} and "
                f"{columns.label!r}"
            )
        for name, key in _named(columns):
            _found(name, key, list(row), place)
        yield place, row[columns.text], row[columns.label]


def _parquet_rows(path: Path, kind: FileKind, columns: Columns) -> Iterator[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for name, key in _named(columns):
                _found(name, key, file.schema_arrow.names, path)
            table = file.read(columns=list(columns))
        pairs = zip(
            table.column(columns.text).to_pylist(),
            table.column(columns.label).to_pylist(),
            strict=True,
        )
        for number, (text, label) in enumerate(pairs, 1):
            yield f"{path}: row {number}", text, label
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}; write it again") from None


def _named(columns: Columns) -> list[tuple[str, str]]:
    """The columns' names, each with the config key that sets it."""
    return [(columns.text, "data.text_column"), (columns.label, "data.label_column")]


def _found(name: str, key: str, names: list[str], place: object) -> int:
    """Where a column stands; raises UserError if it is not there."""
    if name not in names:
        there = ", ".join(map(repr, names)) or "none"
        raise UserError(f"{place}: no column {name!r}; there are: {there}; set {key}=…")
    return names.index(name)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _without_surrogates(text: str) -> str:
    """JSON may hold halves of characters, which no file of text can; they become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
