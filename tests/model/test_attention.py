"""What is handed to the kernels."""

import pytest
import torch
from torch import Tensor

from gptlit.model.attention import F, attention


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
