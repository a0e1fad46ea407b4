import math
from collections.abc import Iterator
from itertools import chain, combinations, islice, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.data.buckets import BucketLoader, SortedLoader
from gptlit.errors import UserError


class Numbers:
    """A dataset whose batches are the numbers of their samples."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, samples: np.ndarray) -> list[int]:
        numbers: list[int] = samples.tolist()
        return numbers


LENGTHS = np.random.default_rng(0).integers(1, 100, 203)


def loader(n: int = 203, batch_size: int = 4, seed: int = 2, **given: Any) -> BucketLoader:
    return BucketLoader(Numbers(n), batch_size, seed, given.pop("lengths", LENGTHS[:n]), **given)


def endless(read: BucketLoader) -> Iterator[list[int]]:
    while True:
        yield from read


def padding(batches: list[list[int]]) -> float:
    """Positions computed for each real token."""
    return sum(len(b) * LENGTHS[b].max() for b in batches) / sum(LENGTHS[b].sum() for b in batches)


sizes = st.fixed_dictionaries(
    {
        "n": st.integers(1, 80),
        "batch_size": st.integers(1, 7),
        "world_size": st.integers(1, 5),
        "seed": st.integers(0, 2**32),
        "bucket": st.booleans(),
    }
)


@settings(derandomize=True, max_examples=300)
@given(sizes=sizes)
def test_an_epoch_reads_every_sample_once_on_equally_many_batches(sizes: dict[str, Any]) -> None:
    n, batch_size, world_size = sizes["n"], sizes["batch_size"], sizes["world_size"]
    if n < world_size:
        return
    ranks = [loader(rank=rank, **sizes) for rank in range(world_size)]
    for _ in range(2):
        epoch = [list(rank) for rank in ranks]
        assert {len(batches) for batches in epoch} == {len(ranks[0])}
        read = sorted(sample for batches in epoch for batch in batches for sample in batch)
        if batch_size > 1:
            assert read == list(range(n))
        else:  # what is left out differs from epoch to epoch
            assert len(set(read)) == len(read) == n - n % world_size
        for step in zip(*epoch, strict=True):
            assert all(1 <= len(batch) <= batch_size for batch in step)
            assert max(map(len, step)) - min(map(len, step)) <= 1
        full = [
            all(len(batch) == batch_size for batch in step) for step in zip(*epoch, strict=True)
        ]
        assert all(full[:-2])


def test_only_the_last_batch_is_smaller() -> None:
    assert [len(batch) for batch in loader(203, 10)] == [10] * 20 + [3]


def test_samples_that_no_batch_has_room_for_differ_between_epochs() -> None:
    ranks = [loader(7, 1, rank=rank, world_size=2) for rank in range(2)]
    left_out = []
    for _ in range(20):
        read = [sample for rank in ranks for batch in rank for sample in batch]
        left_out += set(range(7)) - set(read)
    assert len(left_out) == 20
    assert len(set(left_out)) > 3


@pytest.mark.parametrize("bucket", [True, False])
def test_the_order_is_a_function_of_seed_and_epoch(bucket: bool) -> None:
    epochs = [list(loader(seed=seed, bucket=bucket)) for seed in (2, 2, 3)]
    assert epochs[0] == epochs[1] != epochs[2]
    read = loader(bucket=bucket)
    first, second = list(read), list(read)
    assert first == epochs[0] != second
    assert {tuple(sorted(b)) for b in first} != {tuple(sorted(b)) for b in second}


def test_buckets_save_padding_and_come_in_no_order() -> None:
    bucketed = list(loader(batch_size=8))
    assert padding(bucketed) < 1.3
    assert padding(list(loader(batch_size=8, bucket=False))) > 1.5
    longest = [LENGTHS[batch].max() for batch in bucketed]
    rises = sum(a < b for a, b in pairwise(longest))
    assert 5 < rises < len(longest) - 6


def test_lengths_are_mixed_up_to_one_half() -> None:
    """Of two batches, the one that was cut first has no sample more than that much longer."""
    ratios = []
    for seed in range(5):
        batches = [LENGTHS[batch] for batch in loader(batch_size=8, seed=seed)]
        for a, b in combinations(batches, 2):
            ratios.append(min(a.max() / b.min(), b.max() / a.min()))
    assert 1.4 < max(ratios) <= 1.5


def test_equal_lengths_are_merely_shuffled() -> None:
    even = np.full(60, 7)
    batches = list(loader(60, 6, lengths=even))
    assert sorted(sample for batch in batches for sample in batch) == list(range(60))
    assert all(sorted(batch) != list(range(min(batch), min(batch) + 6)) for batch in batches)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stopped_after", [0, 1, 20, 21, 30])
def test_a_restored_loader_goes_on_where_the_other_stopped(
    stopped_after: int, num_workers: int
) -> None:
    stopped = loader(batch_size=10, num_workers=num_workers)
    running = endless(stopped)
    before = list(islice(running, stopped_after))
    restored = loader(batch_size=10, num_workers=num_workers)
    restored.load_state_dict(stopped.state_dict())  # while workers have read ahead
    after = list(islice(endless(restored), 25))
    assert before + after == list(islice(endless(loader(batch_size=10)), stopped_after + 25))


def test_a_state_may_be_loaded_with_other_processes_that_read_as_much_together() -> None:
    stopped = loader(batch_size=12)
    running = endless(stopped)
    read = [sample for batch in islice(running, 9) for sample in batch]
    ranks = [loader(batch_size=4, rank=rank, world_size=3) for rank in range(3)]
    for rank in ranks:
        rank.load_state_dict(stopped.state_dict())
        read += [sample for batch in islice(rank, len(rank) - 9) for sample in batch]
    assert sorted(read) == list(range(203))


def test_processes_together_read_what_one_reads() -> None:
    steps = zip(*(loader(batch_size=4, rank=r, world_size=3) for r in range(3)), strict=True)
    together = [sorted(chain(*step)) for step in steps]
    assert together == [sorted(batch) for batch in loader(batch_size=12)]


def test_reading_draws_nothing_from_torchs_random_numbers() -> None:
    state = torch.get_rng_state()
    list(loader())
    list(SortedLoader(Numbers(9), 2, LENGTHS[:9]))
    assert torch.equal(torch.get_rng_state(), state)


def test_fewer_samples_than_processes_are_named() -> None:
    with pytest.raises(UserError, match=r"training data are 3 texts, .*: use fewer processes"):
        loader(3, world_size=4, what="texts")
    with pytest.raises(UserError, match="there are 3 test texts for 4 processes: use fewer"):
        SortedLoader(Numbers(3), 2, LENGTHS[:3], world_size=4, what="test texts")


@settings(derandomize=True, max_examples=300)
@given(n=st.integers(1, 60), batch_size=st.integers(1, 7), world_size=st.integers(1, 5))
def test_evaluation_reads_every_sample_exactly_once(
    n: int, batch_size: int, world_size: int
) -> None:
    if n < world_size:
        return
    ranks = [
        SortedLoader(Numbers(n), batch_size, LENGTHS[:n], rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = [list(rank) for rank in ranks]
    assert batches == [list(rank) for rank in ranks]
    assert {len(rank) for rank in batches} == {len(ranks[0])}
    assert len(ranks[0]) <= math.ceil(n / (batch_size * world_size))
    assert sorted(s for rank in batches for batch in rank for s in batch) == list(range(n))
    for rank in batches:
        assert all(1 <= len(batch) <= max(batch_size, 2) for batch in rank)
        lengths = LENGTHS[[sample for batch in rank for sample in batch]]
        assert (np.diff(lengths) >= 0).all()
    if world_size == 1:
        assert all(len(batch) <= batch_size for batch in batches[0])


def test_evaluation_reads_the_same_with_workers() -> None:
    plain, ahead = (
        list(SortedLoader(Numbers(50), 8, LENGTHS[:50], num_workers=workers)) for workers in (0, 2)
    )
    assert plain == ahead
    assert sorted(chain(*plain)) == list(range(50))
