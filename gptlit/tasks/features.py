"""The output of the frozen blocks for every text, computed once."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BATCH_TOKENS, CPU_BATCH_TOKENS = 2**12, 2**10
"""Tokens, padding included, that go through the frozen blocks at once. On a CPU, no more than keep
it busy: small batches have less padding and fit into its caches."""
EXCHANGED_TOKENS = 2**14
"""Tokens whose features go from process to process at once."""
IN_MEMORY_BYTES = 2 * 2**30
"""Larger features are kept in a temporary file in the run folder."""


class FeatureCache:
    """The residual stream (tokens, C) of each text, in fp32, one text after another;
    zeros until it is computed.

    Args:
        lengths: (texts,) tokens of each text.
        width: C.
        folder: where the file goes, if one is needed.
    """

    def __init__(self, lengths: Sequence[int], width: int, folder: Path) -> None:
        self.ends = np.cumsum(lengths)
        self.lengths = np.asarray(lengths)
        shape = (int(self.ends[-1]) if len(self.ends) else 0, width)
        if shape[0] * width * 4 <= IN_MEMORY_BYTES:
            self.store: np.ndarray = np.zeros(shape, np.float32)
        else:
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".features.")  # noqa: SIM115
            self.store = np.memmap(self._file, np.float32, "w+", shape=shape)

    @classmethod
    @torch.no_grad()
    def compute(
        cls,
        lower: Callable[[Tensor, Tensor], Tensor],
        ids: Sequence[np.ndarray],
        width: int,
        device: torch.device,
        folder: Path,
        rank: int,
        world_size: int,
    ) -> "FeatureCache":
        """Run every text through `lower`, in batches of texts of about the same length. Each of
        several processes computes its share of the batches, and gets the others' results.

        Args:
            lower: input_ids (B, T) padded on the right and lengths (B,) -> (B, T, C).
            ids: the token ids of each text.
            width: C.
            device: where `lower` computes.
            folder: where a large cache is kept.
            rank, world_size: the number of this process, and of how many.
        """
        cache = cls([len(text) for text in ids], width, folder)
        tokens = CPU_BATCH_TOKENS if device.type == "cpu" else BATCH_TOKENS
        for rows in cache._batches(tokens)[rank::world_size]:
            padded = np.zeros((len(rows), int(cache.lengths[rows[0]])), np.int64)
            for line, row in zip(padded, rows, strict=True):
                line[: len(ids[row])] = ids[row]
            lengths = torch.from_numpy(cache.lengths[rows]).to(device)
            out = lower(torch.from_numpy(padded).to(device), lengths).float().cpu().numpy()
            for line, row in zip(out, rows, strict=True):
                cache._of(row)[:] = line[: cache.lengths[row]]
        if world_size > 1:
            cache._exchange(device)
        return cache

    def _batches(self, tokens: int) -> list[np.ndarray]:
        """The texts, the longest first, in batches of so many tokens, padding included."""
        order = np.argsort(-self.lengths, kind="stable")
        batches, at = [], 0
        while at < len(order):
            batches.append(order[at : at + max(1, tokens // int(self.lengths[order[at]]))])
            at += len(batches[-1])
        return batches

    def _exchange(self, device: torch.device) -> None:
        """Add up what the processes have: a text's features are zeros in all processes but one."""
        for start in range(0, len(self.store), EXCHANGED_TOKENS):
            part = self.store[start : start + EXCHANGED_TOKENS]
            sums = torch.from_numpy(part).to(device)
            torch.distributed.all_reduce(sums)
            part[:] = sums.cpu().numpy()

    def batch(self, rows: Tensor, time: int) -> Tensor:
        """The features of `rows` (B,), with zeros after each text's end: (B, time, C)."""
        out = np.zeros((len(rows), time, self.store.shape[1]), np.float32)
        for line, row in zip(out, rows.tolist(), strict=True):
            line[: self.lengths[row]] = self._of(row)
        return torch.from_numpy(out)

    def _of(self, row: int) -> np.ndarray:
        end = self.ends[row]
        return self.store[end - self.lengths[row] : end]
