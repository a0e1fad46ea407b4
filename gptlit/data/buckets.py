"""The order in which samples of unequal length are read: those of similar length together."""

import math
from collections.abc import Iterator

import numpy as np

from gptlit.data.sampler import BatchDataset, Permutation, ResumableLoader, SequentialLoader
from gptlit.errors import UserError

SPREAD = 0.5


class BucketLoader(ResumableLoader):
    """Shuffled micro-batches for training, of samples of similar length; resumable.

    Each epoch reads every sample once, in an order that depends only on seed and epoch. Samples
    are sorted by length, each length first stretched at random by up to one half; the sorted
    samples are cut into steps of batch_size · world_size; the steps are shuffled; and the samples
    of a step are dealt to the processes in turn. Without `bucket`, samples are shuffled, not
    sorted.

    The last step of an epoch is smaller if the samples do not fill it; the processes share it as
    evenly as possible. If it had fewer samples than there are processes, the step before gives it
    some of its own. With a `batch_size` of 1 that step has none to spare: then fewer than
    `world_size` samples, different ones in each epoch, are left out.

    A state may be loaded with another batch size or number of processes. If their product is the
    same, the epoch goes on with the samples not yet read. Otherwise it goes on after as many
    samples as were read, though not the same ones.

    lengths: of the samples, (samples,) int64; the rest is as in `ResumableLoader`

    Raises UserError if there are fewer samples than processes.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        batch_size: int,
        seed: int,
        lengths: np.ndarray,
        *,
        bucket: bool = True,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        what: str = "samples",
    ) -> None:
        self._lengths = lengths
        self._bucket = bucket
        self._sizes = _step_sizes(len(dataset), batch_size, world_size)
        super().__init__(
            dataset,
            batch_size,
            seed,
            rank=rank,
            world_size=world_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
            what=what,
        )

    def __len__(self) -> int:
        return len(self._sizes)

    def _part_of_epoch(self, epoch: int, first: int, last: int) -> Iterator[np.ndarray]:
        for step in self._steps(epoch)[first:last]:
            yield step[self._rank :: self._world_size]

    def _steps(self, epoch: int) -> list[np.ndarray]:
        """The samples of each step of an epoch, over all processes."""
        n = len(self._lengths)
        shuffled = Permutation(n, self._seed, epoch)(np.arange(n))
        slots = np.arange(len(self._sizes))
        keys = shuffled / n
        if self._bucket:  # steps are cut shortest first; slots says when in the epoch each is read
            slots = Permutation(len(slots), self._seed, epoch)(slots)
            keys = self._lengths * (1 + SPREAD * keys)
        keys[shuffled >= self._sizes.sum()] = np.inf  # left out
        order = np.argsort(keys, kind="stable")
        steps = np.split(order, np.cumsum(self._sizes[slots]))[:-1]
        return [steps[index] for index in np.argsort(slots)]


def _step_sizes(n: int, batch_size: int, world_size: int) -> np.ndarray:
    """How many samples each step of an epoch reads, (steps,) int64; together all n, if possible."""
    whole, rest = divmod(n, batch_size * world_size)
    sizes = np.full(whole, batch_size * world_size)
    if rest >= world_size:
        return np.append(sizes, rest)
    if rest and whole and batch_size > 1:
        sizes[-1] -= world_size - rest
        return np.append(sizes, world_size)
    return sizes


class SortedLoader(SequentialLoader):
    """Every sample exactly once, shortest first, for evaluation.

    Process r of W reads samples r, r + W, r + 2W and so on of the sorted ones, in batches of about
    equal size. All processes hand out the same number of batches, as sharded models require; for
    this, a batch may hold two samples even if `batch_size` is 1.

    lengths: of the samples, (samples,) int64
    what: the name of the samples in errors; the rest is as in `SequentialLoader`

    Raises UserError if there are fewer samples than processes.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        batch_size: int,
        lengths: np.ndarray,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        what: str = "samples",
    ) -> None:
        super().__init__(
            dataset,
            batch_size,
            rank=rank,
            world_size=world_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        if len(dataset) < world_size:
            raise UserError(
                f"there are {len(dataset)} {what} for {world_size} processes: use fewer "
                "(trainer.devices), or give more data"
            )
        batches = min(math.ceil(self._share / batch_size), len(dataset) // world_size)
        order = np.argsort(lengths, kind="stable")[rank::world_size]
        self._parts = np.array_split(order, batches)

    def __len__(self) -> int:
        return len(self._parts)

    def _order(self) -> Iterator[np.ndarray]:
        return iter(self._parts)
