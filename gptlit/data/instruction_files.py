"""Files of instructions and responses: read, checked entry by entry, and split."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from gptlit.data.entry import DEFAULT_FIELDS, Entry, Fields, NoFieldError, entry_of
from gptlit.data.readers import read_text
from gptlit.data.rows import (
    json_line,
    json_list,
    other_separator,
    read_rows,
    text_lines,
)
from gptlit.data.sampler import Permutation
from gptlit.data.tables import find_table
from gptlit.errors import UserError

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
NAMED = 10  # different faults that are told in words
NOT_JSON = "not JSON"
OFTEN = {
    "instruction": ("prompt", "question", "query", "problem", "input"),
    "output": ("completion", "response", "answer", "solution"),
    "input": ("context",),
}
"""What the parts of an entry are often called elsewhere."""


class Broken(NamedTuple):
    """An entry that cannot be used."""

    kind: str
    """"entry", "line" or "row"."""
    number: int
    """Counted from 1."""
    why: str


def read_entries(
    path: str | Path,
    *,
    skip_broken: bool = False,
    fields: Fields = DEFAULT_FIELDS,
    key: str = "data.path",
) -> tuple[list[Entry], list[Broken]]:
    """The entries of a .json, .jsonl, .csv, .tsv or .parquet file, and what is wrong with the
    others.

    What an entry has, says `entry_of`. All files but .parquet may be packed (.gz, .zst).

    Args:
        path: the file.
        skip_broken: leave broken entries out; else they are an error.
        fields: the names of the fields in the file.
        key: the config key that `path` came from, named in errors.

    Raises:
        UserError: the file cannot be read, has no entry, has none with the named field for the
            input, or has broken ones that are not skipped; they are named as by `tell_broken`.
    """
    entries: list[Entry] = []
    broken: list[Broken] = []
    with_input, names_there = fields.input == DEFAULT_FIELDS.input, None
    for kind, number, record in _records(path, key):
        try:
            parsed = record() if callable(record) else record
            entries.append(entry_of(parsed, fields))
            with_input = with_input or fields.input in parsed
        except ValueError as error:
            broken.append(Broken(kind, number, str(error)))
            if names_there is None and isinstance(error, NoFieldError):
                names_there = error.names
    if broken and not (skip_broken and entries):
        told, cure = tell_broken(broken), "mend them, or leave them out: data.on_error=skip"
        if not entries:
            cure = "mend them" if names_there is None else _named(names_there, fields)
            if broken[0].why.startswith(NOT_JSON):  # other text, or objects of several lines
                told = tell_broken(broken[:1])
                cure = "expected an object on each line, or one list of them in a .json file"
        raise UserError(
            f"{path}: {len(broken)} of {len(broken) + len(entries)} entries cannot be used: "
            f"{told}; {cure}"
        )
    if not entries:
        raise UserError(f"{path} has no entries; expected some with an instruction and an output")
    if not with_input:
        raise UserError(f"{path}: no entry has a field {fields.input!r}; set data.input_field=...")
    return entries, broken


def tell_broken(broken: Sequence[Broken]) -> str:
    """The numbers of the entries with each fault: "entries 2, 5-7: output is empty; entry 9: ...".
    Beyond `NAMED` different faults, the rest are "other faults"."""
    faults: dict[str, list[Broken]] = {}
    for one in broken:
        why = one.why if one.why in faults or len(faults) < NAMED else "other faults"
        faults.setdefault(why, []).append(one)
    return "; ".join(f"{_numbers(ones)}: {why}" for why, ones in faults.items())


def _numbers(ones: Sequence[Broken]) -> str:
    """ "entry 3", or "entries 3, 5-7" for those that follow one another."""
    kind, numbers = ones[0].kind, [one.number for one in ones]
    if len(numbers) == 1:
        return f"{kind} {numbers[0]}"
    there = set(numbers)
    starts = [n for n in numbers if n - 1 not in there]
    ends = [n for n in numbers if n + 1 not in there]
    runs = (f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
    return f"{'entries' if kind == 'entry' else f'{kind}s'} {', '.join(runs)}"


def split_entries(
    entries: Sequence[Entry],
    val_fraction: float,
    test_fraction: float,
    seed: int | None,
    given: Mapping[str, list[Entry]] = MappingProxyType({}),
) -> dict[str, list[Entry]]:
    """Entries for "train", "test" and "validation", taken from the file in this order.

    Training and test take their shares rounded down, and validation the rest.

    Args:
        entries: all of the file.
        val_fraction, test_fraction: shares that validate and test.
        seed: of a random order to take them in; None takes them in that of the file.
        given: the splits "test" and "validation" if they have files of their own. They take no
            share; without validation, training has what the test leaves.

    Raises:
        UserError: the shares leave nothing to train on or to validate with.
    """
    n = len(entries)
    order = np.arange(n) if seed is None else Permutation(n, seed)(np.arange(n))
    shares = {
        "test": 0.0 if "test" in given else test_fraction,
        "validation": 0.0 if "validation" in given else val_fraction,
    }
    tiny = 1e-6  # 1 - 0.05 - 0.1 is less than 0.85
    n_test = int(n * shares["test"] + tiny)
    n_train = max(0, int(n * (1 - shares["validation"] - shares["test"]) + tiny))
    if "validation" in given:
        n_train = n - n_test
    parts = np.split(order, [n_train, n_train + n_test])
    splits = {
        name: [entries[i] for i in part]
        for name, part in zip(("train", "test", "validation"), parts, strict=True)
    } | dict(given)
    for name in ("train", "validation"):
        if not splits[name]:
            raise UserError(
                f"of {n} entries, data.val_fraction={val_fraction} and "
                f"data.test_fraction={test_fraction} leave none for {name}: "
                f"{'lower' if name == 'train' else 'raise'} them, or give more entries"
            )
    return splits


def _records(path: str | Path, key: str) -> Iterator[tuple[str, int, Any]]:
    """What each record is called and its number, with the record or a function that parses it."""
    path, kind = find_table(path, key, SUFFIXES)
    if kind.suffix not in (".json", ".jsonl"):
        return (("row", number, row) for number, (_, row) in enumerate(read_rows(path, kind), 1))
    chunks = read_text(path, kind)
    if kind.suffix == ".jsonl":
        return _json_lines(chunks)
    records = json_list(path, chunks, "entries")
    return (("entry", number, record) for number, record in enumerate(records, 1))


def _json_lines(chunks: Iterable[str]) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    for number, line in enumerate(text_lines(chunks), 1):
        if line.strip():
            yield "line", number, partial(_parsed, line)


def _parsed(line: str) -> Any:
    try:
        return json_line(line)
    except ValueError as error:
        raise ValueError(f"{NOT_JSON} ({error})") from None


def _named(names: Collection[str], fields: Fields) -> str:
    """What to do about entries whose fields have other names than `fields`: the settings, with the
    names that can be guessed."""
    if cure := other_separator(names):
        return cure
    found = {name.lower(): name for name in names}
    settings = []
    for part, often in OFTEN.items():
        if getattr(fields, part) in names:
            continue
        guess = next((found[one] for one in often if one in found), None)
        if guess or part != "input":
            settings.append(f"data.{part}_field={guess or '...'}")
    return f"name theirs with {' '.join(settings)}"
