"""16-bit weights for decoding on a CPU.

Decoding reads every weight once for each token, so its speed is that of memory. PyTorch's own
bf16 matrix-vector product reaches half of it; oneDNN's blocked layout, which torch.compile's CPU
backend uses too, reaches it, and is as fast with many rows.
"""

import torch
from torch import Tensor, nn

from gptlit.model import GPTModel


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
        y = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.weight, self.bias, "none", [], "")
        return y.float()


def pack_linears(model: GPTModel) -> GPTModel:
    """Replace every linear layer and the tied head by a `PackedLinear`, in place.

    The residual stream, norms and attention stay in fp32. The model can no longer be trained.
    """
    # Linear layers are not in the list, so that each is freed as soon as it is replaced.
    for module in [m for m in model.modules() if not isinstance(m, nn.Linear)]:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child.weight, child.bias))
    if model.out_head is None:
        model.out_head = PackedLinear(model.tok_emb.weight, None)
    return model.eval()
