"""16-bit weights on a CPU answer as the 32-bit ones do, within what 16 bits can say."""

import copy

import pytest
import torch
from torch import nn

from gptlit.inference.packed import PackedHead, PackedLinear, pack_linears
from gptlit.model import GPTConfig, GPTModel, KVCache

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="this CPU has no 16-bit products (AVX-512 or newer)",
)

EPSILON = 2**-8
"""Relative rounding error of a bf16 number."""


@pytest.fixture(scope="module")
def model() -> GPTModel:
    torch.manual_seed(0)
    return GPTModel(
        GPTConfig(vocab_size=257, context_length=32, emb_dim=64, n_heads=4, n_layers=3)
    ).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (3, 5, 48), (1, 1, 48), (48,)], ids=str)
def test_a_packed_layer_is_the_layer_up_to_rounding(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias)
    x = torch.randn(shape)
    with torch.no_grad():
        expected, got = linear(x), PackedLinear(linear.weight, linear.bias)(x)
        # Each factor, the bias and the result are rounded once.
        allowed = 2 * EPSILON * (x.abs() @ linear.weight.T.abs()) + 2 * EPSILON * expected.abs()
    assert got.dtype == torch.bfloat16 and got.shape == expected.shape
    assert bool(((got.float() - expected).abs() <= allowed + EPSILON).all())


def test_logits_agree_with_those_of_the_full_model(model: GPTModel) -> None:
    packed = pack_linears(copy.deepcopy(model))
    ids = torch.randint(257, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, got = model(ids), packed(ids)
    assert got.shape == expected.shape
    assert (got - expected).norm() < 2e-2 * expected.norm()


def test_logits_far_from_zero_keep_their_differences() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 64)
    common = torch.linalg.pinv(x) @ torch.tensor([-100.0, -90.0, 120.0])
    weight = common + 0.1 * torch.randn(257, 64)
    expected, got = x @ weight.T, PackedHead(weight)(x)
    assert expected.abs().min() > 80, "or bf16 could tell them apart"
    assert expected.std(dim=1).min() > 0.5
    torch.testing.assert_close(got, expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("sizes", [(1,) * 28, (5, 1, 3, 1, 18), (1, 17, 2, 8)], ids=str)
def test_the_cache_agrees_with_the_whole_sequence(model: GPTModel, sizes: tuple[int, ...]) -> None:
    packed = pack_linears(copy.deepcopy(model))
    ids = torch.randint(257, (1, 28), generator=torch.Generator().manual_seed(1))
    cache = KVCache(packed.cfg, 28)
    with torch.inference_mode():
        whole = packed(ids)
        steps = torch.cat([packed(part, cache=cache) for part in ids.split(sizes, dim=1)], dim=1)
    assert (steps - whole).norm() < 2e-2 * whole.norm()


def test_every_large_weight_is_packed(model: GPTModel) -> None:
    packed = pack_linears(copy.deepcopy(model))
    assert not any(isinstance(module, nn.Linear) for module in packed.modules())
    assert isinstance(packed.out_head, PackedHead)
