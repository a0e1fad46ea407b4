"""Checks of what Python code gives a model; errors name the cure for a wrong type or shape."""

from typing import Any

from torch import Tensor

from gptlit.model.config import GPTConfig


def require_config(cfg: Any) -> None:
    """Raises TypeError unless `cfg` is a `GPTConfig`."""
    if not isinstance(cfg, GPTConfig):
        raise TypeError(
            f"GPTModel takes a GPTConfig, got {type(cfg).__name__}; of a dict make one:"
            " GPTModel(GPTConfig(**shape))"
        )


def require_ids(input_ids: Tensor) -> None:
    """Raises ValueError unless `input_ids` are (B, T)."""
    if input_ids.dim() != 2:
        raise ValueError(
            f"input_ids must be (batch, time), got {tuple(input_ids.shape)}; of one sequence they"
            " are ids[None]"
        )


def require_targets(targets: Tensor, input_ids: Tensor) -> None:
    """Raises ValueError unless there is a target for each input."""
    if targets.shape != input_ids.shape:
        raise ValueError(
            f"targets are {tuple(targets.shape)}, input_ids {tuple(input_ids.shape)}: there must be"
            " one for each, the token after it, as in loss_sum(ids[:, :-1], ids[:, 1:])"
        )
