"""The norm of all gradients, and their product with a factor."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

NORM_PART = 2**18
"""Squares that are summed up one after another in fp32; such sums are then added in pairs."""


def total_norm(tensors: list[Tensor]) -> Tensor:
    """The 2-norm of all numbers in them. For fp32 on a CPU from dot products of short parts: over
    the millions of numbers in an embedding, a single one, and `vector_norm` even more, would lose
    a thousandth of the norm."""
    if tensors and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors):
        parts = [part for t in tensors for part in t.reshape(-1).split(NORM_PART)]
        return torch.stack([part.dot(part) for part in parts]).sum().sqrt()
    return torch.nn.utils.get_total_norm(tensors)


def multiply(grads: list[Tensor], factor: Tensor | None, optimizer: Optimizer) -> None:
    """Multiply the gradients by a factor, now or in the optimiser's next step.

    On a CPU, a pass over all gradients takes a fourth of the time of AdamW's step, and PyTorch's
    fused step divides them on its way if it is asked to, as by a `GradScaler`.

    Args:
        grads: of the parameters that the optimiser steps.
        factor: a scalar; None: they stay, also in the step.
        optimizer: any.
    """
    if _divides_in_step(optimizer):
        optimizer.grad_scale = None if factor is None else 1 / factor  # type: ignore[attr-defined]
    elif factor is not None:
        torch._foreach_mul_(grads, factor)


def _divides_in_step(optimizer: Optimizer) -> bool:
    return type(optimizer) is AdamW and all(
        group["fused"]
        and p.device.type == "cpu"
        and p.dtype == torch.float32
        and not isinstance(p, DTensor)
        for group in optimizer.param_groups
        for p in group["params"]
    )
