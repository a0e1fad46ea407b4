"""16-bit weights on a CPU answer as the 32-bit ones do, within what 16 bits can say."""

import copy

import pytest
import torch
from torch import nn

from gptlit.errors import UserError
from gptlit.inference.packed import PACKED, PackedHead, can_pack, pack_linears
from gptlit.model import GPTConfig, GPTModel, KVCache

EPSILON = {"bf16": 2**-8, "fp16": 2**-11}
"""Relative rounding error of a number."""


@pytest.fixture(scope="module")
def model() -> GPTModel:
    torch.manual_seed(0)
    return GPTModel(
        GPTConfig(vocab_size=257, context_length=32, emb_dim=64, n_heads=4, n_layers=3)
    ).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (3, 5, 48), (1, 1, 48)], ids=str)
def test_a_packed_layer_is_the_layer_up_to_rounding(
    packed_precision: str, shape: tuple[int, ...], bias: bool
) -> None:
    eps, computed = (
        EPSILON[packed_precision],
        {"bf16": torch.bfloat16, "fp16": torch.float32}[packed_precision],
    )
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias)
    x = torch.randn(shape)
    with torch.no_grad():
        expected, got = linear(x), PACKED[packed_precision](linear.weight, linear.bias)(x)
        # Each factor, the bias and the result are rounded once.
        allowed = 2 * eps * (x.abs() @ linear.weight.T.abs()) + 2 * eps * expected.abs()
        active = PACKED[packed_precision](linear.weight, linear.bias, "gelu")(x).float()
        expected_active = nn.functional.gelu(got.float(), approximate="tanh")
    assert got.dtype == computed and got.shape == expected.shape
    assert bool(((got.float() - expected).abs() <= allowed + eps).all())
    torch.testing.assert_close(active, expected_active, rtol=4 * eps, atol=2 * eps)


def test_logits_agree_with_those_of_the_full_model(model: GPTModel, packed_precision: str) -> None:
    packed = pack_linears(copy.deepcopy(model), packed_precision)
    ids = torch.randint(257, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, got = model(ids), packed(ids)
    assert got.shape == expected.shape
    assert (got - expected).norm() < 5 * EPSILON[packed_precision] * expected.norm()


def test_logits_far_from_zero_keep_their_differences(packed_precision: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 64)
    common = torch.linalg.pinv(x) @ torch.tensor([-100.0, -90.0, 120.0])
    weight = common + 0.1 * torch.randn(257, 64)
    expected, got = x @ weight.T, PackedHead(weight, PACKED[packed_precision])(x)
    assert expected.abs().min() > 80, "or bf16 could tell them apart"
    assert expected.std(dim=1).min() > 0.5
    torch.testing.assert_close(got, expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("sizes", [(1,) * 28, (5, 1, 3, 1, 18), (1, 17, 2, 8)], ids=str)
def test_the_cache_agrees_with_the_whole_sequence(
    model: GPTModel, packed_precision: str, sizes: tuple[int, ...]
) -> None:
    packed = pack_linears(copy.deepcopy(model), packed_precision)
    ids = torch.randint(257, (1, 28), generator=torch.Generator().manual_seed(1))
    cache = KVCache(packed.cfg, 28)
    with torch.inference_mode():
        whole = packed(ids)
        steps = torch.cat([packed(part, cache=cache) for part in ids.split(sizes, dim=1)], dim=1)
    assert (steps - whole).norm() < 5 * EPSILON[packed_precision] * whole.norm()


def test_every_large_weight_is_packed(model: GPTModel, packed_precision: str) -> None:
    packed = pack_linears(copy.deepcopy(model), packed_precision)
    assert not any(isinstance(module, nn.Linear) for module in packed.modules())
    assert isinstance(packed.out_head, PackedHead)


def test_weights_that_fp16_cannot_hold_are_refused() -> None:
    if not can_pack("fp16"):
        pytest.skip("neither this CPU nor this PyTorch packs weights in fp16")
    for value in (1e5, float("inf"), float("nan")):
        weight = torch.ones(4, 4)
        weight[2, 1] = value
        with pytest.raises(UserError, match=r"weights up to .*use precision=fp32"):
            PACKED["fp16"](weight, None)
