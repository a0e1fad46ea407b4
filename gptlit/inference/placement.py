"""Where and in which number format a trained model computes."""

import torch

from gptlit.device import PRECISIONS, cpu_has_bf16, fast_bf16, resolve_device
from gptlit.errors import UserError
from gptlit.inference.packed import can_pack, pack_linears
from gptlit.model import GPTModel, merge_lora


def place(model: GPTModel, device: str, precision: str) -> tuple[GPTModel, str, str]:
    """Move a model to where and how it will decode; LoRA becomes part of its weights.

    `auto` takes 16-bit weights: bf16 or fp16 on CUDA, and bf16 on a CPU with instructions for it
    from the width on where it pays. On a CPU, bf16 means 16-bit weights under fp32 activations
    (`pack_linears`).

    Returns:
        the model, the device's name, the precision's name.

    Raises:
        UserError: the device, or the precision on it, is missing.
    """
    device, model = resolve_device(device), merge_lora(model)
    precision = decoding_precision(precision, device, model.cfg.emb_dim)
    if precision == "fp16" and device == "cpu":
        raise UserError("precision=fp16 is slow on a CPU; use precision=bf16 or fp32")
    if precision == "bf16" and device == "cpu":
        if not can_pack():
            raise UserError("precision=bf16 needs AVX-512 or newer, which this CPU lacks; use fp32")
        return pack_linears(model), device, precision
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return model.to(device=device, dtype=dtype).eval(), device, precision


def decoding_precision(name: str, device: str, emb_dim: int) -> str:
    """The number format that "auto" means for the weights of a model that decodes.

    Raises:
        UserError: there is no such format.
    """
    if name not in ("auto", *PRECISIONS):
        raise UserError(f"precision={name}: allowed are auto, {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    if device == "cpu":  # it waits for memory, not for products
        return "bf16" if cpu_has_bf16() and emb_dim >= 512 else "fp32"
    return "bf16" if fast_bf16(device) else "fp16" if device == "cuda" else "fp32"
