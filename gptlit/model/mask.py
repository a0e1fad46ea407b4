"""Masks as CUDA's kernels take them."""

import torch
from torch import Tensor

from gptlit.model.autocast import product_dtype

ALIGNED = 16
"""The stride of a bias's rows, in elements, must be a multiple of this for CUDA's kernel."""


def as_bias(mask: Tensor, x: Tensor) -> Tensor:
    """What a mask adds to the scores: 0 where it is true, -inf elsewhere.

    From a bool mask PyTorch would make such a bias in every layer, keep each for the backward pass,
    and copy it where its rows are not aligned.

    Args:
        mask: (..., T, S) bool.
        x: the input from which queries and keys are projected.

    Returns:
        (..., T, S), in the type of queries and keys.
    """
    S = mask.shape[-1]  # noqa: N806
    shape = *mask.shape[:-1], -(-S // ALIGNED) * ALIGNED
    bias = mask.new_zeros(shape, dtype=product_dtype(x))[..., :S]
    return bias.masked_fill_(~mask, -torch.inf)
