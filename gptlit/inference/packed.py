"""16-bit weights for decoding on a CPU.

Each decoding pass reads every weight once, and mostly gives one token, so the speed of memory
limits it. PyTorch's own bf16 matrix-vector product reaches half of that speed, and on a CPU without
bf16 instructions a hundredth. Two libraries inside PyTorch do better: oneDNN with its blocked
layout, which torch.compile's CPU backend uses too, on CPUs that multiply bf16; and FBGEMM, with
weights in fp16 and activations in fp32, on CPUs that have only AVX2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlit.errors import UserError
from gptlit.model import GPTModel, KVCache, merge_lora
from gptlit.model.attention import attention
from gptlit.model.block import TransformerBlock


class BFloat16Linear:
    """A linear layer whose weight is in bf16, in oneDNN's layout.

    Args:
        weight: (out, in), of any float type.
        bias: (out,) or None.
        activation: "none", or "gelu" for GPT-2's approximation of GELU on the output.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str = "none") -> None:
        self._linear = torch.ops.mkldnn._linear_pointwise.default
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16(), 1)
        self.bias = None if bias is None else bias.detach().bfloat16()
        self.activation = activation
        self.approximation = "tanh" if activation == "gelu" else ""

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., in) of any float type -> (..., out) bf16."""
        return self._linear(
            x.bfloat16(), self.weight, self.bias, self.activation, [], self.approximation
        )

    @staticmethod
    def supported() -> bool:
        """Whether this PyTorch has oneDNN (builds for Apple's processors do not), and this CPU has
        AVX-512 or newer."""
        ops = torch.ops.mkldnn
        return hasattr(ops, "_linear_pointwise") and bool(ops._is_mkldnn_bf16_supported())


class Float16Linear:
    """A linear layer whose weight is in fp16, in FBGEMM's layout; it computes in fp32.

    Args:
        weight, bias, activation: as for `BFloat16Linear`.

    Raises:
        UserError: the weight has numbers that fp16 cannot hold.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str = "none") -> None:
        weight = weight.detach().float()
        largest = torch.linalg.vector_norm(weight, torch.inf).item()
        if not largest <= torch.finfo(torch.float16).max:
            raise UserError(
                f"precision=fp16: the model has weights up to {largest:.3g}, which fp16 cannot"
                " hold; use precision=fp32"
            )
        bias = None if bias is None else bias.detach().float()
        self._linear = torch.ops.quantized.linear_dynamic_fp16.default
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
        self.activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., T, in) of any float type -> (..., T, out) fp32."""
        y: Tensor = self._linear(x.float(), self.packed)
        return F.gelu(y, approximate="tanh") if self.activation == "gelu" else y

    @staticmethod
    def supported() -> bool:
        """Whether this PyTorch has FBGEMM, and this CPU has AVX2."""
        return "fbgemm" in torch.backends.quantized.supported_engines


PackedLinear = BFloat16Linear | Float16Linear
PACKED: dict[str, type[BFloat16Linear] | type[Float16Linear]] = {
    "bf16": BFloat16Linear,
    "fp16": Float16Linear,
}
"""The layer for each precision."""


def can_pack(precision: str) -> bool:
    """Whether the weights can be packed in a precision, bf16 or fp16."""
    return PACKED[precision].supported()


class PackedBlock(nn.Module):
    """A `TransformerBlock` with packed layers. Norms and the residual stream are in fp32. Queries,
    keys and values stay in the type that the layer gives: a cache in bf16 is half as much to read
    for each token. All steps are in one function: for one token at a time, calling modules would
    cost as much as their work."""

    def __init__(self, block: TransformerBlock, linear: type[PackedLinear]) -> None:
        super().__init__()
        att, ff = block.att, block.ff
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.n_heads, self.head_dim = att.n_heads, att.head_dim
        # Each layer is freed before the next one is packed.
        self.qkv = _pack(linear, att, "qkv")
        self.out_proj = _pack(linear, att, "out_proj")
        self.fc = _pack(linear, ff, "fc", "gelu")
        self.proj = _pack(linear, ff, "proj")

    def forward(
        self, x: Tensor, mask: Tensor | None = None, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        """x (B, T, C) fp32 -> (B, T, C) fp32; the rest as in `TransformerBlock`."""
        B, T, C = x.shape  # noqa: N806
        qkv = self.qkv(self.norm1(x)).view(B, T, 3, self.n_heads, self.head_dim)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, B, n_heads, T, head_dim)
        q, kv = qkv[0], qkv[1:]
        k, v = kv if cache is None else cache.append(layer, kv)
        y = attention(q, k, v, mask)
        x = x + self.out_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.proj(self.fc(self.norm2(x)))


def _pack(
    kind: type[PackedLinear], module: nn.Module, name: str, activation: str = "none"
) -> PackedLinear:
    """Take a linear layer out of its module, and pack it."""
    linear = module.get_submodule(name)
    delattr(module, name)
    bias = getattr(linear, "bias", None)
    return kind(linear.get_parameter("weight"), bias, activation)


class PackedHead(nn.Module):
    """The output head, packed. The mean logit of a position is computed in fp32, and only what the
    logits deviate from it with the packed weight: those of the published GPT-2 are around -100,
    where the steps of bf16 are as large as 0.5.

    Args:
        weight: (V, C), of any float type.
        linear: the kind of packed layer.
    """

    def __init__(self, weight: Tensor, linear: type[PackedLinear]) -> None:
        super().__init__()
        weight = weight.detach()
        self.mean = weight.mean(dim=0, dtype=torch.float32)
        self.linear = linear(weight - self.mean, None)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> logits (..., V) fp32."""
        return self.linear(x).float().add_((x.float() @ self.mean)[..., None])


def pack_linears(model: GPTModel, precision: str) -> GPTModel:
    """Replace every block and the head by a packed one, in place.

    LoRA is merged into the weights. The model can no longer be trained.

    Args:
        model: in any float type.
        precision: one that `can_pack` allows.

    Raises:
        UserError: a weight is too large for the precision.
    """
    linear = PACKED[precision]
    merge_lora(model)
    for i, block in enumerate(model.trf_blocks):
        assert isinstance(block, TransformerBlock)
        model.trf_blocks[i] = PackedBlock(block, linear)
    head = model.tok_emb if model.out_head is None else model.out_head
    model.out_head = PackedHead(head.get_parameter("weight"), linear)
    return model.eval()
