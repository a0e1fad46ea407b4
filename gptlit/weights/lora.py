"""Checkpoints of a training with LoRA, read as plain weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gptlit.model import (
    GPTConfig,
    GPTModel,
    LoRAConfig,
    add_lora,
    blank_parameters,
    merge_lora,
)

PREFIX = "model."
"""What a task puts before the names of its model."""


def merged_lora(tensors: Mapping[str, Tensor], hparams: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of one of our checkpoints, with LoRA merged into the weights that it changes.

    Args:
        tensors: by their names in the checkpoint.
        hparams: the checkpoint's hyperparameters.

    Raises:
        RuntimeError, TypeError, ValueError, LookupError: the two do not match.
    """
    own = {n.removeprefix(PREFIX): t for n, t in tensors.items() if n.startswith(PREFIX)}
    with blank_parameters():
        model = GPTModel(GPTConfig(**hparams["model"]))
        add_lora(model, LoRAConfig.from_dict(hparams["settings"]["lora"]))
    model.load_state_dict(own, assign=True)
    merged = {PREFIX + name: t for name, t in merge_lora(model).state_dict().items()}
    return {n: t for n, t in tensors.items() if not n.startswith(PREFIX)} | merged
