"""Splits of labelled texts saved as tables, and found again by a later run."""

import csv
import json
from collections import Counter
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from gptlit.data.labelled_files import Columns, LabelledTable, read_labelled_table
from gptlit.data.labelled_splits import (
    SPLITS,
    Counts,
    Splits,
    SplitSettings,
    check_splits,
    make_splits,
)
from gptlit.errors import UserError
from gptlit.files import replacing

FORMAT = 1
SAVED_COLUMNS = Columns("text", "label")
MANIFEST = "splits.json"


def saved_splits(
    given: dict[str, LabelledTable], settings: SplitSettings, cache_dir: Path, folder: Path | None
) -> Splits:
    """The splits saved in `folder`, or else those of `make_splits`, which are then saved there.

    A folder has `train.csv`, `validation.csv` and `test.csv`, with the columns `text` and `label`,
    and `splits.json`, which says what they were made from. Without `folder`, one in the cache is
    used, with a name that depends on the rows and settings. Splits in a given `folder` are used
    whatever the seed. Two processes may call this at once.

    Raises UserError as `make_splits` does, for a folder that cannot be written, and for one that
    holds splits of other rows or settings.
    """
    made_from = {"format": FORMAT, "content": content_of(given), **asdict(settings)}
    if settings.balance != "undersample":
        made_from["balance"] = "none"  # weights do not change the splits
    fingerprint = sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]
    place = folder or cache_dir / fingerprint
    from filelock import FileLock

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place.absolute()}.lock"):
            if splits := _found(place, made_from, given["train"].name):
                return splits
            splits = make_splits(given, settings)
            _save(place, splits, made_from)
    except OSError as error:
        raise UserError(
            f"cannot keep the splits in {place}: {error.strerror or error}; set data.splits_dir=… "
            "or data.cache_dir=… to a folder that can be written"
        ) from error
    return splits


def content_of(given: dict[str, LabelledTable]) -> str:
    """Hex digest over all rows of tables, and their names."""
    digest = sha256()
    for name, table in given.items():
        digest.update(json.dumps([name, table.texts, table.labels]).encode())
    return digest.hexdigest()


def _found(folder: Path, made_from: dict[str, object], name: str) -> Splits | None:
    """The splits in `folder`, or None if there are none, or they are incomplete."""
    files = {split: folder / f"{split}.csv" for split in SPLITS}
    there = [file for file in files.values() if file.exists()]
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        before, counts = dict(manifest["made_from"]), Counts(**manifest["counts"])
    except FileNotFoundError:
        if there:
            raise UserError(
                f"{there[0]} was not written by gptlit; set data.splits_dir=… to another folder, "
                "or give your splits as data.path, data.val_path and data.test_path"
            ) from None
        return None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(f"{folder / MANIFEST} is damaged; delete {folder} and run again") from None
    for key, now in made_from.items():
        if key != "seed" and before.get(key) != now:
            told = "other rows" if key == "content" else f"{key}={before.get(key)}, not {now}"
            raise UserError(
                f"the splits in {folder} were made from {told}; delete them, or set "
                "data.splits_dir=… to another folder"
            )
    if len(there) < len(files):
        for file in there:
            file.unlink()
        return None
    tables = {split: read_labelled_table(str(file), SAVED_COLUMNS) for split, file in files.items()}
    for table in tables.values():
        table.name = name
    splits = Splits(tables, counts)
    check_splits(splits)
    return splits


def _save(folder: Path, splits: Splits, made_from: dict[str, object]) -> None:
    """Write the splits. They are complete once all four files are there."""
    folder.mkdir(exist_ok=True)
    labels = {name: dict(Counter(table.labels)) for name, table in splits.tables.items()}
    manifest = {"made_from": made_from, "counts": asdict(splits.counts), "labels": labels}
    with replacing(folder / MANIFEST) as draft:
        draft.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    for name, table in splits.tables.items():
        path = folder / f"{name}.csv"
        with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(SAVED_COLUMNS)
            writer.writerows(zip(table.texts, table.labels, strict=True))
