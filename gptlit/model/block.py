"""The block of GPT-2: causal multi-head attention and a feed-forward network, each behind a norm.

Shapes: B batch, T time (tokens), C emb_dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlit.model.attention import attention
from gptlit.model.cache import KVCache
from gptlit.model.config import GPTConfig
from gptlit.model.segments import SegmentMask


class MultiHeadAttention(nn.Module):
    """Causal multi-head self-attention: softmax(q k^T / sqrt(head_dim)) v for each head."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.n_heads, self.head_dim = cfg.n_heads, cfg.head_dim
        self.qkv = nn.Linear(cfg.emb_dim, 3 * cfg.emb_dim, bias=cfg.qkv_bias)
        self.out_proj = nn.Linear(cfg.emb_dim, cfg.emb_dim)
        self.drop_rate = cfg.drop_rate
        self.dropout = nn.Dropout(cfg.drop_rate)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | SegmentMask | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        keep: Tensor | None = None,
    ) -> Tensor:
        """x (B, T, C) -> (B, T, C), or (N, C) with `keep`; arguments as in `TransformerBlock`."""
        B, T, C = x.shape  # noqa: N806
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, self.head_dim)
        drop_rate = self.drop_rate if self.training else 0.0
        if isinstance(mask, SegmentMask):
            y = mask.attention(qkv, drop_rate)
        else:
            q, k, v = self._split(qkv, cache, layer)
            y = attention(q, k, v, mask, drop_rate)
            y = y.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        return self.dropout(self.out_proj(y if keep is None else at_positions(y, keep)))

    def _split(self, qkv: Tensor, cache: KVCache | None, layer: int) -> tuple[Tensor, ...]:
        """qkv (B, T, 3, n_heads, head_dim) -> q (B, n_heads, T, head_dim), and k and v of cached
        and new tokens (B, n_heads, S, head_dim)."""
        if cache is None:
            # The backward of unbind stacks the three gradients; slices would pad and add theirs.
            return tuple(part.transpose(1, 2) for part in qkv.unbind(2))
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, B, n_heads, T, head_dim)
        k, v = cache.append(layer, qkv[1:])
        return qkv[0], k, v

    def at(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """The output at one position of each row, for the price of one query.

        Args:
            x: (B, T, C).
            positions: (B,) int64.
            mask: (B, T) bool, true where the row's query may look.

        Returns:
            (B, 1, C).
        """
        B, T, C = x.shape  # noqa: N806
        weight, bias = self.qkv.weight, self.qkv.bias
        here = x[torch.arange(B, device=x.device), positions]  # (B, C)
        q = F.linear(here, weight[:C], None if bias is None else bias[:C])
        kv = F.linear(x, weight[C:], None if bias is None else bias[C:])
        q = q.view(B, self.n_heads, 1, self.head_dim)
        k, v = kv.view(B, T, 2, self.n_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        drop_rate = self.drop_rate if self.training else 0.0
        y = attention(q, k, v, mask[:, None, None], drop_rate)  # (B, n_heads, 1, head_dim)
        return self.dropout(self.out_proj(y.reshape(B, 1, C)))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(cfg.emb_dim, 4 * cfg.emb_dim)
        self.proj = nn.Linear(4 * cfg.emb_dim, cfg.emb_dim)
        self.dropout = nn.Dropout(cfg.drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        return self.dropout(self.proj(F.gelu(self.fc(x), approximate="tanh")))


class TransformerBlock(nn.Module):
    """Attention, then feed-forward: each reads the stream through a norm, and adds to it."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(cfg.emb_dim)
        self.att = MultiHeadAttention(cfg)
        self.norm2 = nn.LayerNorm(cfg.emb_dim)
        self.ff = FeedForward(cfg)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | SegmentMask | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        keep: Tensor | None = None,
    ) -> Tensor:
        """The stream after this block.

        Args:
            x: (B, T, C).
            mask: as in `GPTModel.hidden`.
            cache, layer: keys and values of earlier tokens, and which of them are this block's.
            keep: (N,) int64, positions in the flattened (B T). At the others, only keys and values
                are needed.

        Returns:
            (B, T, C), or (N, C) with `keep`.
        """
        y = self.att(self.norm1(x), mask, cache, layer, keep)
        x = (x if keep is None else at_positions(x, keep)) + y
        return x + self.ff(self.norm2(x))

    def at(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """The output at one position of each row; elsewhere only keys and values are computed.

        Args:
            x, positions, mask: as in `MultiHeadAttention.at`.

        Returns:
            (B, 1, C).
        """
        here = x[torch.arange(len(x), device=x.device), positions][:, None]  # (B, 1, C)
        here = here + self.att.at(self.norm1(x), positions, mask)
        return here + self.ff(self.norm2(here))


def at_positions(x: Tensor, keep: Tensor) -> Tensor:
    """x (B, T, C), keep (N,) -> (N, C)."""
    return x.flatten(0, 1).index_select(0, keep)
