from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.data.batch import InstructionBatch
from gptlit.data.entry import Entry
from gptlit.data.instruction_batches import (
    InstructionDataset,
    PackedDataset,
    PackedLoader,
    TokenizedEntries,
    join_rows,
    pack_rows,
)
from gptlit.errors import UserError
from gptlit.model import GPTConfig, GPTModel
from gptlit.prompts import PromptFormat
from gptlit.tokenizer import get_tokenizer

BYTES = get_tokenizer("byte")
EOT = BYTES.eot_id
PROMPT = PromptFormat("short", "{instruction}>{response}")

examples = st.lists(
    st.tuples(st.text("abc", min_size=1, max_size=9), st.text("xyz", min_size=1, max_size=9)),
    min_size=1,
    max_size=12,
)
beginnings = examples.map(lambda pairs: [("cba" + asked, answer) for asked, answer in pairs])


def tokenized(
    pairs: list[tuple[str, str]], context_length: int = 32, cut: bool = True
) -> TokenizedEntries:
    entries = [Entry(asked, "", answer) for asked, answer in pairs]
    return TokenizedEntries(entries, BYTES, PROMPT, context_length, cut=cut)


def ids(pair: tuple[str, str]) -> list[int]:
    return [*BYTES.encode(f"{pair[0]}>{pair[1]}"), EOT]


@settings(derandomize=True, max_examples=100)
@given(pairs=examples, mask_prompt=st.booleans())
def test_responses_are_targets_and_prompts_only_on_demand(
    pairs: list[tuple[str, str]], mask_prompt: bool
) -> None:
    dataset = InstructionDataset(tokenized(pairs), EOT, mask_prompt=mask_prompt, join_tokens=0)
    batch = dataset[np.arange(len(pairs))]
    longest = max(len(ids(pair)) - 1 for pair in pairs)
    assert batch.input_ids.shape == batch.targets.shape == (len(pairs), longest)
    assert batch.input_ids.dtype == batch.targets.dtype == torch.int64
    assert batch.positions is batch.segments is None
    assert batch.rows is not None
    assert batch.rows.tolist() == list(range(len(pairs)))
    for pair, inputs, targets in zip(pairs, *(t.tolist() for t in batch[:2]), strict=True):
        whole = ids(pair)
        size = len(whole) - 1
        assert inputs == whole[:-1] + [EOT] * (longest - size)
        masked = len(pair[0]) if mask_prompt else 0
        assert targets[:size] == [-100] * masked + whole[1 + masked :]
        assert targets[size:] == [-100] * (longest - size)
        assert targets.count(EOT) == 1
        if mask_prompt:
            learned = [target for target in targets if target != -100]
            assert BYTES.decode(learned[:-1]) == pair[1]
            assert learned[-1] == EOT


def test_text_behind_the_response_is_learned_too() -> None:
    prompt = PromptFormat("ends", "{instruction}>{response}<")
    entries = TokenizedEntries([Entry("a", "", "xy")], BYTES, prompt, 32, cut=False)
    batch = InstructionDataset(entries, EOT, mask_prompt=True, join_tokens=0)[np.array([0])]
    assert batch.targets.tolist() == [[-100, *b"xy<", EOT]]


@pytest.mark.parametrize(
    ("room", "cut", "kept", "n_cut", "n_dropped"),
    [
        (6, True, ["aa>xyz", "aaaaa>x", "b>x"], 1, 1),
        (6, False, ["aa>xyz", "b>x"], 0, 2),
        (5, True, ["aa>xyz", "b>x"], 1, 2),
        (3, True, ["aa>x", "b>x"], 1, 2),
        (99, False, ["aa>xyz", "aaaaa>xyz", "aaaaaa>x", "b>x"], 0, 0),
    ],
)
def test_what_is_too_long_is_cut_or_dropped(
    room: int, cut: bool, kept: list[str], n_cut: int, n_dropped: int
) -> None:
    pairs = [("aa", "xyz"), ("aaaaa", "xyz"), ("aaaaaa", "x"), ("b", "x")]
    entries = tokenized(pairs, room, cut)
    texts = [BYTES.decode(entries.ids(i).tolist()).split("<|")[0] for i in range(len(entries))]
    assert texts == kept
    assert (entries.cut, entries.dropped, entries.longest) == (n_cut, n_dropped, 10)


@settings(derandomize=True, max_examples=100)
@given(pairs=examples, room=st.integers(1, 20), cut=st.booleans())
def test_every_kept_entry_fits_and_has_something_to_learn(
    pairs: list[tuple[str, str]], room: int, cut: bool
) -> None:
    entries = tokenized(pairs, room, cut)
    assert len(entries) + entries.dropped == len(pairs)
    fits = [len(ids(pair)) - 1 <= room for pair in pairs]
    prompt_fits = [len(pair[0]) + 1 <= room for pair in pairs]
    expected = [whole or (cut and asked) for whole, asked in zip(fits, prompt_fits, strict=True)]
    kept = entries.rows_of(np.arange(len(entries))).tolist()
    assert kept == np.flatnonzero(expected).tolist()
    assert entries.cut == len(kept) - sum(fits)
    dataset = InstructionDataset(entries, EOT, mask_prompt=True, join_tokens=0)
    for number, row in enumerate(kept):
        batch = dataset[np.array([number])]
        assert batch.input_ids.shape[1] <= room
        learned = [target for target in batch.targets[0].tolist() if target != -100]
        whole = [*BYTES.encode(pairs[row][1]), EOT]
        assert learned == whole[: len(learned)]
        assert learned
        assert (EOT in learned) == fits[row]


lengths_and_room = st.integers(1, 60).flatmap(
    lambda room: st.tuples(st.lists(st.integers(1, room), min_size=1, max_size=80), st.just(room))
)


@settings(derandomize=True, max_examples=200)
@given(case=lengths_and_room, seed=st.integers(0, 5))
def test_packing_keeps_every_entry_and_fills_rows(case: tuple[list[int], int], seed: int) -> None:
    lengths, room = np.array(case[0]), case[1]
    order = np.random.default_rng(seed).permutation(len(lengths))
    rows = pack_rows(lengths, room, order)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(lengths)))
    filled = [int(lengths[row].sum()) for row in rows]
    assert max(filled) <= room
    # No two rows would fit into one, and the number of rows is that of any other order.
    assert len(rows) == 1 or sum(sorted(filled)[:2]) > room
    assert len(rows) == len(pack_rows(lengths, room, np.arange(len(lengths))))


def packed(pairs: list[tuple[str, str]], room: int, join_tokens: int = 0) -> PackedDataset:
    entries = tokenized(pairs, room)
    return PackedDataset(entries, EOT, mask_prompt=True, join_tokens=join_tokens, room=room)


def segments_of(batch: InstructionBatch) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Inputs and targets of the entries in a joined or packed batch, apart again."""
    found: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    if batch.segments is None or batch.positions is None:  # each is a row
        for inputs, targets in zip(*batch[:2], strict=True):
            size = int((targets != -100).nonzero().max()) + 1
            found[tuple(inputs[:size].tolist()), tuple(targets[:size].tolist())] += 1
        return found
    for inputs, targets, positions, segments in zip(*batch[:4], strict=True):
        assert ((segments == 0) <= (targets == -100)).all()
        numbers = segments[segments > 0].unique()
        assert numbers.tolist() == list(range(1, len(numbers) + 1))
        first = int((segments == 1).nonzero()[0])
        shared = torch.arange(len(inputs)) < first
        assert (inputs[(segments == 0) & ~shared] == EOT).all()
        for number in numbers:
            here = (segments == number) | shared
            assert positions[here].tolist() == list(range(int(here.sum())))
            found[tuple(inputs[here].tolist()), tuple(targets[here].tolist())] += 1
    return found


@settings(derandomize=True, max_examples=50)
@given(
    pairs=examples | beginnings,
    room=st.integers(20, 40),
    batch_size=st.integers(1, 3),
    join_tokens=st.sampled_from((0, 512)),
)
def test_packed_entries_are_the_same_as_those_apart(
    pairs: list[tuple[str, str]], room: int, batch_size: int, join_tokens: int
) -> None:
    loader = PackedLoader(packed(pairs, room, join_tokens), batch_size, seed=1)
    plain = InstructionDataset(tokenized(pairs, room), EOT, mask_prompt=True, join_tokens=0)
    apart = [plain[np.array([i])] for i in range(len(pairs))]
    expected = Counter(
        (tuple(one.input_ids[0].tolist()), tuple(one.targets[0].tolist())) for one in apart
    )
    for _ in range(2):
        found: Counter[Any] = Counter()
        for batch in loader:
            assert batch.input_ids.shape[0] <= batch_size
            assert batch.input_ids.shape[1] <= room
            found += segments_of(batch)
        assert found == expected


def test_packed_entries_have_the_loss_of_those_apart() -> None:
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(257, 24, emb_dim=16, n_heads=2, n_layers=2, emb_init_std=0.5)).eval()
    pairs = [("abc", "xyz"), ("a", "zz"), ("bb", "x"), ("cab", "yx"), ("ba", "zyx")]
    rows = packed(pairs, 24)
    [batch] = PackedLoader(rows, 8, seed=0)
    assert batch.input_ids.shape[0] < len(pairs)
    assert batch.segments is not None
    same = batch.segments[:, :, None] == batch.segments[:, None, :]
    mask = (same & torch.ones(same.shape[1:], dtype=torch.bool).tril())[:, None]
    apart = InstructionDataset(tokenized(pairs, 24), EOT, mask_prompt=True, join_tokens=0)
    plain = apart[np.arange(5)]
    with torch.no_grad():
        loss = model.loss_sum(batch.input_ids, batch.targets, positions=batch.positions, mask=mask)
        torch.testing.assert_close(loss, model.loss_sum(plain.input_ids, plain.targets))


@settings(derandomize=True, max_examples=200)
@given(
    pairs=examples | beginnings,
    mask_prompt=st.booleans(),
    join_tokens=st.sampled_from((1, 20, 100, 512)),
    seed=st.integers(0, 5),
)
def test_joined_entries_are_the_same_as_those_apart(
    pairs: list[tuple[str, str]], mask_prompt: bool, join_tokens: int, seed: int
) -> None:
    entries = tokenized(pairs)
    plain, joined = (
        InstructionDataset(entries, EOT, mask_prompt=mask_prompt, join_tokens=tokens)
        for tokens in (0, join_tokens)
    )
    drawn = np.random.default_rng(seed).permutation(len(pairs))[: 1 + seed]
    batch, expected = joined[drawn], plain[drawn]
    assert segments_of(batch) == segments_of(expected)
    assert batch.rows is not None and sorted(batch.rows.tolist()) == sorted(drawn.tolist())
    if join_tokens == 512:
        assert batch.input_ids.numel() <= expected.input_ids.numel()


def test_the_common_beginning_stands_once_in_a_row() -> None:
    pairs = [("cbaab", "x"), ("cbac", "yy"), ("cbab", "z")]
    joined = InstructionDataset(tokenized(pairs), EOT, mask_prompt=True, join_tokens=512)
    batch = joined[np.arange(3)]
    assert batch.positions is not None and batch.segments is not None and batch.rows is not None
    assert batch.rows.tolist() == [0, 1, 2]
    assert BYTES.decode(batch.input_ids[0].tolist()) == "cbaab>xc>yyb>z"
    assert batch.segments.tolist() == [[0] * 3 + [1] * 4 + [2] * 4 + [3] * 3]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 5]]
    # A prompt that is a target differs from the others in what is before it: nothing is shared.
    learned = InstructionDataset(tokenized(pairs), EOT, mask_prompt=False, join_tokens=512)
    assert learned[np.arange(3)].input_ids.shape == (1, 7 + 7 + 6)
    # Nor is the prompt's last token, which the response is predicted from.
    same = InstructionDataset(tokenized([("c", "x")] * 2), EOT, mask_prompt=True, join_tokens=512)
    assert BYTES.decode(same[np.arange(2)].input_ids[0].tolist()) == "c>x>x"


@settings(derandomize=True, max_examples=200)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), size=st.integers(1, 300))
def test_joining_deals_entries_evenly(lengths: list[int], size: int) -> None:
    rows = join_rows(np.arange(len(lengths)) + 7, np.array(lengths), size)
    assert sorted(np.concatenate(rows).tolist()) == [i + 7 for i in range(len(lengths))]
    filled = [sum(lengths[i - 7] for i in row) for row in rows]
    assert sum(filled) / len(filled) <= size or len(rows) == len(lengths)
    assert max(filled) - min(filled) <= max(lengths)


PAIRS = [("abc"[: 1 + i % 3], "x" * (1 + i % 5)) for i in range(60)]


def test_rows_are_packed_anew_in_each_epoch_but_always_as_many() -> None:
    loader = PackedLoader(packed(PAIRS, 20), 3, seed=1)
    epochs = [[batch.input_ids.tolist() for batch in loader] for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert {len(epoch) for epoch in epochs} == {len(loader)}
    again = PackedLoader(packed(PAIRS, 20), 3, seed=1)
    assert [batch.input_ids.tolist() for batch in again] == epochs[0]
    other = PackedLoader(packed(PAIRS, 20), 3, seed=2)
    assert [batch.input_ids.tolist() for batch in other] != epochs[0]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_packed_rows(world_size: int) -> None:
    def loader(**place: int) -> PackedLoader:
        return PackedLoader(packed(PAIRS, 20), 2, seed=1, **place)

    whole: Counter[Any] = Counter()
    for batch in loader():
        whole += segments_of(batch)
    ranks = [list(loader(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    shared: Counter[Any] = Counter()
    for batches in ranks:
        for batch in batches:
            shared += segments_of(batch)
    assert shared == whole


@pytest.mark.parametrize("stopped_after", [0, 1, 4, 9])
def test_a_packed_loader_resumes_inside_an_epoch(stopped_after: int) -> None:
    def endless(loader: PackedLoader) -> Any:
        while True:
            yield from loader

    def taken(batches: Any, n: int) -> list[Any]:
        return [batch.input_ids.tolist() for batch in islice(batches, n)]

    stopped = PackedLoader(packed(PAIRS, 20), 3, seed=1)
    before = taken(endless(stopped), stopped_after)
    restored = PackedLoader(packed(PAIRS, 20), 3, seed=1)
    restored.load_state_dict(stopped.state_dict())
    whole = taken(endless(PackedLoader(packed(PAIRS, 20), 3, seed=1)), stopped_after + 9)
    assert before + taken(endless(restored), 9) == whole


def test_fewer_packed_rows_than_processes_are_named() -> None:
    with pytest.raises(UserError, match="the training data are 1 packed rows"):
        PackedLoader(packed(PAIRS[:2], 20), 1, seed=1, world_size=2, what="packed rows")
