"""16-bit weights for decoding on a CPU.

Decoding reads every weight once for each token, so its speed is that of memory. PyTorch's own
bf16 matrix-vector product reaches half of it; oneDNN's blocked layout, which torch.compile's CPU
backend uses too, reaches it, and is as fast with many rows.
"""

import torch
from torch import Tensor, nn

from gptlit.model import GPTModel, merge_lora
from gptlit.model.gpt import FeedForward, TransformerBlock

_linear = torch.ops.mkldnn._linear_pointwise


class PackedLinear(nn.Module):
    """A linear layer whose weight lies in bf16 in oneDNN's layout; fp32 in and out.

    Args:
        weight: (out, in), of any float type.
        bias: (out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16(), 1)
        self.bias = None if bias is None else bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) fp32 -> (..., out) fp32."""
        return _linear(x.bfloat16(), self.weight, self.bias, "none", [], "").float()


class PackedFeedForward(nn.Module):
    """A `FeedForward` that stays in bf16 between its two layers, the GELU part of the first."""

    def __init__(self, ff: FeedForward) -> None:
        super().__init__()
        self.fc = PackedLinear(ff.fc.weight, ff.fc.bias)
        self.proj = PackedLinear(ff.proj.weight, ff.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) fp32 -> (..., C) fp32."""
        fc, proj = self.fc, self.proj
        inner = _linear(x.bfloat16(), fc.weight, fc.bias, "gelu", [], "tanh")
        return _linear(inner, proj.weight, proj.bias, "none", [], "").float()


def pack_linears(model: GPTModel) -> GPTModel:
    """Replace every linear layer and the tied head by a packed one, in place.

    The residual stream, norms and attention stay in fp32. LoRA becomes part of the weights. The
    model can no longer be trained.
    """
    merge_lora(model)
    for block in model.trf_blocks:
        assert isinstance(block, TransformerBlock)
        for name in ("qkv", "out_proj"):
            linear = getattr(block.att, name)
            setattr(block.att, name, PackedLinear(linear.weight, linear.bias))
        block.att.dropout, block.ff = nn.Identity(), PackedFeedForward(block.ff)  # type: ignore
    head = model.tok_emb if model.out_head is None else model.out_head
    model.out_head = PackedLinear(head.get_parameter("weight"), None)
    return model.eval()
