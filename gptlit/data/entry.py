"""One record of a file of instructions, and the entry that it means."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gptlit.data.rows import kind_of, shown
from gptlit.prompts import with_system

CHATS = ("messages", "conversations", "conversation")
"""Fields with a chat: OpenAI's name, ShareGPT's and that of LMSYS."""
SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system"}
"""What ShareGPT calls the roles."""


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
    """The instructions before this one, each with its answer."""
    unlearned: frozenset[int] = frozenset()
    """Indices in `history` of answers that are read but not learned."""
    system: str = ""
    """A system message, put before the first instruction; empty if there is none."""

    @property
    def turns(self) -> list[tuple[str, str, str]]:
        """Instruction, answer and input of each turn, as trained on; this one is the last."""
        turns = [*((*turn, "") for turn in self.history)]
        turns.append((self.instruction, self.output, self.input))
        turns[0] = (with_system(self.system, turns[0][0]), *turns[0][1:])
        return turns


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


DEFAULT_FIELDS = Fields()


class NoFieldError(ValueError):
    """A record has no field of a name."""

    def __init__(self, name: str, names: Collection[str]) -> None:
        super().__init__(f"no field {name!r} (there are: {', '.join(map(shown, names)) or 'none'})")
        self.names = names


def entry_of(record: Any, fields: Fields) -> Entry:
    """The entry in a record.

    It has `instruction`, `output` and perhaps `input`, a text `system`, and `history`, a list of
    pairs of texts; the last two are nothing more where `fields` has their names. Or else it has a
    chat, see `chat_field`, in which user and assistant alternate, and the assistant has the last
    word. Messages have `role` and `content`, or `from` and `value` as in ShareGPT. A system message
    may come first. An answer whose `weight` is 0 is not learned; all that follows the last learned
    answer is left out.

    Args:
        record: as parsed from the file.
        fields: the names of the fields of an entry that is no chat.

    Raises:
        ValueError: it says what is wrong with the record.
    """
    if not isinstance(record, dict):
        raise ValueError(f"it is {kind_of(record)}, expected an object with named fields")
    if chat := chat_field(record, fields.instruction):
        return _chat(record, chat)
    instruction, output = _text(record, fields.instruction), _text(record, fields.output)
    there = record.get(fields.input) if fields.has_input else None
    given = "" if there is None else _text(record, fields.input, may_be_empty=True)
    more = {name: there for name, there in record.items() if name not in vars(fields).values()}
    system = _text(more, "system", may_be_empty=True) if more.get("system") else ""
    return Entry(
        instruction,
        given if given.strip() else "",
        output,
        fields.renamed(record),
        history=tuple(_earlier(more)),
        system=system if system.strip() else "",
    )


def _earlier(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The earlier instructions and answers of an entry that is no chat."""
    history = record.get("history")
    if not isinstance(history, list):  # a column of that name, about something else
        return
    for number, turn in enumerate(history, 1):
        match turn:
            case [str(instruction), str(answer)]:
                yield instruction, answer
            case _:
                raise ValueError(
                    f"history: turn {number} is not a list of an instruction and its answer"
                )


def chat_field(record: Mapping[str, Any], instruction: str = "instruction") -> str | None:
    """The field with the chat that a record is read as, one of `CHATS`; None if it is no chat. If
    it has an `instruction`, by that name, besides messages, the messages count: in our files of
    answers the instruction is a transcript of them."""
    for name in CHATS:
        there = record.get(name)
        if (isinstance(there, list) and there) if instruction in record else there is not None:
            return name
    return None


def _chat(record: dict[str, Any], name: str) -> Entry:
    messages = record[name]
    if not (isinstance(messages, list) and all(isinstance(m, dict) for m in messages)):
        raise ValueError(f"its {name}: expected a list of objects")
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
        raise NoFieldError(name, record)
    text = record[name]
    if not isinstance(text, str):
        raise ValueError(f"{name} is {kind_of(text)}, expected text")
    if not may_be_empty and not text.strip():
        raise ValueError(f"{name} is empty")
    return text
