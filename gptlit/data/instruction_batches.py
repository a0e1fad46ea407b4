"""Prompts with responses as token ids, and the batches of them: joined, padded, or packed."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptlit.data.batch import IGNORE_INDEX, InstructionBatch
from gptlit.data.buckets import BucketLoader
from gptlit.data.entry import Entry
from gptlit.data.sampler import Permutation
from gptlit.prompts import PromptFormat
from gptlit.tokenizer import Tokenizer

PROMPT, ANSWER, UNLEARNED = range(3)
"""What a token belongs to: a prompt, or a response (with its end-of-text) to learn or not."""


class TokenizedEntries:
    """Prompts and responses of a split as token ids, one after another in one array.

    An entry has a prompt, a response and one end-of-text; a chat has these for each turn. An entry
    of more than context_length + 1 tokens (context_length inputs and as many targets) is cut at its
    end, or dropped. It is also dropped if the cut would leave nothing of the first response that is
    learned.

    entries: of the split; tokenizer, prompt: how they become ids
    context_length: most inputs of an entry
    cut: whether to cut entries that are too long, rather than to drop them
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        tokenizer: Tokenizer,
        prompt: PromptFormat,
        context_length: int,
        *,
        cut: bool,
    ) -> None:
        kept: list[tuple[np.ndarray, np.ndarray, int]] = []  # ids, what each belongs to, row
        self.cut = 0
        """How many entries have lost their end."""
        self.longest = 0
        """Tokens of the longest entry, uncut."""
        for row, entry in enumerate(entries):
            ids, kinds = _encode(entry, tokenizer, prompt)
            self.longest = max(self.longest, len(ids))
            if len(ids) > context_length + 1:
                if not cut or _first_answer(kinds) > context_length:
                    continue
                self.cut += 1
            kept.append((ids[: context_length + 1], kinds[: context_length + 1], row))
        self.dropped = len(entries) - len(kept)
        """How many entries are left out."""
        self._rows = torch.tensor([row for *_, row in kept], dtype=torch.int64)
        sizes = np.array([len(ids) for ids, *_ in kept], dtype=np.int64)
        self.lengths = sizes - 1
        """Number of inputs, and so of targets, of each kept entry, (kept,)."""
        self.common = _common(kept)
        """How many tokens all entries begin with in common; the token after these is not part of a
        learned response either."""
        self._ends = np.cumsum(sizes)
        self._ids = np.concatenate([ids for ids, *_ in kept] or [sizes.astype(np.int32)])
        self._kinds = np.concatenate([kinds for _, kinds, _ in kept] or [sizes.astype(np.uint8)])
        self.in_responses = int((self._kinds == ANSWER).sum())
        """Tokens of all kept responses that are learned, including the end-of-text after each."""

    def __len__(self) -> int:
        return len(self._rows)

    def rows_of(self, entries: np.ndarray) -> Tensor:
        """Indices in the split of kept entries, int64 of the same shape."""
        return self._rows[torch.from_numpy(entries)]

    def ids(self, entry: int) -> np.ndarray:
        """Token ids of a kept entry, (length + 1,) int32."""
        return self._ids[self._place(entry)]

    def learned(self, entry: int, *, mask_prompt: bool) -> np.ndarray:
        """Which of `ids` may be targets, (length + 1,) bool."""
        kinds = self._kinds[self._place(entry)]
        return kinds == ANSWER if mask_prompt else kinds != UNLEARNED

    def _place(self, entry: int) -> slice:
        end = self._ends[entry]
        return slice(end - self.lengths[entry] - 1, end)


class InstructionDataset:
    """Batches of tokenized entries.

    Entries are joined into a few rows, one after another behind the beginning that all prompts
    share. That beginning is then computed only once for a row, and there is little padding; a mask
    has to keep entries from seeing one another. With `join_tokens` 0 each entry is a row of its
    own.

    mask_prompt: whether to leave the tokens of prompts out of the targets
    join_tokens: about how many tokens a row of joined entries has; 0: entries are not joined
    """

    def __init__(
        self, entries: TokenizedEntries, pad_id: int, *, mask_prompt: bool, join_tokens: int
    ) -> None:
        self._entries = entries
        self._pad_id = pad_id
        self._mask_prompt = mask_prompt
        self._join_tokens = join_tokens
        self._common = entries.common if join_tokens and mask_prompt else 0

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, entries: np.ndarray) -> InstructionBatch:
        """The batch of `entries`, (batch,) int64."""
        rows = list(entries[:, None])
        if self._join_tokens:
            rows = join_rows(entries, self._entries.lengths[entries], self._join_tokens)
        return self._batch(rows)._replace(rows=self._entries.rows_of(np.concatenate(rows)))

    def _batch(self, rows: Sequence[np.ndarray]) -> InstructionBatch:
        """The batch of rows that hold several entries each, one after another."""
        alone = all(len(row) == 1 for row in rows)
        common = 0 if alone else self._common
        own = [self._entries.lengths[row] - common for row in rows]
        shape = len(rows), common + max(int(lengths.sum()) for lengths in own)
        ids = np.full(shape, self._pad_id, dtype=np.int64)
        targets = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        positions, segments = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        ids[:, :common] = self._entries.ids(0)[:common]
        positions[:, :common] = np.arange(common)
        for index, row in enumerate(rows):
            start = common
            for segment, entry in enumerate(row.tolist(), 1):
                tokens = self._entries.ids(entry)[common:]
                stop = start + len(tokens) - 1
                learned = self._entries.learned(entry, mask_prompt=self._mask_prompt)
                ids[index, start:stop] = tokens[:-1]
                np.copyto(targets[index, start:stop], tokens[1:], where=learned[common + 1 :])
                positions[index, start:stop] = np.arange(common, common + stop - start)
                segments[index, start:stop] = segment
                start = stop
        tensors = [torch.from_numpy(array) for array in (ids, targets, positions, segments)]
        batch = InstructionBatch(tensors[0], tensors[1], tensors[2], tensors[3], rows=None)
        return batch._replace(positions=None, segments=None) if alone else batch


class PackedDataset(InstructionDataset):
    """Batches of tokenized entries, several to a row. A sample is a row.

    room: most tokens of a row; at least as many as the longest entry has
    """

    def __init__(
        self,
        entries: TokenizedEntries,
        pad_id: int,
        *,
        mask_prompt: bool,
        join_tokens: int,
        room: int,
    ) -> None:
        super().__init__(entries, pad_id, mask_prompt=mask_prompt, join_tokens=join_tokens)
        self._room = room
        self._n_rows = len(self.rows(0, 0))

    def __len__(self) -> int:
        return self._n_rows

    def rows(self, seed: int, epoch: int) -> list[np.ndarray]:
        """The entries of each row; the same for the same seed and epoch."""
        n = len(self._entries)
        order = Permutation(n, seed, epoch)(np.arange(n))
        return pack_rows(self._entries.lengths - self._common, self._room - self._common, order)

    def __getitem__(self, rows: np.ndarray | Sequence[np.ndarray]) -> InstructionBatch:
        """The batch of `rows`, each an array of entries."""
        return self._batch(list(rows))


class PackedLoader(BucketLoader):
    """A `BucketLoader` whose samples are rows of entries, packed anew for each epoch."""

    def __init__(self, dataset: PackedDataset, batch_size: int, seed: int, **settings: Any) -> None:
        self._packed = dataset
        super().__init__(dataset, batch_size, seed, np.ones(len(dataset)), bucket=False, **settings)

    def _part_of_epoch(self, epoch: int, first: int, last: int) -> Iterator[Any]:
        rows = self._packed.rows(self._seed, epoch)
        for batch in super()._part_of_epoch(epoch, first, last):
            yield [rows[row] for row in batch]


def join_rows(entries: np.ndarray, lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Entries dealt to as few rows as keep the average one within `size` tokens (one row for each
    entry at most): the longest first, each to the row that is shortest so far.

    Args:
        entries: (n,) int64, n at least 1.
        lengths: (n,) int64, tokens of each.
        size: tokens of a row.
    """
    rows: list[list[int]] = [[] for _ in range(min(len(entries), -(-int(lengths.sum()) // size)))]
    filled = [0] * len(rows)
    for index in np.argsort(-lengths, kind="stable").tolist():
        row = filled.index(min(filled))
        rows[row].append(entries[index])
        filled[row] += int(lengths[index])
    return [np.array(row) for row in rows]


def pack_rows(lengths: np.ndarray, room: int, order: np.ndarray) -> list[np.ndarray]:
    """Entries packed into rows of at most `room` tokens: the longest first, each into the fullest
    row that still has room for it (best fit decreasing).

    How many rows there are depends only on the lengths; `order` decides between equal ones.

    Args:
        lengths: (entries,) int64, each at most `room`.
        room: most tokens of a row.
        order: (entries,) int64, a permutation.
    """
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(room + 1)]  # rows, by the room left in them
    there = 0  # bit i: some row has room for exactly i more
    for entry in order[np.argsort(-lengths[order], kind="stable")].tolist():
        size = int(lengths[entry])
        fitting = there >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            row = by_room[left].pop()
            there ^= 0 if by_room[left] else 1 << left
            rows[row].append(entry)
        else:
            left, row = room, len(rows)
            rows.append([entry])
        by_room[left - size].append(row)
        there |= 1 << (left - size)
    return [np.array(row) for row in rows]


def _encode(
    entry: Entry, tokenizer: Tokenizer, prompt: PromptFormat
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, (tokens,) int32, and what each belongs to, (tokens,) uint8."""
    encoded = [prompt.encode_turn(tokenizer, *turn) for turn in entry.turns]
    ids = np.concatenate([part for parts in encoded for part in parts]).astype(np.int32)
    kinds, stop = np.full(len(ids), PROMPT, dtype=np.uint8), 0
    for at, (asked, answer) in enumerate(encoded):
        start = stop + len(asked)
        stop = start + len(answer)
        kinds[start:stop] = UNLEARNED if at in entry.unlearned else ANSWER
    return ids, kinds


def _first_answer(kinds: np.ndarray) -> int:
    """Where the first response that is learned begins."""
    return int((kinds == ANSWER).argmax())


def _common(entries: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> int:
    """See `TokenizedEntries.common`."""
    if not entries:
        return 0
    first = entries[0][0][: min(_first_answer(kinds) for _, kinds, _ in entries) - 1]
    same = np.ones(len(first), dtype=bool)
    for ids, *_ in entries:
        same &= ids[: len(first)] == first
    return int(np.cumprod(same).sum())
