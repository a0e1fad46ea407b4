"""Where and in which number format a trained model computes."""

import torch

from gptlit.device import PRECISIONS, fast_bf16, resolve_device
from gptlit.errors import UserError
from gptlit.inference.packed import pack_linears
from gptlit.model import GPTModel, merge_lora


def place(model: GPTModel, device: str, precision: str) -> tuple[GPTModel, str, str]:
    """Move a model to where and how it will decode; LoRA becomes part of its weights.

    `auto` takes 16-bit weights where the device is fast in them: bf16 on CUDA, and on a CPU with
    bf16 instructions from the width on where it pays. On a CPU, bf16 means 16-bit weights under
    fp32 activations (`pack_linears`).

    Returns:
        the model, the device's name, the precision's name.

    Raises:
        UserError: the device, or the precision on it, is missing.
    """
    device, model = resolve_device(device), merge_lora(model)
    if precision not in ("auto", *PRECISIONS):
        raise UserError(f"precision={precision}: allowed are auto, {', '.join(PRECISIONS)}")
    fast = fast_bf16(device)
    if precision == "auto":
        wide = device != "cpu" or model.cfg.emb_dim >= 512
        precision = "bf16" if fast and wide else "fp16" if device == "cuda" else "fp32"
    if precision == "fp16" and device == "cpu":
        raise UserError("precision=fp16 is slow on a CPU; use precision=bf16 or fp32")
    if precision == "bf16" and device == "cpu":
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise UserError("precision=bf16 needs AVX-512 or newer, which this CPU lacks; use fp32")
        return pack_linears(model), device, precision
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return model.to(device=device, dtype=dtype).eval(), device, precision
