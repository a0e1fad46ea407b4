"""The optimiser and its schedule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

KINDS = ("cosine", "linear", "constant")
"""The kinds of schedule."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a fraction of its peak, for a number of optimiser steps known in advance.

    Linear warm-up, then the decay of `kind`: "cosine" or "linear" down to `min_lr_ratio` at
    `total_steps`, or "constant" (Loshchilov and Hutter 2017, SGDR, equation 5, one cycle).

    Raises:
        ValueError: there is no such kind.
    """

    kind: str
    total_steps: int
    warmup_steps: int = 0
    min_lr_ratio: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"scheduler={self.kind}: allowed are {', '.join(KINDS)}")

    def __call__(self, step: int) -> float:
        """Factor for optimiser step number `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return 1.0
        span = max(1, self.total_steps - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / span)
        left = 1 - progress
        if self.kind == "cosine":
            left = 0.5 * (1 + math.cos(math.pi * progress))
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * left


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay; biases, norms and other parameters of
    one dimension do not."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]


class PlannedLR(LambdaLR):
    """`LambdaLR` that saves only its place in the schedule: after a resume, the peak and the
    course are those of the config, which may have changed."""

    def state_dict(self) -> dict[str, Any]:
        """How many steps the schedule has taken."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to that step; the optimiser must have been restored already."""
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        factors = [course(self.last_epoch) for course in self.lr_lambdas]
        self._last_lr = [p * f for p, f in zip(self.base_lrs, factors, strict=True)]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr


def keep_options(options: Sequence[dict[str, Any]], restored: torch.optim.Optimizer) -> None:
    """Keep only the moments and the step counts of a checkpoint: weight decay and the other options
    are those of the config.

    Args:
        options: the config's, for each parameter group.
        restored: the optimiser, which has loaded the checkpoint.
    """
    for group, own in zip(restored.param_groups, options, strict=True):
        group.update(own)
        for parameter in group["params"]:
            state = restored.state.get(parameter, {})
            if "step" in state:  # loading has put it where the saved options want it
                place = parameter.device if group["fused"] else "cpu"
                state["step"] = state["step"].to(place, torch.float32)


@dataclass(frozen=True)
class OptimizerFactory:
    """AdamW (Loshchilov and Hutter 2019) with a schedule, in Lightning's form.

    Args:
        lr: peak learning rate.
        weight_decay: decoupled, on matrices only.
        betas, eps: Adam's moments and stabiliser.
        schedule: the learning rate's course.
        fused: one kernel for all parameters; must be off where fp16 gradients are unscaled first.
    """

    lr: float
    weight_decay: float
    betas: Sequence[float]
    eps: float
    schedule: Schedule
    fused: bool = True

    def __call__(self, module: nn.Module) -> dict[str, Any]:
        """The optimiser of the module's trainable parameters, stepped with its schedule."""
        fused = self.fused and next(module.parameters()).device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(
            parameter_groups(module, self.weight_decay),
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            fused=fused,
        )
        scheduler = PlannedLR(optimizer, self.schedule)
        options = [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        optimizer.register_load_state_dict_post_hook(partial(keep_options, options))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
