"""What is handed to the kernels."""

import pytest
import torch
from torch import Tensor

from gptlit.model import GPTConfig, GPTModel
from gptlit.model.attention import F, attention


@pytest.mark.parametrize(
    "shape",
    [(20, 20), (1, 20), (1, 1, 1, 20), (1, 1, 20, 20), (3, 1, 1, 20), (3, 2, 20, 20)],
    ids=str,
)
def test_products_in_bf16_take_every_shape_of_mask_that_the_kernel_takes(
    shape: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, 2, 20, 8)
    mask = (torch.rand(shape) < 0.7) | (torch.arange(20) == 0)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    got = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    torch.testing.assert_close(got.float(), expected, atol=0.03, rtol=0)


class OnApple(Tensor):
    """Says that it lies on an Apple GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("mps")


@pytest.mark.parametrize("queries", [1, 5])
def test_apples_kernel_gets_contiguous_tensors(
    monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    """As the model and its cache make them, they are not."""
    seen: list[Tensor] = []

    def kernel(*tensors: Tensor, **options: object) -> Tensor:
        seen.extend(tensors)
        return tensors[0]

    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
    q, k, v = torch.randn(3, queries, 3, 4, 64).permute(2, 0, 3, 1, 4).as_subclass(OnApple)
    k, v = torch.randn(2, 3, 4, 40, 64)[:, :, :, :9].as_subclass(OnApple)
    assert not any(x.is_contiguous() for x in (q, k, v))
    attention(q, k, v, torch.ones(queries, 9, dtype=torch.bool))
    for got, given in zip(seen, (q, k, v), strict=True):
        assert got.is_contiguous() and torch.equal(got, given)


class OnGPU(Tensor):
    """Says that it lies on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")


def test_a_gpu_makes_one_bias_of_a_mask_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its rows are aligned, whatever their length."""
    torch.manual_seed(0)
    cfg = GPTConfig(vocab_size=9, context_length=20, emb_dim=16, n_heads=2, n_layers=3)
    model, x = GPTModel(cfg).eval(), torch.randn(2, 19, 16)
    mask = (torch.rand(2, 1, 19, 19) < 0.5) | torch.eye(19, dtype=torch.bool)
    expected = model.run_blocks(x, mask=mask)
    plain, seen = F.scaled_dot_product_attention, []

    def kernel(*tensors: Tensor, attn_mask: Tensor, **options: object) -> Tensor:
        seen.append(attn_mask)
        return plain(*tensors, attn_mask=attn_mask, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
    got = model.run_blocks(x.as_subclass(OnGPU), mask=mask)
    torch.testing.assert_close(got.as_subclass(Tensor), expected)
    assert len(seen) == 3 and all(bias is seen[0] for bias in seen)
    assert seen[0].dtype == torch.float32 and all(n % 16 == 0 for n in seen[0].stride()[:-1])
