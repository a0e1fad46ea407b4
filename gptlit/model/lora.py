"""LoRA: train a low-rank change of a few matrices, and freeze the model itself.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685). A frozen
weight W (out, in) becomes W + alpha / rank * B A, where A (rank, in) starts random and B
(out, rank) at zero: training begins at the model as it was (section 4.1, equation 3).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlit.model.gpt import GPTModel

LAYERS = {"qkv": "att.qkv", "out_proj": "att.out_proj", "fc": "ff.fc", "proj": "ff.proj"}
"""Targets that are a whole linear layer, with its path in a `TransformerBlock`."""
PARTS = ("q", "k", "v")
"""Targets that are each a third of the rows of `att.qkv`, in this order."""


@dataclass(frozen=True)
class LoRAConfig:
    """Where the change goes, and how large it can become.

    Raises:
        ValueError: a value is of the wrong type or out of range, a target is unknown or named
            twice, or `qkv` is named beside its own parts.
    """

    rank: int = 16
    """Rank of the change of each target, at most the target's smaller side."""
    alpha: float = 16.0
    """The change is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout probability on the input of A; the frozen layer sees its input without it."""
    targets: tuple[str, ...] = ("qkv", "out_proj", "fc", "proj")
    """Linear layers of each block: "qkv", "out_proj", "fc", "proj". "q", "k" and "v" are parts of
    "qkv", each with its own A and B; the paper's choice is ("q", "v")."""

    def __post_init__(self) -> None:
        if isinstance(self.targets, Sequence) and not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))  # JSON and YAML have lists
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"lora.rank must be a whole number from 1 on, got {self.rank!r}")
        if not (_is_number(self.alpha) and 0 < self.alpha < math.inf):
            raise ValueError(f"lora.alpha must be a number above 0, got {self.alpha!r}")
        if not (_is_number(self.dropout) and 0 <= self.dropout < 1):
            raise ValueError(f"lora.dropout must be in [0, 1), got {self.dropout!r}")
        if not isinstance(self.targets, tuple) or not self.targets:
            raise ValueError(f"lora.targets must be a list of layers, got {self.targets!r}")
        allowed = (*LAYERS, *PARTS)
        for target in self.targets:
            if target not in allowed:
                raise ValueError(f"lora.targets has {target!r}; it can have {', '.join(allowed)}")
            if self.targets.count(target) > 1:
                raise ValueError(f"lora.targets has {target!r} twice")
        parts = [part for part in PARTS if part in self.targets]
        if parts and "qkv" in self.targets:
            raise ValueError(
                f"lora.targets has qkv and its part {parts[0]}; name either the whole or parts"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and a list of strings, as a checkpoint stores them."""
        return {**asdict(self), "targets": list(self.targets)}

    @classmethod
    def from_dict(cls, node: Mapping[str, Any]) -> "LoRAConfig":
        """The way back from `to_dict`; missing keys get their defaults.

        Raises:
            ValueError: a key is unknown, or a value is not allowed.
        """
        keys = [field.name for field in fields(cls)]
        for key in node:
            if key not in keys:
                raise ValueError(f"lora.{key} does not exist; there are {', '.join(keys)}")
        return cls(**node)


class LoRALinear(nn.Linear):
    """A frozen linear layer and a trainable low-rank change of its weight.

    `weight` and `bias` are those of the layer and keep their names, so that a checkpoint of the
    plain model still fits. The output rows may be cut into equal parts; each changed part has its
    own A and B, stacked in `lora_A` (changed parts * rank, in) and `lora_B`
    (rows of the changed parts, rank).

    Args:
        base: the layer; its parameters are taken over, not copied, and frozen.
        config: rank, alpha and dropout.
        parts: for each part, whether it is changed; the whole layer is one part.
    """

    def __init__(
        self, base: nn.Linear, config: LoRAConfig, parts: Sequence[bool] = (True,)
    ) -> None:
        n_in, n_out = base.in_features, base.out_features
        super().__init__(n_in, n_out, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.requires_grad_(False)
        self.parts = tuple(parts)
        self.part_rows = n_out // len(self.parts)
        self.scaling = config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        changed = sum(self.parts)
        self.lora_A = nn.Parameter(self.weight.new_empty(changed * config.rank, n_in))
        self.lora_B = nn.Parameter(self.weight.new_zeros(changed * self.part_rows, config.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as nn.Linear fills its weight
        self.train(base.training)

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in) -> (..., out)."""
        low = F.linear(self.dropout(input), self.lora_A)  # (..., changed parts * rank)
        return super().forward(input) + F.linear(low * self.scaling, self._up())

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain, frozen layer with W + alpha / rank * B A, summed in fp32 or wider."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        weight, up, down = (x.to(wide) for x in (self.weight, self._up(), self.lora_A))
        weight = torch.addmm(weight, up, down, alpha=self.scaling)
        plain = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device="meta"
        )
        plain.weight = nn.Parameter(weight.to(self.weight.dtype), requires_grad=False)
        plain.bias = self.bias
        return plain

    def _up(self) -> Tensor:
        """Block-diagonal matrix of the B of each part, (out, changed parts * rank).

        One product with some zeros takes no longer than one product for each part.
        """
        if len(self.parts) == 1:
            return self.lora_B
        matrices = iter(self.lora_B.split(self.part_rows))
        nothing = self.lora_B.new_empty(self.part_rows, 0)
        return torch.block_diag(*(next(matrices) if part else nothing for part in self.parts))


def add_lora(model: GPTModel, config: LoRAConfig) -> GPTModel:
    """Freeze a model and add LoRA to its targets, in place. Its outputs do not change.

    The new parameters have the device and type of the weights; on the meta device they, too, have
    to be filled with `load_state_dict(assign=True)`.

    Raises:
        ValueError: the model has LoRA already, a target is not a plain nn.Linear, or the rank is
            larger than a target's smaller side. The model is then unchanged.
    """
    if any(_adapted(model)):
        raise ValueError("the model has LoRA already: merge_lora it first")
    chosen: dict[str, tuple[bool, ...]] = {
        LAYERS[target]: (True,) for target in config.targets if target in LAYERS
    }
    if any(part in config.targets for part in PARTS):
        chosen["att.qkv"] = tuple(part in config.targets for part in PARTS)
    found = []
    for index, block in enumerate(model.trf_blocks):
        for path, parts in chosen.items():
            name, base = f"trf_blocks.{index}.{path}", block.get_submodule(path)
            if not isinstance(base, nn.Linear):
                raise ValueError(f"{name} is a {type(base).__name__}: LoRA needs a plain nn.Linear")
            limit = min(base.in_features, base.out_features // len(parts))
            if config.rank > limit:
                raise ValueError(f"lora.rank must be at most {limit} for {name}, got {config.rank}")
            found.append((name, base, parts))
    model.requires_grad_(False)
    for name, base, parts in found:
        model.set_submodule(name, LoRALinear(base, config, parts))
    return model


def merge_lora(model: GPTModel) -> GPTModel:
    """Add LoRA's changes to the weights, in place: the layers are plain ones again, with the same
    outputs and no extra cost (section 4.1). Parameters stay frozen. A model without LoRA is left
    as it is.

    The merged weights are new tensors, so whatever shares the old ones does not change.
    """
    for name, layer in list(_adapted(model)):
        model.set_submodule(name, layer.merged())
    return model


def is_lora_parameter(name: str) -> bool:
    """Whether a parameter's name, after any prefix, is one of LoRA's."""
    return name.rpartition(".")[2] in ("lora_A", "lora_B")


def base_fingerprint(model: GPTModel) -> str:
    """SHA-256, in hex, of the model without LoRA: names, shapes and fp32 values of its parameters,
    sorted by name, without the vocabulary's padding. The file they came from does not matter."""
    digest, tables = hashlib.sha256(), ("tok_emb.weight", "out_head.weight")
    for name, tensor in sorted(model.state_dict().items()):
        if not is_lora_parameter(name):
            rows = tensor[: model.cfg.vocab_size if name in tables else None]
            digest.update(f"{name} {tuple(rows.shape)}\n".encode())
            digest.update(rows.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _adapted(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
