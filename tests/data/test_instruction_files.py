import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.data.entry import Entry, Fields
from gptlit.data.instruction_files import read_entries, split_entries
from gptlit.errors import UserError

ROWS = [
    {"instruction": "Say it.", "input": "naïve 😀\n{x}", "output": "It."},
    {"instruction": "No input.", "input": "", "output": "Right"},
    {"instruction": "Null input.", "input": None, "output": " spaces stay "},
]
GOOD = {"instruction": "a", "output": "b"}


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        pd.DataFrame(rows).to_csv(path, sep="," if path.suffix == ".csv" else "\t", index=False)
    elif ".jsonl" in path.name:
        text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    else:
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows, ensure_ascii=False).encode())
    return path


def parts(entries: list[Entry]) -> list[tuple[str, str, str]]:
    return [(entry.instruction, entry.input, entry.output) for entry in entries]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.jsonl.gz", "a.parquet", "A.JSON"])
def test_entries_read_the_same_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    entries, broken = read_entries(write(tmp_path / name, ROWS))
    assert parts(entries) == [
        ("Say it.", "naïve 😀\n{x}", "It."),
        ("No input.", "", "Right"),
        ("Null input.", "", " spaces stay "),
    ]
    assert [entry.raw for entry in entries] == ROWS
    assert broken == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_the_input_may_be_missing_and_other_fields_are_kept(tmp_path: Path, name: str) -> None:
    row = {**GOOD, "id": 7}
    [entry] = read_entries(write(tmp_path / name, [row]))[0]
    assert parts([entry]) == [("a", "", "b")]
    assert entry.raw == row


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_tables_of_text(tmp_path: Path, name: str) -> None:
    rows = [{**GOOD, "input": "c, d", "id": "7"}, {**GOOD, "input": "", "id": "8"}]
    entries, _ = read_entries(write(tmp_path / name, rows))
    assert parts(entries) == [("a", "c, d", "b"), ("a", "", "b")]
    assert [entry.raw for entry in entries] == rows
    path = write(tmp_path / name, [GOOD, {**GOOD, "output": ""}])
    with pytest.raises(UserError, match=r"1 of 2 entries cannot be used: row 2: output is empty;"):
        read_entries(path)


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet"])
def test_parts_may_have_other_names(tmp_path: Path, name: str) -> None:
    rows = [
        {"question": "a", "context": "c", "output": "of another program", "answer": "b"},
        {"question": "a", "context": "", "output": "", "answer": "d"},
    ]
    fields = Fields("question", "context", "answer")
    entries, _ = read_entries(write(tmp_path / name, rows), fields=fields)
    assert parts(entries) == [("a", "c", "b"), ("a", "", "d")]
    ours = [{"instruction": "a", "input": "c", "output": "b"}, {**GOOD, "input": "", "output": "d"}]
    assert [entry.raw for entry in entries] == [{**r, **o} for r, o in zip(rows, ours, strict=True)]
    [entry] = read_entries(write(tmp_path / "chat.json", [messages(*HI)]), fields=Fields("q"))[0]
    assert entry.raw == messages(*HI)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            Fields(),
            r"entries 1-2: no field 'instruction' \(there are: 'q', 'a'\); name theirs with"
            r" data\.instruction_field=\.\.\. data\.output_field=\.\.\.$",
        ),
        (
            Fields("q", output="b"),
            r"no field 'b' \(there are: 'q', 'a'\); name .* with data\.output_field=\.\.\.$",
        ),
        (
            Fields("q", "context", "a"),
            r"no entry has a field 'context'; set data\.input_field=\.\.\.$",
        ),
    ],
)
def test_names_that_no_entry_has(tmp_path: Path, fields: Fields, told: str) -> None:
    path = write(tmp_path / "a.json", [{"q": "1", "a": "2"}] * 2)
    with pytest.raises(UserError, match=told):
        read_entries(path, fields=fields)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"prompt": "a", "completion": "b"},
            "instruction_field=prompt data.output_field=completion",
        ),
        ({"Prompt": "a", "Response": "b"}, "instruction_field=Prompt data.output_field=Response"),
        ({"prompt": "a", "input": "c", "output": "b"}, "instruction_field=prompt"),
        ({"input": "a", "output": "b"}, "instruction_field=input"),
        (
            {"instruction": "a", "context": "c", "response": "b"},
            "output_field=response data.input_",
        ),
    ],
)
def test_names_that_are_common_elsewhere_are_proposed(
    tmp_path: Path, row: dict[str, str], told: str
) -> None:
    path = write(tmp_path / "a.json", [row])
    with pytest.raises(UserError, match=re.escape(f"); name theirs with data.{told}")) as error:
        read_entries(path)
    proposed = dict(re.findall(r"data\.(\w+)_field=(\w+)", str(error.value)))
    entries, _ = read_entries(path, fields=Fields(**proposed))
    assert parts(entries) == [("a", "c" if "c" in row.values() else "", "b")]


def test_columns_between_semicolons_are_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("instruction;output\na;b\n")
    with pytest.raises(UserError, match=r"\); semicolons are between its columns: use commas in"):
        read_entries(tmp_path / "a.csv")


def test_a_field_that_is_the_instruction_is_not_its_input_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"input": "a", "output": "b"}])
    [entry], _ = read_entries(path, fields=Fields(instruction="input"))
    assert entry == Entry("a", "", "b")
    assert entry.raw == {"instruction": "a", "input": "", "output": "b"}


def messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def conversations(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": content} for role, content in turns]}


HI = [("user", "Hi"), ("assistant", "Hello")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_messages_count_before_an_instruction_beside_them(tmp_path: Path, name: str) -> None:
    chat = {"instruction": "User: Hi", "output": "Hello", **messages(*HI, *HI)}
    rows = [chat, {**GOOD, "messages": None}, {**GOOD, "messages": []}]
    entries, _ = read_entries(write(tmp_path / name, rows))
    assert parts(entries) == [("Hi", "", "Hello"), ("a", "", "b"), ("a", "", "b")]
    assert entries[0].history == (("Hi", "Hello"),)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_chats_of_several_turns(tmp_path: Path, name: str) -> None:
    more = [("user", " Who? "), ("assistant", "I\n"), ("user", "Bye"), ("assistant", "Bye")]
    rows = [
        messages(*HI, *more),
        messages(("system", "Be kind."), *HI, *more[:2]),
        messages(*HI),
    ]
    if name != "a.parquet":
        rows[1]["messages"][2]["weight"] = 1
        rows[1]["messages"][4]["weight"] = None
    entries, _ = read_entries(write(tmp_path / name, rows))
    assert parts(entries) == [("Bye", "", "Bye"), (" Who? ", "", "I\n"), ("Hi", "", "Hello")]
    assert [entry.history for entry in entries] == [
        (("Hi", "Hello"), (" Who? ", "I\n")),
        (("Hi", "Hello"),),
        (),
    ]
    assert [entry.turns[0][0] for entry in entries] == ["Hi", "Be kind.\n\nHi", "Hi"]
    assert [entry.system for entry in entries] == ["", "Be kind.", ""]
    assert [entry.raw for entry in entries] == rows


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_conversations_of_sharegpt_are_chats(tmp_path: Path, name: str) -> None:
    turns = [("system", "Be kind."), ("human", "Hi"), ("gpt", "Hello"), *HI]
    rows = [conversations(*turns), {"conversations": messages(*HI)["messages"]}]
    for message, weight in zip(rows[0]["conversations"], (None, 0.0, 0.0, 0.0, 1.0), strict=True):
        message["weight"] = weight  # in some published files questions have one too
    entries, _ = read_entries(write(tmp_path / name, rows))
    told = [("Be kind.\n\nHi", "Hello", ""), ("Hi", "Hello", "")]
    assert [entry.turns for entry in entries] == [told, told[1:]]
    assert [entry.unlearned for entry in entries] == [{0}, set()]


def test_a_conversation_with_roles_is_a_chat(tmp_path: Path) -> None:
    rows = [{"conversation": messages(*HI)["messages"]}]
    assert parts(read_entries(write(tmp_path / "a.jsonl", rows))[0]) == [("Hi", "", "Hello")]


@pytest.mark.parametrize("name", ["a.json", "a.parquet"])
def test_an_entry_may_have_a_system_message_and_earlier_turns(tmp_path: Path, name: str) -> None:
    more = {"system": "Be kind.", "history": [["Hi", "Hello"], ["Why?", "So."]], "input": "x"}
    rows = [{**GOOD, **more}, {**GOOD, "system": "", "history": [], "input": ""}]
    entries, _ = read_entries(write(tmp_path / name, rows))
    before = [("Be kind.\n\nHi", "Hello", ""), ("Why?", "So.", "")]
    assert [entry.turns for entry in entries] == [[*before, ("a", "b", "x")], [("a", "b", "")]]
    assert [entry.unlearned for entry in entries] == [set(), set()]


def test_a_column_called_history_may_be_about_something_else(tmp_path: Path) -> None:
    rows = [{**GOOD, "history": there} for there in ("asthma", None, 3, {"a": 1})]
    entries, _ = read_entries(write(tmp_path / "a.json", rows))
    assert [entry.turns for entry in entries] == [[("a", "b", "")]] * 4


def test_a_system_message_of_blanks_is_none(tmp_path: Path) -> None:
    entries, _ = read_entries(write(tmp_path / "a.json", [{**GOOD, "system": " \n"}]))
    assert entries[0].turns == [("a", "b", "")]


def test_a_field_that_is_named_as_the_input_is_nothing_else(tmp_path: Path) -> None:
    """Nor is a chat what has another name for the instruction, and the number of one."""
    rows = [{**GOOD, "system": "Linux"}]
    entries, _ = read_entries(write(tmp_path / "a.json", rows), fields=Fields(input="system"))
    assert [entry.turns for entry in entries] == [[("a", "b", "Linux")]]
    rows = [{"question": "a", "output": "b", "conversation": "17"}]
    entries, _ = read_entries(write(tmp_path / "b.json", rows), fields=Fields("question"))
    assert [entry.turns for entry in entries] == [[("a", "b", "")]]


def test_conversations_beside_an_instruction_count_if_there_are_any(tmp_path: Path) -> None:
    rows = [{**GOOD, "conversations": there} for there in ([], None, 3, "no")]
    rows += [{**GOOD, **conversations(*HI)}, {"messages": None, **conversations(*HI)}]
    entries, _ = read_entries(write(tmp_path / "a.json", rows))
    assert parts(entries) == [("a", "", "b")] * 4 + [("Hi", "", "Hello")] * 2


@pytest.mark.parametrize("name", ["a.json", "a.parquet"])
@pytest.mark.parametrize(
    ("weights", "last", "unlearned"),
    [
        ([1, 1, 1], "2", set()),
        ([0, 1, None], "2", {0}),
        ([0, 0, 1], "2", {0, 1}),
        ([1, 0, None], "2", {1}),
        ([0, 1, 0], "1", {0}),
        ([1, 0, 0], "0", set()),
    ],
)
def test_answers_of_weight_0_are_read_but_not_learned(
    tmp_path: Path, name: str, weights: list[int | None], last: str, unlearned: set[int]
) -> None:
    turns = [(role, f"{turn}") for turn in range(3) for role in ("user", "assistant")]
    row = messages(("system", "Be kind."), *turns)
    for message, weight in zip(row["messages"][2::2], weights, strict=True):
        message["weight"] = weight
    [entry], _ = read_entries(write(tmp_path / name, [row]))
    assert entry.output == last
    assert len(entry.history) == int(last)
    assert entry.unlearned == unlearned
    assert len(entry.raw["messages"]) == 7


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_chats_of_one_turn(tmp_path: Path, name: str) -> None:
    rows = [
        messages(("user", "Hi"), ("assistant", "Hello")),
        messages(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")),
    ]
    entries, _ = read_entries(write(tmp_path / name, rows))
    assert [entry.turns for entry in entries] == [
        [("Hi", "Hello", "")],
        [("Be kind.\n\nHi", "Hello", "")],
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"instruction": "a"}, r"no field 'output' \(there are: 'instruction'\)"),
        ({"output": "a"}, "no field 'instruction'"),
        ({}, r"no field 'instruction' \(there are: none\)"),
        ({**GOOD, "output": ""}, "output is empty"),
        ({**GOOD, "output": " \n"}, "output is empty"),
        ({**GOOD, "instruction": ""}, "instruction is empty"),
        ({**GOOD, "output": 3}, "output is a number, expected text"),
        ({**GOOD, "output": True}, "output is true or false, expected text"),
        ({**GOOD, "output": math.nan}, "output is NaN, expected text"),
        ({**GOOD, "output": None}, "output is null, expected text"),
        ({**GOOD, "instruction": ["x"]}, "instruction is a list, expected text"),
        ({**GOOD, "input": {"x": 1}}, "input is an object, expected text"),
        ("text", "it is text, expected an object with named fields"),
        (None, "it is null, expected an object"),
        ([GOOD], "it is a list, expected an object"),
        ({"messages": "x"}, "its messages: expected a list of objects"),
        ({"messages": [["user", "Hi"]]}, "its messages: expected a list of objects"),
        ({"messages": []}, "it has no messages by user and assistant"),
        (messages(("system", "Be kind.")), "it has no messages by user and assistant"),
        ({**GOOD, "history": [["a"]]}, "history: turn 1 is not a list of an instruction and its"),
        ({**GOOD, "history": [["a", "b"], ["c", 1]]}, "history: turn 2 is not a list of an ins"),
        ({**GOOD, "system": ["a"]}, "system is a list, expected text"),
        (messages(("user", "Hi")), "its last message is by the user; expected an answer by the"),
        (messages(*HI, ("user", "Bye")), "its last message is by the user; expected an answer"),
        (messages(("system", "a"), *HI, ("user", "b")), "its last message is by the user; expec"),
        (messages(*HI[:1] * 2, *HI[1:]), "message 2: role is 'user', expected 'assistant'"),
        (messages(*HI, *HI[1:]), "message 3: role is 'assistant', expected 'user'"),
        (messages(*HI[1:]), "message 1: role is 'assistant', expected 'user'"),
        (messages(*HI, ("system", "a"), *HI), "message 3: role is 'system', expected 'user'"),
        (messages(*[("system", "a")] * 2, *HI), "message 2: role is 'system', expected 'user'"),
        (messages(*HI, ("tool", "42"), *HI[1:]), "message 3: role is 'tool', expected 'user'"),
        (messages(("a\nb" * 99, "x"), *HI), r"message 1: role is 'a\\nba.*, expected 'user'"),
        (messages((3, "x"), *HI), "message 1: role is a number, expected text"),
        (messages(*HI, ("user", "a"), ("assistant", None)), "message 4: content is null, expected"),
        (messages(*HI, ("user", "a"), ("assistant", "")), "message 4: content is empty"),
        (messages(("user", " "), *HI[1:]), "message 1: content is empty"),
        (messages(("system", ""), *HI), "message 1: content is empty"),
        (messages(("user", [{"type": "text"}]), *HI[1:]), "message 1: content is a list, expected"),
        ({"messages": [{"text": "Hi"}]}, r"message 1: no field 'role' \(there are: 'text'\)"),
        ({"conversations": "x"}, "its conversations: expected a list of objects"),
        ({"conversations": []}, "it has no messages by user and assistant"),
        (conversations(("gpt", "a")), "message 1: from is 'gpt', expected 'human'"),
        (conversations(("human", "a"), ("bing", "b")), "message 2: from is 'bing', expected 'gpt'"),
        (conversations(("system", " "), *HI), "message 1: value is empty"),
        (conversations(*HI, ("system", "a"), *HI), "message 3: from is 'system', expected 'human'"),
        (
            {"conversations": [{"from": "human"}]},
            r"message 1: no field 'value' \(there are: 'from'",
        ),
        ({"messages": [{"role": "user"}]}, r"message 1: no field 'content' \(there are: 'role'\)"),
        (
            {"messages": [{**message, "weight": 0} for message in messages(*HI, *HI)["messages"]]},
            "all of its answers have weight 0, so there is nothing to learn",
        ),
        *(
            (
                {"messages": [{**message, "weight": w} for message in messages(*HI)["messages"]]},
                f"message 2: weight is {shown}, expected 0 or 1",
            )
            for w, shown in [(2, "2"), (0.5, "0.5"), (-1, "-1"), ("0", "'0'"), (False, "False")]
        ),
    ],
)
@pytest.mark.parametrize(("name", "place"), [("a.json", "entry 2"), ("a.jsonl", "line 2")])
def test_broken_entries_are_named_or_skipped(
    tmp_path: Path, name: str, place: str, row: Any, told: str
) -> None:
    path = write(tmp_path / name, [GOOD, row, GOOD])
    with pytest.raises(UserError, match=f"1 of 3 entries cannot be used: {place}: {told}") as error:
        read_entries(path)
    assert "data.on_error=skip" in str(error.value)
    assert "\n" not in str(error.value)
    entries, broken = read_entries(path, skip_broken=True)
    assert len(entries) == 2
    assert [f"{one.kind} {one.number}" for one in broken] == [place]


def test_a_line_that_is_no_json_is_one_broken_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{json.dumps(GOOD)}\n\n{{"instruction": \n{"[" * 100_000}\n')
    with pytest.raises(
        UserError, match=r"2 of 3 .*: line 3: not JSON \(.*: column 17\); line 4: not"
    ):
        read_entries(path)
    assert len(read_entries(path, skip_broken=True)[0]) == 1


def test_rows_of_parquet_are_numbered(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [GOOD, {"instruction": "a", "output": None}])
    with pytest.raises(UserError, match=r"1 of 2 .*: row 2: output is null"):
        read_entries(path)
    path = write(tmp_path / "a.parquet", [{"instruction": "a", "answer": "b"}])
    with pytest.raises(UserError, match=r"output' \(there are: 'instruction', 'answer'\)"):
        read_entries(path)


def test_all_broken_entries_are_numbered(tmp_path: Path) -> None:
    empty = {**GOOD, "output": ""}
    path = write(tmp_path / "a.json", [empty, {}, GOOD, {}, {}, {}, GOOD, empty])
    with pytest.raises(UserError) as error:
        read_entries(path)
    assert str(error.value) == (
        f"{path}: 6 of 8 entries cannot be used: entries 1, 8: output is empty; entries 2, 4-6: no"
        " field 'instruction' (there are: none); mend them, or leave them out: data.on_error=skip"
    )
    path = write(tmp_path / "a.json", [{**GOOD, "output": n / 2} for n in range(13)])
    with pytest.raises(UserError, match="used: entries 1-13: output is a number, expected text; m"):
        read_entries(path)
    lines = [json.dumps({"instruction": "a", f"{number}": ""}) for number in range(13)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([json.dumps(GOOD), *lines]))
    with pytest.raises(UserError, match=r"13 of 14 .*line 11: [^;]*; lines 12-14: other faults; m"):
        read_entries(path)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.json", b"[{]", r"a\.json is not JSON: .*column 3.*expected one list of entries"),
        ("a.json", b'{"a": 1}\n{"a": 2}', r"if each line is one of them, name the file \.jsonl"),
        ("a.json", b"{}", r"a\.json holds an object; expected one list of entries"),
        ("a.json", b"[" * 100_000, r"a\.json is not JSON"),
        ("a.json", b"[]", r"a\.json has no entries"),
        ("a.json", b"", r"a\.json has no entries; expected some with an instruction and an output"),
        ("a.jsonl", b"\n\n", r"a\.jsonl has no entries"),
        (
            "a.jsonl",
            b'{\n"a": 1\n}\n',
            r"3 of 3 .*: line 1: not JSON \(Exp.*2\); expected an object on",
        ),
        ("a.json", b"[1]", r"1 of 1 entries cannot be used: .*; mend them$"),
        ("a.json", b'["\xff"]', r"a\.json is not UTF-8 text"),
        ("a.json.gz", b"plain", r"a\.json\.gz is damaged"),
        ("a.parquet", b"PAR1", r"a\.parquet cannot be read as Parquet"),
        ("a.txt", b"x", r"data\.path=.*a\.txt: expected a file whose name ends in \.json"),
        ("a.parquet.gz", b"x", r"expected a file whose name ends in \.json"),
    ],
)
@pytest.mark.parametrize("skip_broken", [False, True])
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, name: str, data: bytes, told: str, skip_broken: bool
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=told) as error:
        read_entries(tmp_path / name, skip_broken=skip_broken)
    assert "\n" not in str(error.value)


def test_a_path_that_leads_to_no_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "data.json", [GOOD])
    with pytest.raises(UserError, match=r"no such file; did you mean data\.path=.*data\.json\?"):
        read_entries(tmp_path / "dta.json")
    with pytest.raises(UserError, match=r"there is no folder .*; give one that exists"):
        read_entries(tmp_path / "no" / "where.json")
    with pytest.raises(UserError, match=r"this is a folder; give one file"):
        read_entries(tmp_path)


def numbered(n: int) -> list[Entry]:
    return [Entry(str(i), "", str(i)) for i in range(n)]


@settings(derandomize=True, max_examples=100)
@given(
    n=st.integers(4, 3000),
    percent=st.tuples(st.integers(1, 40), st.integers(0, 40)),
    seed=st.none() | st.integers(0, 9),
)
def test_every_entry_is_in_one_split(n: int, percent: tuple[int, int], seed: int | None) -> None:
    entries = numbered(n)
    splits = split_entries(entries, percent[0] / 100, percent[1] / 100, seed)
    dealt = [entry for name in ("train", "test", "validation") for entry in splits[name]]
    assert sorted(dealt, key=lambda e: int(e.output)) == entries
    assert seed is not None or dealt == entries
    assert len(splits["train"]) == n * (100 - sum(percent)) // 100
    assert len(splits["test"]) == n * percent[1] // 100


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"validation"}, {"train": 17, "test": 2, "validation": 1}),
        ({"test"}, {"train": 17, "test": 1, "validation": 2}),
        ({"validation", "test"}, {"train": 19, "test": 1, "validation": 1}),
    ],
)
def test_splits_with_a_file_of_their_own_take_no_share(
    given: set[str], sizes: dict[str, int]
) -> None:
    entries, own = numbered(19), [Entry("own", "", "own")]
    splits = split_entries(entries, 0.06, 0.11, None, dict.fromkeys(given, own))
    assert {name: len(split) for name, split in splits.items()} == sizes
    assert all(splits[name] == own for name in given)
    order = ("train", "test", "validation")
    assert [entry for name in order if name not in given for entry in splits[name]] == entries


def test_a_shuffled_split_depends_on_its_seed() -> None:
    splits = [split_entries(numbered(100), 0.1, 0.1, seed)["test"] for seed in (1, 1, 2, None)]
    assert splits[0] == splits[1] != splits[2] != splits[3]


@pytest.mark.parametrize(
    ("n", "told"),
    [
        (1, r"of 1 entries, data\.val_fraction=0\.1 and .* leave none for train: lower them"),
        (2, r"leave none for validation: raise them, or give more"),
    ],
)
def test_an_empty_split_is_named(n: int, told: str) -> None:
    fractions = {1: (0.1, 0.1), 2: (0.0, 0.5)}[n]
    with pytest.raises(UserError, match=told):
        split_entries(numbered(n), *fractions, None)
