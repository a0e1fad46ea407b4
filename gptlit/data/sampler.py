"""The order in which samples are read: shuffled and resumable for training, in order otherwise.

A dataset here has a length, and is indexed with the sample numbers of a whole batch.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from gptlit.errors import UserError

ROUNDS = 8
BLOCK = 256  # micro-batches whose order is computed at once, to spread numpy's cost per call


class BatchDataset(Protocol):
    """Samples that are read a batch at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, samples: np.ndarray) -> Any:
        """The batch of `samples`, (batch,) int64."""


class Permutation:
    """A seeded shuffle of range(n) that is computed, not stored: any part of it at any time.

    A Feistel network over a rectangle of about sqrt(n) by sqrt(n) cells, at least n in all. A
    number outside of range(n) is permuted again until it is back inside.

    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", methods 2 and 3.
    """

    def __init__(self, n: int, seed: int, epoch: int = 0) -> None:
        self.n = n
        self._rows = math.isqrt(max(n - 1, 0)) + 1
        self._columns = -(-n // self._rows)
        self._keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The numbers at `positions` of the shuffle; both int64 of the same shape, all below n."""
        out = self._once(positions)
        while (outside := out >= self.n).any():
            out[outside] = self._once(out[outside])
        return out

    def _once(self, cells: np.ndarray) -> np.ndarray:
        row, column = np.divmod(cells.astype(np.uint64), np.uint64(self._columns))
        for even, odd in self._keys.reshape(-1, 2):
            row = (row + _mixed(column, even)) % np.uint64(self._rows)
            column = (column + _mixed(row, odd)) % np.uint64(self._columns)
        return (row * np.uint64(self._columns) + column).astype(np.int64)


def _mixed(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """The upper 32 of 64 well mixed bits of each x, so that adding a cell cannot overflow.

    Source: Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators" (SplitMix64).
    """
    x = x ^ key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(32)


class ResumableLoader:
    """Shuffled micro-batches for training, which resume exactly where a checkpoint was written.

    The micro-batches of a run form one endless sequence: all of epoch 0, then of epoch 1 and so
    on, where each epoch reads every sample at most once, in an order of its own, and leaves out
    those that do not fill a batch. Micro-batch m of an epoch, on process r of W, has the samples at
    positions [(m·W + r)·B, (m·W + r + 1)·B) of that order: together the W processes read what
    one process with batches of W·B would.

    A pass over the loader hands out the next `len(loader)` micro-batches, and `state_dict` says
    how many have been handed out, however far workers have read ahead. The state counts samples, so
    it may be loaded with another batch size or number of processes. It is the same on all ranks.

    dataset: see BatchDataset; batch_size: samples per process and micro-batch
    what: the name of a sample in errors

    Raises UserError if an epoch has less than one micro-batch for each process.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        what: str = "samples",
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self.handed_out = 0
        """Micro-batches of all epochs so far, per process."""
        if not len(self):
            most = len(dataset) // world_size
            cure = f"set data.batch_size={most} or less" if most else "use fewer processes"
            raise UserError(
                f"the training data are {len(dataset)} {what}, but one step takes "
                f"{batch_size * world_size} (data.batch_size={batch_size} for each of {world_size} "
                f"processes): {cure}, or give more data"
            )

    def __len__(self) -> int:
        """Micro-batches per epoch and process."""
        return len(self._dataset) // (self._batch_size * self._world_size)

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that the start is looked up with the first batch: Lightning asks for the
        # iterator of the first epoch before it loads the state.
        order = self._order(self.handed_out, self.handed_out + len(self))
        for batch in _batches(self._dataset, order, self._num_workers, self._pin_memory):
            self.handed_out += 1
            yield batch

    def _order(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The samples of micro-batches `start` to `stop` of the endless sequence."""
        while start < stop:
            epoch, first = divmod(start, len(self))
            last = min(first + stop - start, len(self))
            yield from self._part_of_epoch(epoch, first, last)
            start += last - first

    def _part_of_epoch(self, epoch: int, first: int, last: int) -> Iterator[np.ndarray]:
        """The samples of micro-batches `first` to `last` of an epoch, for this process."""
        permutation = Permutation(len(self._dataset), self._seed, epoch)
        for start in range(first, last, BLOCK):
            batches = np.arange(start, min(start + BLOCK, last))[:, None]
            batches = batches * self._world_size + self._rank  # among those of all processes
            yield from permutation(batches * self._batch_size + np.arange(self._batch_size))

    def state_dict(self) -> dict[str, int]:
        """Whole epochs that have been handed out, and samples of the next, over all processes."""
        epoch, batch = divmod(self.handed_out, len(self))
        return {"epoch": epoch, "samples": batch * self._batch_size * self._world_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after the samples that `state_dict` counts, rounded up to a whole batch."""
        batch = -(-state_dict["samples"] // (self._batch_size * self._world_size))
        self.handed_out = state_dict["epoch"] * len(self) + min(batch, len(self))


class SequentialLoader:
    """Every sample once and in order, for validation.

    Process r of W reads samples r, r + W, r + 2W and so on. All processes hand out equally many
    batches of equal sizes, as sharded models require. For this, the last sample number of a process
    may be past the end, by less than W; the dataset must give it a sample without targets.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._share = math.ceil(len(dataset) / world_size)

    def __len__(self) -> int:
        """Batches per process."""
        return math.ceil(self._share / self._batch_size)

    def __iter__(self) -> Iterator[Any]:
        return _batches(self._dataset, self._order(), self._num_workers, self._pin_memory)

    def _order(self) -> Iterator[np.ndarray]:
        """The samples of each batch of this process."""
        for start in range(0, self._share, self._batch_size):
            stop = min(start + self._batch_size, self._share)
            yield np.arange(start, stop) * self._world_size + self._rank


def _batches(
    dataset: BatchDataset, order: Iterator[np.ndarray], num_workers: int, pin_memory: bool
) -> Iterator[Any]:
    """The batches of `order`, read ahead by worker processes if there are any."""
    return iter(
        DataLoader(
            cast("Dataset[Any]", dataset),
            batch_size=None,
            sampler=order,
            num_workers=num_workers,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            # The loader draws a seed, which must not advance the global generator: a resumed run
            # would be one draw ahead.
            generator=torch.Generator(),
        )
    )


def _as_it_is(batch: Any) -> Any:
    return batch
