"""What the forward pass saves for the backward pass, in half the memory.

The products are those of fp32, forward and backward; only the activations that a gradient is
computed from have been rounded in between. On a CPU without fast 16-bit products that gives the
memory of mixed precision at the speed of fp32.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def saved_in(dtype: torch.dtype, weights: Iterable[Tensor], at_least: int) -> saved_tensors_hooks:
    """A context in which the fp32 tensors that autograd saves are kept in `dtype`.

    Args:
        dtype: a type of 16 bits.
        weights: they and their views stay as they are, since saving them copies nothing.
        at_least: elements of the smallest tensor to keep so, those of the residual stream. What was
            summed over a dimension (the norms' means, the logarithms of attention's sums) is
            smaller, and needs all its digits.
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
        x, stride = kept  # compiled code relies on it
        return torch.empty_strided(x.shape, stride, dtype=torch.float32, device=x.device).copy_(x)

    return saved_tensors_hooks(pack, unpack)
