"""Halves the memory of what the forward pass saves for the backward pass.

All computation stays in fp32, forward and backward; only the activations that gradients are
computed from are rounded to 16 bits in between. On a CPU without fast 16-bit products this gives
the memory of mixed precision at the speed of fp32.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

PER_BLOCK = 16
"""About how many numbers a block saves for each one of the residual stream."""


def saved_in(dtype: torch.dtype, weights: Iterable[Tensor], at_least: int) -> saved_tensors_hooks:
    """A context in which the fp32 tensors that autograd saves are kept in `dtype`.

    Args:
        dtype: a 16-bit type.
        weights: these and their views are saved as they are, since that copies nothing.
        at_least: elements of the smallest tensor to convert, as many as the residual stream has.
            Tensors reduced over a dimension (the norms' means, the log-sum-exp of attention) are
            smaller, and need their full precision.
    """
    apart = {weight.untyped_storage().data_ptr() for weight in weights}

    def pack(x: Tensor) -> Tensor | tuple[Tensor, tuple[int, ...]]:
        narrow = x.dtype == torch.float32 and x.numel() >= at_least
        if not narrow or x.untyped_storage().data_ptr() in apart:
            return x
        return x.to(dtype), x.stride()

    def unpack(kept: Tensor | tuple[Tensor, tuple[int, ...]]) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        x, stride = kept  # compiled code relies on the stride
        return torch.empty_strided(x.shape, stride, dtype=torch.float32, device=x.device).copy_(x)

    return saved_tensors_hooks(pack, unpack)
