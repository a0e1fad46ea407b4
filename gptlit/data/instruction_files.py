"""Files of instructions and responses: read, checked entry by entry, and split."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from gptlit.data.readers import read_text
from gptlit.data.rows import (
    json_line,
    json_list,
    kind_of,
    other_separator,
    read_rows,
    shown,
    text_lines,
)
from gptlit.data.sampler import Permutation
from gptlit.data.tables import find_table
from gptlit.errors import UserError
from gptlit.prompts import with_system

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
NAMED = 10  # different faults that are told in words
NOT_JSON = "not JSON"
CHATS = ("messages", "conversations")
"""Fields with a chat: OpenAI's name and ShareGPT's."""
SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system"}
"""What ShareGPT calls the roles."""
OFTEN = {
    "instruction": ("prompt", "question", "query", "problem", "input"),
    "output": ("completion", "response", "answer", "solution"),
    "input": ("context",),
}
"""What the parts of an entry are often called elsewhere."""


@dataclass(frozen=True)
class Entry:
    """One example of a task and its answer."""

    instruction: str
    input: str
    """What the instruction is about; empty if it needs no input."""
    output: str
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The entry as it stood in the file; if its parts have other names there, also under ours."""
    history: tuple[tuple[str, str], ...] = ()
    """In a chat of several turns, the instructions before this one, each with its answer."""
    unlearned: frozenset[int] = frozenset()
    """Indices in `history` of answers that are read but not learned."""
    system: str = ""
    """The system message of a chat, put before its first instruction; empty if there is none."""

    @property
    def turns(self) -> list[tuple[str, str, str]]:
        """Instruction, answer and input of each turn, as trained on; this one is the last."""
        turns = [*((*turn, "") for turn in self.history)]
        turns.append((self.instruction, self.output, self.input))
        turns[0] = (with_system(self.system, turns[0][0]), *turns[0][1:])
        return turns


class Broken(NamedTuple):
    """An entry that cannot be used."""

    kind: str
    """"entry", "line" or "row"."""
    number: int
    """Counted from 1."""
    why: str


@dataclass(frozen=True)
class Fields:
    """What the parts of an entry are called in a file. It has none for the input if that name
    stands for another part too, as after data.instruction_field=input."""

    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"

    def renamed(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record, with its parts under our names too."""
        parts = vars(self) if self.has_input else {**vars(self), "input": None}
        return record | {us: record.get(there, "") for us, there in parts.items() if us != there}

    @property
    def has_input(self) -> bool:
        """Whether there is a field for the input alone."""
        return self.input not in (self.instruction, self.output)


def read_entries(
    path: str | Path,
    *,
    skip_broken: bool = False,
    fields: Fields = Fields(),
    key: str = "data.path",
) -> tuple[list[Entry], list[Broken]]:
    """The entries of a .json, .jsonl, .csv, .tsv or .parquet file, and what is wrong with the
    others.

    An entry has `instruction`, `output` and perhaps `input`; or else a chat, see `chat_field`, in
    which user and assistant alternate, and the assistant has the last word. Its messages have
    `role` and `content`, or `from` and `value` as in ShareGPT. A system message may come first; it
    is put before the first instruction, with a blank line between. An answer whose `weight` is 0
    is not learned; all that follows the last learned answer is left out. All files but .parquet
    may be packed (.gz, .zst).

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
    with_input, names_there = fields.input == Fields.input, None
    for kind, number, record in _records(path, key):
        try:
            parsed = record() if callable(record) else record
            entries.append(_entry(parsed, fields))
            with_input = with_input or fields.input in parsed
        except ValueError as error:
            broken.append(Broken(kind, number, str(error)))
            if names_there is None and isinstance(error, _NoFieldError):
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


class _NoFieldError(ValueError):
    """A record has no field of a name."""

    def __init__(self, name: str, names: Collection[str]) -> None:
        super().__init__(f"no field {name!r} (there are: {', '.join(map(shown, names)) or 'none'})")
        self.names = names


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


def _entry(record: Any, fields: Fields) -> Entry:
    """The entry in a record. Raises a ValueError that says what is wrong with it."""
    if not isinstance(record, dict):
        raise ValueError(f"it is {kind_of(record)}, expected an object with named fields")
    if chat := chat_field(record):
        return _chat(record, chat)
    instruction, output = _text(record, fields.instruction), _text(record, fields.output)
    there = record.get(fields.input) if fields.has_input else None
    given = "" if there is None else _text(record, fields.input, may_be_empty=True)
    return Entry(instruction, given if given.strip() else "", output, fields.renamed(record))


def chat_field(record: Mapping[str, Any]) -> str | None:
    """The field with the chat that a record is read as, one of `CHATS`; None if it is no chat. If
    it has an instruction besides messages, the messages count: in our files of answers the
    instruction is a transcript of them."""
    for name in CHATS:
        there = record.get(name)
        if (isinstance(there, list) and there) if "instruction" in record else there is not None:
            return name
    return None


def _chat(record: dict[str, Any], name: str) -> Entry:
    messages = record[name]
    if not (isinstance(messages, list) and all(isinstance(m, dict) for m in messages)):
        raise ValueError(f"its {name} are not a list of objects")
    by_system = bool(messages) and "system" in (messages[0].get("role"), messages[0].get("from"))
    turns = messages[by_system:]
    if not turns:
        raise ValueError("it has no messages by user and assistant")
    texts: list[str] = []
    for number, message in enumerate(messages, 1):
        turn = number - 1 - by_system
        role = "system" if turn < 0 else ("user", "assistant")[turn % 2]
        try:
            texts.append(_said(message, role))
        except ValueError as error:
            raise ValueError(f"message {number}: {error}") from None
    if len(turns) % 2:
        raise ValueError("its last message is by the user; expected an answer by the assistant")
    system = texts.pop(0) if by_system else ""
    learned = [at for at, answer in enumerate(turns[1::2]) if answer.get("weight") != 0]
    if not learned:
        raise ValueError("all of its answers have weight 0, so there is nothing to learn")
    said = list(zip(texts[::2], texts[1::2], strict=True))
    *history, (instruction, output) = said[: learned[-1] + 1]
    unlearned = frozenset(range(len(history))).difference(learned)
    return Entry(instruction, "", output, record, tuple(history), unlearned, system)


def _said(message: dict[str, Any], expected: str) -> str:
    """The content of a message, which has to be by the expected role."""
    by_sharegpt = "from" in message and message.get("role") is None
    who, content = ("from", "value") if by_sharegpt else ("role", "content")
    role, theirs = _text(message, who), SHAREGPT[expected] if by_sharegpt else expected
    if role not in (expected, theirs):
        raise ValueError(f"{who} is {role!r:.40}, expected {theirs!r}")
    weight = message.get("weight")
    if expected == "assistant" and (isinstance(weight, bool) or weight not in (None, 0, 1)):
        raise ValueError(f"weight is {weight!r:.40}, expected 0 or 1")
    return _text(message, content)


def _text(record: dict[str, Any], name: str, *, may_be_empty: bool = False) -> str:
    if name not in record:
        raise _NoFieldError(name, record)
    text = record[name]
    if not isinstance(text, str):
        raise ValueError(f"{name} is {kind_of(text)}, expected text")
    if not may_be_empty and not text.strip():
        raise ValueError(f"{name} is empty")
    return text
