"""Labelled texts without duplicates, balanced and split."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np

from gptlit.data.labelled_files import LabelledTable, class_names
from gptlit.data.sampler import Permutation
from gptlit.errors import UserError

SPLITS = ("train", "validation", "test")
SET_BY = {
    "train": "data.val_fraction and data.test_fraction",
    "validation": "data.val_fraction",
    "test": "data.test_fraction",
}

Balance = Literal["none", "undersample", "weights"]


@dataclass(frozen=True)
class SplitSettings:
    """How rows become splits. The fractions are of the rows that are left to split."""

    seed: int
    balance: Balance
    deduplicate: bool
    val_fraction: float
    test_fraction: float


@dataclass
class Counts:
    """What happened to the rows on the way."""

    rows: int
    """Rows of all files."""
    duplicates: int = 0
    """Rows left out because their text is in an earlier row, or in the file of another split."""
    conflicts: int = 0
    """Those of the duplicates that had another label."""
    left_out: int = 0
    """Rows left out to balance the classes."""


@dataclass
class Splits:
    """Texts and labels for "train", "validation" and "test"."""

    tables: dict[str, LabelledTable]
    counts: Counts
    classes: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.classes = class_names(self.tables["train"].labels)


def make_splits(given: dict[str, LabelledTable], settings: SplitSettings) -> Splits:
    """Split the rows of `given["train"]` into training rows and those splits that `given` lacks.

    Of rows with the same text only the first is kept, whatever their labels. A text that is also in
    a table given for the test or validation is kept there, and left out elsewhere; such a table is
    not changed otherwise. To balance, as many rows of each class are drawn as the rarest has.

    Each class is split in the same proportions, as far as its size allows. In total, training gets
    floor(rows · share) rows, validation too, and the test the rest; if no test is split off,
    validation gets the rest.

    Raises UserError for less than two classes, an empty split, a class without training rows, and
    fractions that leave nothing for training.
    """
    counts = Counts(rows=sum(len(table.texts) for table in given.values()))
    tables = dict(given)
    if settings.deduplicate:
        _deduplicate(tables, counts)
    pool = tables["train"]
    if len(set(pool.labels)) == 1:
        raise UserError(
            f"all {len(pool.texts):,} rows of {pool.name} have the label {pool.labels[0]!r}, but a "
            "classifier takes two classes or more; check data.label_column and the file"
        )
    rows = _shuffled_by_class(pool.labels, settings.seed)
    if settings.balance == "undersample":
        fewest = min(map(len, rows))
        counts.left_out = sum(map(len, rows)) - fewest * len(rows)
        rows = [part[:fewest] for part in rows]
    shares = {
        "validation": 0.0 if "validation" in given else settings.val_fraction,
        "test": 0.0 if "test" in given else settings.test_fraction,
    }
    for name, numbers in _cut(rows, **shares).items():
        if name not in given or name == "train":
            tables[name] = _taken(pool, np.sort(numbers))
    splits = Splits({name: tables[name] for name in SPLITS}, counts)
    check_splits(splits)
    return splits


def _deduplicate(tables: dict[str, LabelledTable], counts: Counts) -> None:
    """Keep each text once; the test has the first claim on it, then the validation."""
    seen: dict[str, str] = {}
    for split in ("test", "validation", "train"):
        if table := tables.get(split):
            # Rows that a test or validation file repeats stay: they are its author's choice.
            known = seen if split == "train" else dict(seen)
            kept = []
            for number, (text, label) in enumerate(zip(table.texts, table.labels, strict=True)):
                if text in known:
                    counts.duplicates += 1
                    counts.conflicts += known[text] != label
                else:
                    kept.append(number)
                seen.setdefault(text, label)
            if not kept:
                raise UserError(
                    f"none of the {len(table.texts):,} rows of {table.name} is left for {split}: "
                    "all stand in the file of another split; give other rows as data.path, "
                    "data.val_path or data.test_path, or set data.deduplicate=false"
                )
            tables[split] = _taken(table, kept)


def _taken(table: LabelledTable, numbers: Sequence[int] | np.ndarray) -> LabelledTable:
    """Some rows of a table."""
    texts = [table.texts[number] for number in numbers]
    return LabelledTable(table.name, texts, [table.labels[n] for n in numbers], table.places)


def _shuffled_by_class(labels: list[str], seed: int) -> list[np.ndarray]:
    """The numbers of each class's rows, in random order."""
    order = Permutation(len(labels), seed)(np.arange(len(labels)))
    names = class_names(labels)
    number = {name: code for code, name in enumerate(names)}
    codes = np.array([number[label] for label in labels])[order]
    return [order[codes == code] for code in range(len(names))]


def _cut(rows: list[np.ndarray], validation: float, test: float) -> dict[str, np.ndarray]:
    """Deal the classes' rows to the splits.

    The rows of all classes are merged so that each class is spread evenly over the whole; then any
    stretch of it has the classes in proportion.
    """
    shares = [Fraction(str(share)) for share in (validation, test)]
    if sum(shares) >= 1:
        raise UserError(
            f"data.val_fraction={validation} and data.test_fraction={test} leave nothing to train "
            "on; their sum must be less than 1"
        )
    places = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in rows])
    merged = np.concatenate(rows)[np.argsort(places, kind="stable")]
    n = len(merged)
    first = int(n * (1 - sum(shares)))
    second = first + int(n * shares[0]) if test else n
    return dict(zip(SPLITS, np.split(merged, [first, second]), strict=True))


def check_splits(splits: Splits) -> None:
    """Raises UserError for splits that cannot be trained or tested on: empty, or with a label that
    has no training rows."""
    for split, table in splits.tables.items():
        if not table.texts:
            sizes = ", ".join(f"{len(t.texts)} {name}" for name, t in splits.tables.items())
            away = {
                "duplicates removed; check data.text_column": splits.counts.duplicates,
                "left out to balance the classes": splits.counts.left_out,
            }
            told = "".join(f", {n:,} {why}" for why, n in away.items() if n)
            raise UserError(
                f"the {split} split of {table.name} is empty ({sizes} rows{told}); give more rows, "
                f"or change {SET_BY[split]}"
            )
    for split in ("validation", "test"):
        table = splits.tables[split]
        for label in class_names(table.labels):
            if label not in splits.classes:
                raise UserError(
                    f"{table.places.get(label, table.name)}: the label {label!r}, which the "
                    f"{split} split has, is not among those to train on "
                    f"({_listed(splits.classes)}); give training rows with it, leave its rows out, "
                    "or check data.label_column"
                )


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:8]))
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
