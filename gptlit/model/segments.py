"""Which tokens attend to which, if several entries share a row and may not see each other."""

from typing import NamedTuple

import torch
from torch import Tensor

from gptlit.model.attention import attention


class SegmentMask(NamedTuple):
    """A `block_causal_mask` without the scores that it would throw away: each entry is gathered
    from its row, and attends to itself and to the beginning that all entries of the row share.

    Shapes: N entries (of all rows, and the beginning of each row), L tokens of the longest of them,
    P tokens of the longest beginning.

    rows: (N L + 2 N (P + L),) int64, what is gathered from the flattened (B T 3), where each token
        has a query, a key and a value: the queries of each entry, the keys that they may see, and
        their values
    mask: (N, 1, L, P + L) bool, true where a query sees a key
    back: (B T,) int64, where each token is among the queries; 0 for padding
    """

    rows: Tensor
    mask: Tensor
    back: Tensor

    def attention(self, qkv: Tensor, drop_rate: float) -> Tensor:
        """Queries, keys and values (B, T, 3, n_heads, head_dim) -> (B, T, n_heads * head_dim)."""
        B, T, _, *heads = qkv.shape  # noqa: N806
        N, _, L, S = self.mask.shape  # noqa: N806
        parts = qkv.flatten(0, 2).flatten(1).index_select(0, self.rows).split([N * L, N * S, N * S])
        q, k, v = (part.view(N, -1, *heads).transpose(1, 2) for part in parts)
        y = attention(q, k, v, self.mask, drop_rate).transpose(1, 2).flatten(0, 1).flatten(1)
        return y.index_select(0, self.back).view(B, T, -1)


def segment_mask(segments: Tensor | None, *, gather: bool = True) -> Tensor | SegmentMask | None:
    """What `GPTModel` takes as the mask of rows that several entries share, in the form that is
    computed fastest.

    Args:
        segments: (B, T) int64, the number of each token's entry in its row, from 1, without gaps;
            0 for a beginning that all its entries share, and for padding at its end. None: each
            row has one entry.
        gather: allow a `SegmentMask`, whose shapes differ in each batch: compiled code would be
            compiled again and again.

    Returns:
        a `SegmentMask` on a CPU, if it has at most half as many scores as the rows; else what
        `block_causal_mask` returns; None, causal, if `segments` is.
    """
    if segments is None:
        return None
    gathered = _gathered(segments) if gather and segments.device.type == "cpu" else None
    return block_causal_mask(segments) if gathered is None else gathered


def block_causal_mask(segments: Tensor) -> Tensor:
    """Which keys a query may see: those of its own entry, and of the beginning that all entries of
    the row share, up to the query's own position.

    Args:
        segments: as in `segment_mask`.

    Returns:
        (B, 1, T, T) bool.
    """
    time = segments.shape[1]
    causal = torch.ones(time, time, dtype=torch.bool, device=segments.device).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    return (((query == key) | (key == 0)) & causal)[:, None]


def _gathered(segments: Tensor) -> SegmentMask | None:
    """The mask by entries; None if it has too many scores."""
    B, T = segments.shape  # noqa: N806
    starts, lengths, shared = torch.tensor(_entries(segments)).T  # (N,) each
    L, P = int(lengths.max()), int(shared.max())  # noqa: N806
    if 2 * len(starts) * L * (P + L) > B * T * T:
        return None
    own, before = torch.arange(L), torch.arange(P)
    queries = starts[:, None] + own.minimum(lengths[:, None] - 1)  # (N, L)
    row_starts = (starts - starts % T)[:, None]
    keys = torch.cat([row_starts + before, queries], dim=1)  # (N, P + L)
    sees_shared = (before < shared[:, None])[:, None].expand(-1, L, -1)
    causal = torch.ones(L, L, dtype=torch.bool).tril().expand(len(starts), -1, -1)
    real = (own < lengths[:, None]).flatten()
    back = torch.zeros(B * T, dtype=torch.int64)
    back[queries.flatten()[real]] = real.nonzero()[:, 0]
    rows = torch.cat([part.flatten() for part in (3 * queries, 3 * keys + 1, 3 * keys + 2)])
    return SegmentMask(rows, torch.cat([sees_shared, causal], dim=2)[:, None], back)


def _entries(segments: Tensor) -> list[tuple[int, int, int]]:
    """Each entry, also the beginnings: its start in the flattened (B T), its length, and that of
    the beginning that it sees besides itself."""
    found = []
    for row, numbers in enumerate(segments):
        start = shared = 0
        runs = torch.unique_consecutive(numbers, return_counts=True)
        for number, length in zip(*(x.tolist() for x in runs), strict=True):
            if number > 0 or start == 0:
                found.append((row * segments.shape[1] + start, length, shared))
            if number == 0 and start == 0:
                shared = length
            start += length
    return found
