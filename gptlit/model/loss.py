"""The head and its cross entropy, in chunks: the largest cost of a small model.

The gradient of the loss with respect to the logits, softmax - onehot, is known in the forward
pass, so each chunk of logits is turned into its gradient in place, used for the gradients of the
hidden states and of the weight, and freed. (batch x time x vocabulary) never exists in fp32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlit.model.autocast import product_dtype

IGNORE_INDEX = -100
"""The target that carries no loss."""

CHUNK_ELEMENTS = 2**26
"""Logits held at once: 128 MB in 16 bits."""
SOFTMAX_ELEMENTS = 2**21
"""Logits that are in fp32 at once on a CPU: 8 MB, which its caches can hold."""
MEAN_ROWS = 1024
"""About this many rows of the weight give its mean; also, how many rows are narrowed at once."""

SMALL = 1e-30
"""Smaller probabilities may have underflowed to 0; their loss is computed from the logits."""


def cross_entropy_sum(hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """Sum over targets of the cross entropy of `hidden @ weight.T`, in nats.

    Matrix products run in autocast's type where it is on, softmax and sums in fp32. Only one
    backward pass is possible, since it reuses the memory of the gradients. It raises RuntimeError
    with `create_graph`, as these gradients have no graph.

    Args:
        hidden: (N, C).
        weight: (rows, C), rows >= vocab_size; rows past `vocab_size` are left out of the softmax.
        targets: (N,) int64 in [0, vocab_size).
        vocab_size: number of classes.

    Returns:
        a scalar in fp32, 0 for N = 0.
    """
    if not torch.is_grad_enabled():  # else needs_input_grad stays true
        hidden, weight = hidden.detach(), weight.detach()
    dtype = product_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, vocab_size, dtype)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        vocab_size: int,
        dtype: torch.dtype,
    ) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        h, w = hidden.to(dtype), narrow_head(weight, dtype, vocab_size)
        loss = torch.zeros((), dtype=torch.float32, device=h.device)
        grad_h = torch.empty_like(h) if needs_hidden else None
        grad_w: Tensor | None = None
        rows = max(1, CHUNK_ELEMENTS // w.shape[0])
        if rows > 256:
            rows -= rows % 256  # matrix products are up to twice as fast on round sizes
        for start in range(0, len(h), rows):
            part = slice(start, start + rows)
            logits = h[part] @ w.T  # (rows, V padded)
            loss += _softmax_minus_onehot_(logits, h[part], w, targets[part], vocab_size)
            if grad_h is not None:
                # On a CPU, 16 bits are up to a fifth faster the other way round, and fp32 slower.
                grad_h[part] = logits @ w if dtype == torch.float32 else (w.T @ logits.T).T
            if needs_weight:
                grad = logits.T @ h[part]
                # Over several chunks the sum is kept in fp32.
                grad_w = grad if grad_w is None else grad_w.float().add_(grad)
        if needs_weight and grad_w is None:
            grad_w = torch.zeros_like(w)
        ctx.save_for_backward(grad_h, grad_w)
        ctx.dtypes = hidden.dtype, weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # else the gradient of these gradients would be short of a part
            raise RuntimeError(
                "the gradients of this loss have no graph: for a gradient of gradients, take"
                " cross_entropy of the logits"
            )
        grads = []
        for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True):
            grads.append(None if grad is None else grad.to(dtype).mul_(grad_loss))
        return grads[0], grads[1], None, None, None


class TiedTable(torch.autograd.Function):
    """The tied weight twice: for the embedding and for the head. The head's gradient is dense, the
    embedding's has a few rows, which are added to it in place; autograd would copy it first."""

    @staticmethod
    def forward(ctx: Any, table: Tensor) -> tuple[Tensor, Tensor]:
        return table.view_as(table), table.view_as(table)

    @staticmethod
    def backward(ctx: Any, few_rows: Tensor, all_rows: Tensor) -> Tensor:
        """The head's gradient, with the embedding's added to it."""
        return all_rows.add_(few_rows)


def narrow_head(weight: Tensor, dtype: torch.dtype, vocab_size: int) -> Tensor:
    """The head's weight in the type of its matrix products.

    If that type is narrower, the mean of some rows is first subtracted from every row. This shifts
    all logits of a position alike, and so changes no softmax; but the logits of the published GPT-2
    are around -100, where the steps of bf16 are as large as 0.5, and closer to 0 they are smaller.

    Args:
        weight, vocab_size: as in `cross_entropy_sum`.
        dtype: see `autocast.product_dtype`.

    Returns:
        (rows, C); hidden @ this.T are the logits, up to a constant for each position.
    """
    if dtype.itemsize >= weight.dtype.itemsize:
        return weight.to(dtype)
    shared = weight[: vocab_size : max(1, vocab_size // MEAN_ROWS)].mean(dim=0)
    narrow = torch.empty_like(weight, dtype=dtype)
    for to, rows in zip(narrow.split(MEAN_ROWS), weight.split(MEAN_ROWS), strict=True):
        to.copy_(rows - shared)  # in parts that a CPU's caches hold
    return narrow


def _softmax_minus_onehot_(
    logits: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int
) -> Tensor:
    """Turn logits = hidden @ weight.T (N, V padded) into softmax - onehot in place; return the
    summed loss (fp32)."""
    logits[:, vocab_size:] = -torch.inf
    if logits.device.type != "cpu":
        return _in_large_kernels_(logits, targets)
    # On a CPU it is faster to take as many rows at once as its caches hold.
    n_rows = max(1, SOFTMAX_ELEMENTS // logits.shape[1])
    loss = logits.new_zeros((), dtype=torch.float32)
    parts = (x.split(n_rows) for x in (logits, hidden, targets))
    for rows, h, target in zip(*parts, strict=True):
        in_place = rows if rows.dtype == torch.float32 else None
        p = torch.softmax(rows, dim=1, dtype=torch.float32, out=in_place)
        p_target = p.gather(1, target[:, None])[:, 0]
        tiny = p_target < SMALL
        loss -= p_target[~tiny].log().sum()
        if tiny.any():
            again = (h[tiny] @ weight.T)[:, :vocab_size].float()
            loss += F.cross_entropy(again, target[tiny], reduction="sum")
        _minus_onehot_(rows, p, target)
    return loss


def _in_large_kernels_(logits: Tensor, targets: Tensor) -> Tensor:
    """The same for all rows at once, which is faster on a GPU. There is no branch on tiny
    probabilities, for which Python would have to wait for the GPU."""
    p = torch.softmax(logits, dim=1, dtype=torch.float32)
    # log(sum exp) from the likeliest class, whose probability cannot underflow.
    log_z = logits.amax(dim=1).float() - p.amax(dim=1).log()
    loss = (log_z - logits.gather(1, targets[:, None])[:, 0]).sum()
    _minus_onehot_(logits, p, targets)
    return loss


def _minus_onehot_(rows: Tensor, p: Tensor, targets: Tensor) -> None:
    """Write p - onehot into `rows`."""
    index = targets[:, None]
    rows.copy_(p.scatter_add_(1, index, p.new_full(index.shape, -1.0)))
