"""softmax(q k^T / sqrt(head_dim)) v, with the kernel that is fastest on the device.

Vaswani et al. 2017, "Attention Is All You Need", equation 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PLAIN_UP_TO = 512
"""Longest sequence for which the CPU's bf16 path may hold (heads, T, T) attention weights."""
FEW = 16
"""Up to this many queries, the fused kernel is faster than that path."""


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, drop_rate: float = 0.0
) -> Tensor:
    """Attention of queries to keys; causal without a mask.

    Args:
        q: (B, n_heads, T, head_dim).
        k, v: (B, n_heads, S, head_dim), S >= T.
        mask: bool, broadcastable to (B, n_heads, T, S), true where a query may look; on CUDA
            it may also be the bias that `mask.as_bias` makes of it. None means causal if T > 1
            (then S must equal T), and that the query may look at every key if T == 1.
        drop_rate: dropout probability on the attention weights.

    Returns:
        (B, n_heads, T, head_dim).
    """
    T, S = q.shape[-2], k.shape[-2]  # noqa: N806
    # The fused CPU kernel multiplies bf16 at fp32 speed. As long as the (T, S) weights are small,
    # plain bf16 products are three to five times as fast, forward and backward; but not for few
    # queries.
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and T > FEW and S <= PLAIN_UP_TO:
        return _plain(q, k, v, mask, drop_rate)
    if q.device.type == "mps":
        # For few queries, PyTorch's MPS kernel has read strided tensors as if they were contiguous
        # (PyTorch issue 181133), and silently returned wrong numbers.
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    causal = mask is None and T > 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=drop_rate, is_causal=causal
    )


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, drop_rate: float) -> Tensor:
    B, H, T, D = q.shape  # noqa: N806
    S = k.shape[-2]  # noqa: N806
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril()
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, -torch.inf)
    if bias.shape[:-2].numel() == 1:
        bias = bias.reshape(bias.shape[-2:])  # one for all heads; baddbmm broadcasts it
    else:
        bias = bias.expand(B, H, T, S).reshape(B * H, T, S)
    q, k, v = (x.reshape(B * H, -1, D) for x in (q, k, v))
    weights = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=D**-0.5).softmax(dim=-1)
    return (F.dropout(weights, drop_rate) @ v).view(B, H, T, D)
