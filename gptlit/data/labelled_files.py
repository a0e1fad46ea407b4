"""Texts with their labels, from tables: .csv, .tsv, .json, .jsonl and .parquet.

Every mistake in a file ends in a UserError that names the file and the place in it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gptlit.data.rows import Rows, not_text, read_rows, shown
from gptlit.data.tables import SUFFIXES, find_table
from gptlit.errors import UserError
from gptlit.tokenizer import without_surrogates

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
    """The distinct labels, sorted: as numbers if all are whole numbers, else as text."""
    names = sorted(set(labels))
    # int() refuses thousands of digits.
    if all(re.fullmatch(r"[+-]?[0-9]{1,999}", name) for name in names):
        names.sort(key=int)
    return names


def check_labelled_table(path: str, columns: Columns, key: str) -> None:
    """Check only a file's name and first row; raises UserError as `read_labelled_table` does."""
    next(iter(_open(path, columns, key)[1]), None)


def read_labelled_table(path: str, columns: Columns, key: str = "data.path") -> LabelledTable:
    """Read a table with a text and a label in each row.

    A label is text (spaces around it do not count), a whole number, or true or false; all labels of
    a file are of one kind. Text is kept as it is. A .tsv file has no quotes, as its standard says.

    path: a file whose name ends in one of `SUFFIXES`, plain or packed
    key: the config key that `path` came from, named in errors

    Raises UserError for a file that is not there, damaged, binary or empty, for a missing column,
    and for a row that is broken, has no label or no text.
    """
    file, rows = _open(path, columns, key)
    table = LabelledTable(str(file))
    labels_are: type | None = None
    for place, row in rows:
        text, label = row[columns.text], row[columns.label]
        if not isinstance(text, str) or "\0" in text:
            raise not_text(place, columns.text, text, "data.text_column")
        if type(label) not in KINDS or not str(label).strip() or "\0" in str(label):
            raise UserError(
                f"{place}: column {columns.label!r} holds {shown(label)}, expected a label: text, "
                "a whole number, or true or false; mend or remove the row, or set data.label_column"
            )
        labels_are = labels_are or type(label)
        if labels_are is not type(label):
            raise UserError(
                f"{place}: column {columns.label!r} holds {shown(label)}, but "
                f"{KINDS[labels_are]} in the rows before; make all labels of one kind"
            )
        table.add(place, without_surrogates(text), without_surrogates(str(label).strip()))
    if not table.texts:
        raise UserError(f"{file} has no rows; give one with texts and labels as {key}=…")
    return table


def _open(path: str, columns: Columns, key: str) -> tuple[Path, Rows]:
    file, kind = find_table(path, key, SUFFIXES)
    wanted = [(columns.text, "data.text_column"), (columns.label, "data.label_column")]
    return file, read_rows(file, kind, wanted)
