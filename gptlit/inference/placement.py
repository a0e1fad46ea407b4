"""Where and in which number format a trained model computes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlit.device import DTYPES, PRECISIONS, cpu_has_bf16, fast_bf16, resolve_device
from gptlit.errors import UserError
from gptlit.inference.packed import PackedBlock, can_pack, pack_linears
from gptlit.model import GPTModel, merge_lora

WIDE = 512
"""From this width on, most of the time of decoding one token goes into reading the weights."""


class Float32Head(nn.Module):
    """An output head in fp32 for a model with 16-bit weights. The logits of the published GPT-2 are
    around -100, where the steps of bf16 are as large as 0.5: many of the likeliest would be equal.

    Args:
        weight: (V, C) fp32.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) of any float type -> logits (..., V) fp32."""
        return F.linear(x.float(), self.weight)


def place(model: GPTModel, device: str | torch.device, precision: str) -> tuple[GPTModel, str, str]:
    """Move a model to the device and number format in which it will decode; LoRA is merged.

    `auto` takes 16 bits: bf16 or fp16 on CUDA; on a CPU, for models wide enough to gain from it,
    bf16 if it has instructions for that, else fp16. On a CPU only the weights are in 16 bits, and
    activations in fp32 (`pack_linears`); elsewhere all but the head is in 16 bits.

    Returns:
        the model, the device's name, the precision's name.

    Raises:
        UserError: the device, or the precision on it, is missing.
        ValueError: the model's weights are packed already.
    """
    if any(isinstance(block, PackedBlock) for block in model.trf_blocks):
        raise ValueError("the model's weights are packed already: load it anew to place it anew")
    name, model = resolve_device(device), merge_lora(model)
    precision = decoding_precision(precision, name, model.cfg.emb_dim)
    if name == "cpu" and precision != "fp32":
        if not can_pack(precision):
            needed = {"bf16": "AVX-512 or newer", "fp16": "AVX2 or newer"}[precision]
            have = [name for name in PRECISIONS if name == "fp32" or can_pack(name)]
            raise UserError(
                f"precision={precision} needs {needed}, which this CPU lacks; use precision="
                + " or ".join(have)
            )
        return pack_linears(model, precision), name, precision
    return convert(model, name, DTYPES[precision]), name, precision


def convert(model: GPTModel, device: str, dtype: torch.dtype) -> GPTModel:
    """Move a model, in place, and convert all of it but the head to a type; the head is in fp32."""
    weight = model.head_weight().detach()
    model.to(device=device, dtype=dtype)
    if dtype != torch.float32:
        model.out_head = Float32Head(weight.to(device, torch.float32))
    return model.eval()


def decoding_precision(name: str, device: str, emb_dim: int) -> str:
    """The number format for the weights of a model that decodes: `name`, or what "auto" means.

    Raises:
        UserError: there is no such format.
    """
    if name not in ("auto", *PRECISIONS):
        raise UserError(f"precision={name}: allowed are auto, {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    if device == "cpu":  # memory limits it there, not arithmetic
        if emb_dim < WIDE:
            return "fp32"
        return "bf16" if cpu_has_bf16() else "fp16" if can_pack("fp16") else "fp32"
    return "bf16" if fast_bf16(device) else "fp16" if device == "cuda" else "fp32"
