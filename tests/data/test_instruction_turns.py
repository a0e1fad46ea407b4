"""Chats of several turns as token ids: every answer is learned, and nothing else."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptlit.data.batch import InstructionBatch
from gptlit.data.entry import Entry
from gptlit.data.instruction_batches import InstructionDataset, PackedDataset, TokenizedEntries
from gptlit.data.instructions import _content
from gptlit.model import GPTConfig, GPTModel, segment_mask
from gptlit.prompts import PromptFormat
from gptlit.tokenizer import get_tokenizer

BYTES = get_tokenizer("byte")
EOT = BYTES.eot_id
PROMPT = PromptFormat("short", "{instruction}>{response};")

Turns = list[tuple[str, str]]
turns = st.lists(
    st.tuples(st.text("abc", min_size=1, max_size=5), st.text("xyz", min_size=1, max_size=5)),
    min_size=1,
    max_size=4,
)
chats = st.lists(turns, min_size=1, max_size=8)


def entry(turns: Turns, unlearned: Iterable[int] = ()) -> Entry:
    before = {"history": tuple(turns[:-1]), "unlearned": frozenset(unlearned)}
    return Entry(turns[-1][0], "", turns[-1][1], **before)


def tokenized(chats: list[Turns], context_length: int = 64, cut: bool = True) -> TokenizedEntries:
    return TokenizedEntries(list(map(entry, chats)), BYTES, PROMPT, context_length, cut=cut)


def expected(
    turns: Turns, mask_prompt: bool, unlearned: Iterable[int] = ()
) -> tuple[list[int], list[int]]:
    """Inputs and targets of a chat in a row of its own."""
    ids: list[int] = []
    learned: list[int] = []
    for at, (asked, answer) in enumerate(turns):
        prompt, response = BYTES.encode(f"{asked}>"), [*BYTES.encode(f"{answer};"), EOT]
        ids += prompt + response
        learned += [-100] * len(prompt) if mask_prompt else prompt
        learned += [-100] * len(response) if at in unlearned else response
    return ids[:-1], learned[1:]


@settings(derandomize=True, max_examples=100)
@given(chats=chats, mask_prompt=st.booleans())
def test_every_answer_is_learned_with_its_end(chats: list[Turns], mask_prompt: bool) -> None:
    entries = tokenized(chats)
    dataset = InstructionDataset(entries, EOT, mask_prompt=mask_prompt, join_tokens=0)
    for number, turns in enumerate(chats):
        batch = dataset[np.array([number])]
        assert (batch.input_ids[0].tolist(), batch.targets[0].tolist()) == expected(
            turns, mask_prompt
        )
    assert entries.in_responses == sum(len(answer) + 2 for turns in chats for _, answer in turns)


def apart(batch: InstructionBatch) -> list[tuple[list[int], list[int]]]:
    """Inputs and targets of the entries that share rows."""
    found = []
    assert batch.positions is not None and batch.segments is not None
    for inputs, targets, positions, segments in zip(*batch[:4], strict=True):
        shared = torch.arange(len(inputs)) < int((segments == 1).nonzero()[0])
        for number in range(1, int(segments.max()) + 1):
            here = (segments == number) | shared
            assert positions[here].tolist() == list(range(int(here.sum())))
            found.append((inputs[here].tolist(), targets[here].tolist()))
    return found


@settings(derandomize=True, max_examples=100)
@given(chats=st.lists(turns, min_size=2, max_size=8), mask_prompt=st.booleans())
def test_chats_that_share_rows_are_the_same_as_apart(chats: list[Turns], mask_prompt: bool) -> None:
    chats = [[("cab" + turns[0][0], turns[0][1]), *turns[1:]] for turns in chats]
    entries = tokenized(chats)
    there = sorted(expected(turns, mask_prompt) for turns in chats)
    joined = InstructionDataset(entries, EOT, mask_prompt=mask_prompt, join_tokens=9999)
    assert sorted(apart(joined[np.arange(len(chats))])) == there
    for join_tokens in (0, 512):
        given = {"mask_prompt": mask_prompt, "join_tokens": join_tokens, "room": 999}
        packed = PackedDataset(entries, EOT, **given)
        assert sorted(apart(packed[packed.rows(0, 0)])) == there


@settings(derandomize=True, max_examples=100)
@given(chats=st.lists(turns, min_size=2, max_size=8), mask_prompt=st.booleans(), data=st.data())
def test_answers_that_are_not_learned_are_read_but_no_targets(
    chats: list[Turns], mask_prompt: bool, data: st.DataObject
) -> None:
    chats = [[("cab", "xyz"), *turns] for turns in chats]
    unlearned = [data.draw(st.sets(st.integers(0, len(turns) - 2), min_size=1)) for turns in chats]
    entries = TokenizedEntries(list(map(entry, chats, unlearned)), BYTES, PROMPT, 64, cut=True)
    there = [
        expected(turns, mask_prompt, without)
        for turns, without in zip(chats, unlearned, strict=True)
    ]
    for join_tokens in (0, 9999):
        given = {"mask_prompt": mask_prompt, "join_tokens": join_tokens}
        packed = PackedDataset(entries, EOT, **given, room=999)
        assert sorted(apart(packed[packed.rows(0, 0)])) == sorted(there)
        alone = InstructionDataset(entries, EOT, **given)
        for number, targets in enumerate(there):
            batch = alone[np.array([number])]
            assert (batch.input_ids[0].tolist(), batch.targets[0].tolist()) == targets
    assert entries.in_responses == sum(
        len(answer) + 2
        for turns, without in zip(chats, unlearned, strict=True)
        for at, (_, answer) in enumerate(turns)
        if at not in without
    )


@pytest.mark.parametrize(("room", "learned"), [(9, None), (10, "z"), (99, "zz;|")])
def test_a_long_chat_is_left_out_where_no_answer_to_learn_is_left(
    room: int, learned: str | None
) -> None:
    chat = entry([("a", "xy"), ("bbb", "zz")], unlearned=[0])
    entries = TokenizedEntries([chat], BYTES, PROMPT, room, cut=True)
    assert entries.dropped == (learned is None)
    assert entries.in_responses == len(learned or "")


CHATS: list[Turns] = [
    [("cab", "xyz"), ("a", "zz"), ("bb", "x")],
    [("cabba", "y")],
    [("cac", "yx"), ("ba", "zyx")],
    [("ca", "z"), ("ca", "z"), ("b", "xx"), ("c", "y")],
]


@pytest.fixture
def model() -> GPTModel:
    torch.manual_seed(0)
    cfg = GPTConfig(257, 64, emb_dim=16, n_heads=2, n_layers=2, emb_init_std=0.5)
    return GPTModel(cfg)


def losses(model: GPTModel, batch: InstructionBatch) -> Tensor:
    mask = segment_mask(batch.segments)
    return model.loss_sum(batch.input_ids, batch.targets, positions=batch.positions, mask=mask)


def gradients(model: GPTModel, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()))
    return list(found)


def test_the_loss_is_that_of_the_answers_each_behind_the_turns_before(model: GPTModel) -> None:
    dataset = InstructionDataset(tokenized(CHATS), EOT, mask_prompt=True, join_tokens=0)
    by_hand = torch.zeros(())
    for turns in CHATS:
        before: list[int] = []
        for asked, answer in turns:
            prompt = [*before, *BYTES.encode(f"{asked}>")]
            response = [*BYTES.encode(f"{answer};"), EOT]
            before = prompt + response
            told = model(torch.tensor([before]))[0].log_softmax(dim=-1)
            places = range(len(prompt) - 1, len(before) - 1)
            by_hand = by_hand - told[list(places), response].sum()
    loss = losses(model, dataset[np.arange(len(CHATS))])
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(gradients(model, loss), gradients(model, by_hand))


def test_joined_and_packed_chats_have_the_loss_and_gradients_of_those_apart(
    model: GPTModel,
) -> None:
    entries = tokenized(CHATS)
    plain = InstructionDataset(entries, EOT, mask_prompt=True, join_tokens=0)
    joined = InstructionDataset(entries, EOT, mask_prompt=True, join_tokens=40)
    packed = PackedDataset(entries, EOT, mask_prompt=True, join_tokens=0, room=64)
    everyone = np.arange(len(CHATS))
    loss = losses(model, plain[everyone])
    for batch in (joined[everyone], packed[packed.rows(0, 0)]):
        assert len(batch.input_ids) < len(CHATS)
        torch.testing.assert_close(losses(model, batch), loss)
        torch.testing.assert_close(
            gradients(model, losses(model, batch)), gradients(model, losses(model, plain[everyone]))
        )


@pytest.mark.parametrize(
    ("room", "learned"),
    [
        (99, "xy;|zz;|"),
        (13, "xy;|zz;|"),
        (12, "xy;|zz;"),
        (8, "xy;|"),  # the cut is in the second question
        (3, "xy"),
        (2, "x"),
        (1, None),
    ],
)
def test_a_long_chat_is_cut_at_its_end(room: int, learned: str | None) -> None:
    entries = tokenized([[("a", "xy"), ("bbb", "zz")]], room)
    assert (len(entries), entries.dropped) == ((0, 1) if learned is None else (1, 0))
    if learned is not None:
        dataset = InstructionDataset(entries, EOT, mask_prompt=True, join_tokens=0)
        targets = dataset[np.array([0])].targets[0]
        assert len(targets) == min(room, 13)
        kept = BYTES.decode(targets[targets != -100].tolist())
        assert kept.replace("<|endoftext|>", "|") == learned
        assert entries.in_responses == len(learned)
        assert entries.cut == (room < 13)
    assert len(tokenized([[("a", "xy"), ("bbb", "zz")]], room, cut=False)) == (room >= 13)


def test_data_are_known_by_every_turn_and_those_of_one_turn_as_ever() -> None:
    def identity(turns: Turns, *unlearned: int) -> str:
        return _content({"train": [entry(turns, unlearned)], "validation": [], "test": []})

    assert identity([("a", "b")]).startswith("cd286879fe63ec7ccc1e40ddd00416d5")
    chat = [("a", "b"), ("c", "d"), ("e", "f")]
    new = [("a", "?"), ("?", "b")]
    others = [[*chat[:i], turn, *chat[i + 1 :]] for i in range(3) for turn in new]
    assert len(set(map(identity, [chat, chat[1:], chat[2:], chat[:2], *others]))) == 10
    assert len({identity(chat), identity(chat, 0), identity(chat, 1), identity(chat, 0, 1)}) == 4


@pytest.mark.parametrize("before", [(), (("a", "b"), ("c", "d"))])
def test_a_message_by_the_system_is_as_one_with_the_first_instruction(
    before: tuple[tuple[str, str], ...],
) -> None:
    apart = Entry("e", "", "f", history=before, system="s")
    joined = Entry("e" if before else "s\n\ne", "", "f")
    if before:
        joined = replace(joined, history=(("s\n\na", "b"), *before[1:]))
    contents = [_content({"train": [e], "validation": [], "test": []}) for e in (apart, joined)]
    assert contents[0] == contents[1]
    tokens = [TokenizedEntries([e], BYTES, PROMPT, 64, cut=False).ids(0) for e in (apart, joined)]
    assert tokens[0].tolist() == tokens[1].tolist()


def test_end_of_text_in_a_message_is_text() -> None:
    literal = "<|endoftext|>"
    entries = tokenized([[(literal, literal), ("a", "x")]], context_length=99)
    assert entries.ids(0).tolist().count(EOT) == 2
