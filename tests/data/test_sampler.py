import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from gptlit.data.sampler import Permutation, ResumableLoader, SequentialLoader
from gptlit.errors import UserError


class Numbers:
    """A dataset whose batches are the numbers of their samples."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, samples: np.ndarray) -> Tensor:
        return torch.from_numpy(samples.copy())


def taken(loader: Any, n: int | None = None) -> list[list[int]]:
    return [batch.tolist() for batch in islice(loader, n)]


def flat(batches: Iterable[list[int]]) -> list[int]:
    return [sample for batch in batches for sample in batch]


def endless(loader: ResumableLoader) -> Iterator[Tensor]:
    while True:
        yield from loader


@settings(derandomize=True, max_examples=200)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**40), epoch=st.integers(0, 100))
def test_a_permutation_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    shuffled = Permutation(n, seed, epoch)(np.arange(n))
    assert sorted(shuffled.tolist()) == list(range(n))


@settings(derandomize=True, max_examples=50)
@given(n=st.integers(1, 2**45), data=st.data())
def test_any_part_of_a_permutation_is_that_part_of_the_whole(n: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=50)))
    permutation = Permutation(n, 3)
    numbers = permutation(positions)
    assert ((numbers >= 0) & (numbers < n)).all()
    assert [permutation(positions[i : i + 1])[0] for i in range(len(positions))] == numbers.tolist()
    assert len(set(numbers.tolist())) == len(set(positions.tolist()))


def test_every_order_is_about_equally_likely() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(6000):
        order = tuple(Permutation(4, seed)(np.arange(4)).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    # 250 each with a standard deviation of 15.5.
    assert 190 < min(counts.values()) <= max(counts.values()) < 310


def test_a_permutation_depends_on_seed_and_epoch() -> None:
    orders = [(0, 0), (0, 1), (1, 0), (1, 1)]
    shuffled = {tuple(Permutation(100, *order)(np.arange(100)).tolist()) for order in orders}
    assert len(shuffled) == 4


@pytest.mark.parametrize("n", [12, 14, 1300])
def test_an_epoch_reads_each_sample_at_most_once_in_whole_batches(n: int) -> None:
    loader = ResumableLoader(Numbers(n), 4, seed=1)
    epochs = [taken(loader) for _ in range(3)]
    for batches in epochs:
        assert len(batches) == len(loader) == n // 4
        assert {len(batch) for batch in batches} == {4}
        samples = flat(batches)
        assert len(set(samples)) == len(samples)
        assert set(samples) <= set(range(n))
    assert epochs[0] != epochs[1] != epochs[2]


@settings(derandomize=True, max_examples=30)
@given(n=st.integers(20, 200), batch_size=st.integers(1, 3), world_size=st.integers(1, 5))
def test_ranks_together_read_what_one_process_reads(
    n: int, batch_size: int, world_size: int
) -> None:
    ranks = [
        taken(ResumableLoader(Numbers(n), batch_size, 5, rank=rank, world_size=world_size), 20)
        for rank in range(world_size)
    ]
    one = taken(ResumableLoader(Numbers(n), batch_size * world_size, 5), 20)
    assert [flat(batches) for batches in zip(*ranks, strict=True)] == one


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stopped_after", [0, 1, 4, 5, 7])
def test_a_restored_loader_goes_on_bit_for_bit(stopped_after: int, num_workers: int) -> None:
    def new() -> ResumableLoader:
        return ResumableLoader(Numbers(23), 4, seed=2, num_workers=num_workers)

    stopped = new()
    running = endless(stopped)
    before = taken(running, stopped_after)
    state = stopped.state_dict()  # while workers have read ahead
    restored = new()
    restored.load_state_dict(state)
    assert before + taken(endless(restored), 8) == taken(endless(new()), stopped_after + 8)


@pytest.mark.parametrize(("batch_size", "world_size"), [(2, 1), (8, 1), (1, 4), (4, 2)])
def test_a_state_may_be_loaded_with_other_batch_sizes(batch_size: int, world_size: int) -> None:
    stopped = ResumableLoader(Numbers(64), 4, seed=2)
    running = endless(stopped)
    read = flat(taken(running, 16 + 6))
    ranks = [
        ResumableLoader(Numbers(64), batch_size, 2, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for loader in ranks:
        loader.load_state_dict(stopped.state_dict())
    rest = [sample for loader in ranks for sample in flat(taken(loader, len(loader) * 5 // 8))]
    assert sorted(read[64:] + rest) == list(range(64))


def test_neither_memory_nor_the_start_depend_on_how_many_samples_there_are() -> None:
    def peak(n: int) -> int:
        tracemalloc.start()
        loader = ResumableLoader(Numbers(n), 4, seed=2)
        loader.load_state_dict({"epoch": 1, "samples": n // 2})  # in the middle, far from the start
        assert len(flat(taken(loader, 1000))) == 4000
        assert len(flat(taken(SequentialLoader(Numbers(n), 4), 1000))) == 4000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(10**4)  # what is made once
    assert peak(10**13) < peak(10**4) + 200_000


def test_reading_draws_nothing_from_torchs_random_numbers() -> None:
    state = torch.get_rng_state()
    list(ResumableLoader(Numbers(23), 4, seed=2))
    list(SequentialLoader(Numbers(5), 2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("n", "world_size", "told"),
    [
        (11, 1, r"are 11 windows, but one step takes 12 .*set data\.batch_size=11 or less"),
        (30, 4, r"one step takes 48 \(data\.batch_size=12 for each of 4 pro.*batch_size=7 or less"),
        (3, 4, r"are 3 windows, .*: use fewer processes, or give more data"),
    ],
)
def test_too_few_samples_for_a_step_are_named(n: int, world_size: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        ResumableLoader(Numbers(n), 12, seed=0, world_size=world_size, what="windows")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_sequential_reading_is_in_order_and_complete(num_workers: int) -> None:
    loader = SequentialLoader(Numbers(10), 4, num_workers=num_workers)
    assert len(loader) == 3
    assert taken(loader) == taken(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@settings(derandomize=True, max_examples=100)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 5), world_size=st.integers(1, 5))
def test_ranks_share_a_sequence_evenly_and_without_repeats(
    n: int, batch_size: int, world_size: int
) -> None:
    ranks = [
        taken(SequentialLoader(Numbers(n), batch_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({tuple(map(len, batches)) for batches in ranks}) == 1
    samples = sorted(sample for batches in ranks for sample in flat(batches))
    assert samples == list(range(-(-n // world_size) * world_size))


class Recorder(LightningModule):
    """Writes down the batches that it saw, and saves a checkpoint in `hook` after `save_after`."""

    def __init__(self, hook: str = "", save_after: int = 0, path: Path = Path()) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.hook = hook
        self.save_after = save_after
        self.path = path
        self.loader = ResumableLoader(Numbers(23), 4, seed=7)  # 5 batches per epoch

    def train_dataloader(self) -> ResumableLoader:
        return self.loader

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["place"] = self.loader.state_dict()  # as a data module does

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loader.load_state_dict(checkpoint["place"])

    def val_dataloader(self) -> SequentialLoader:
        return SequentialLoader(Numbers(6), 4)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append(batch.tolist())
        return self.weight * batch.float().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_train_batch_end(self, *_: Any) -> None:
        self._save("batch_end")

    def on_validation_end(self) -> None:
        self._save("validation_end")

    def on_train_epoch_end(self) -> None:
        self._save("epoch_end")

    def on_train_end(self) -> None:
        self._save("train_end")

    def _save(self, hook: str) -> None:
        if hook == self.hook and len(self.seen) == self.save_after:
            self.trainer.save_checkpoint(self.path)


def fit(module: Recorder, resume: Path | None = None, **limits: Any) -> list[list[int]]:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **limits,
    )
    trainer.fit(module, ckpt_path=resume, weights_only=True if resume else None)
    return module.seen


EPOCHS: dict[str, Any] = {"max_epochs": 3}
STEPS: dict[str, Any] = {"max_steps": 15, "max_epochs": -1}


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("limits", [EPOCHS, STEPS], ids=["epochs", "steps"])
@pytest.mark.parametrize(
    ("hook", "save_after"),
    [
        *(("batch_end", batches) for batches in (2, 5, 8, 10)),
        *(("validation_end", batches) for batches in (5, 10)),
        *(("epoch_end", batches) for batches in (5, 10)),
    ],
)
def test_a_resumed_run_sees_the_batches_of_an_undisturbed_one(
    tmp_path: Path, hook: str, save_after: int, limits: dict[str, Any]
) -> None:
    undisturbed = fit(Recorder(), **limits)
    assert len(undisturbed) == 15
    path = tmp_path / "middle.ckpt"
    fit(Recorder(hook, save_after, path), **limits)
    assert fit(Recorder(), resume=path, **limits) == undisturbed[save_after:]


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("hook", ["batch_end", "epoch_end", "train_end"])
@pytest.mark.parametrize("stop", [3, 5, 7])
def test_a_run_that_was_finished_may_be_extended(tmp_path: Path, hook: str, stop: int) -> None:
    path = tmp_path / "last.ckpt"
    fit(Recorder(hook, stop, path), max_steps=stop, max_epochs=-1)
    extended = fit(Recorder(), resume=path, **STEPS)
    assert extended == fit(Recorder(), **STEPS)[stop:]


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_short_epochs_read_on_instead_of_starting_over() -> None:
    assert fit(Recorder(), limit_train_batches=3, **EPOCHS) == fit(Recorder(), **EPOCHS)[:9]


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("hook", ["batch_end", "validation_end", "epoch_end"])
def test_a_short_epoch_s_end_is_resumed_from(tmp_path: Path, hook: str) -> None:
    limits = {**EPOCHS, "limit_train_batches": 3}
    fit(Recorder(hook, 3, tmp_path / "end.ckpt"), **limits)
    rest = fit(Recorder(), resume=tmp_path / "end.ckpt", **limits)
    assert rest == fit(Recorder(), **limits)[3:]
