import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.model import GPTConfig, GPTModel, cross_entropy_sum, loss


@settings(max_examples=40)
@given(
    n=st.integers(0, 23),
    vocab=st.integers(2, 60),
    padding=st.integers(0, 9),
    chunk=st.integers(1, 300),
    softmax=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_chunks_give_the_loss_and_gradients_of_the_plain_formula(
    n: int, vocab: int, padding: int, chunk: int, softmax: int, seed: int
) -> None:
    torch.manual_seed(seed)
    hidden = torch.randn(n, 8, requires_grad=True)
    weight = torch.randn(vocab + padding, 8, requires_grad=True)
    targets = torch.randint(vocab, (n,))
    plain = F.cross_entropy(hidden @ weight[:vocab].T, targets, reduction="sum")
    expected = torch.autograd.grad(plain * 0.37, (hidden, weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CHUNK_ELEMENTS", chunk)
        patch.setattr(loss, "SOFTMAX_ELEMENTS", softmax)
        ours = cross_entropy_sum(hidden, weight, targets, vocab)
        got = torch.autograd.grad(ours * 0.37, (hidden, weight))
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-5)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_gpu_computes_at_once_is_what_a_cpu_computes_row_by_row(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, targets = torch.randn(12, 8).to(dtype), torch.randint(10, (7,))
    hidden = torch.randn(7, 8).mul(torch.tensor([1.0, 1, 1, 30, 30, 300, 300])[:, None]).to(dtype)
    at_once, by_rows = hidden @ weight.T, hidden @ weight.T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "SOFTMAX_ELEMENTS", 24)
        expected = loss._softmax_minus_onehot_(by_rows, hidden, weight, targets, 10)
    at_once[:, 10:] = -torch.inf
    torch.testing.assert_close(loss._in_large_kernels_(at_once, targets), expected)
    torch.testing.assert_close(at_once, by_rows)


def test_logits_far_from_zero_keep_their_differences_in_16_bits() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(200, 64), 0.1 * torch.randn(500, 64)
    hidden[:, :4] = 10
    weight[:, :4] -= 2.5
    targets = (hidden @ weight.T).softmax(dim=1).multinomial(1)[:, 0]
    assert -110 < (hidden @ weight.T).mean() < -90
    hidden.requires_grad_(), weight.requires_grad_()
    expected = cross_entropy_sum(hidden, weight, targets, 500)
    with torch.autocast("cpu", torch.bfloat16):
        got = cross_entropy_sum(hidden, weight, targets, 500)
    assert abs(got - expected) / len(targets) < 2e-3
    gradients = [torch.autograd.grad(total, (hidden, weight)) for total in (expected, got)]
    for exact, rounded in zip(*gradients, strict=True):
        assert (rounded - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    hidden = torch.tensor([[200.0], [-200.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0], [300.0]], requires_grad=True)
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        value = cross_entropy_sum(hidden, weight, torch.tensor([1, 0, 2]), 3)
    value.backward()
    last = -torch.tensor([1.0, -1.0, 0.0]).log_softmax(0)[2]
    torch.testing.assert_close(value, 800 + last)
    assert hidden.grad is not None and weight.grad is not None
    assert torch.isfinite(hidden.grad).all() and torch.isfinite(weight.grad).all()


def test_under_autocast_the_products_run_in_bf16_and_the_sum_in_fp32() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 32), torch.randn(64, 32) * 0.1
    targets = torch.randint(64, (50,))
    exact = cross_entropy_sum(hidden, weight, targets, 64)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = cross_entropy_sum(hidden, weight, targets, 64)
    assert rounded.dtype == torch.float32
    assert rounded != exact
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)


def test_full_logits_never_exist_in_fp32() -> None:
    n, vocab = 512, 8192
    hidden = torch.randn(n, 16).bfloat16().requires_grad_()
    weight = torch.randn(vocab, 16).bfloat16().requires_grad_()
    from torch.profiler import profile

    with profile(profile_memory=True) as trace:
        cross_entropy_sum(hidden, weight, torch.randint(vocab, (n,)), vocab).backward()
    largest = max(event.self_cpu_memory_usage for event in trace.events())
    assert largest < n * vocab * 4


def test_without_gradients_no_product_is_wasted_on_them() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    hidden, weight = torch.randn(40, 8, requires_grad=True), torch.randn(64, 8, requires_grad=True)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        cross_entropy_sum(hidden, weight, torch.randint(64, (40,)), 64)
    assert counter.get_total_flops() == 2 * 40 * 8 * 64
    assert loss.narrow_head(weight, weight.dtype, 64) is weight  # nor is a copy made of it


@pytest.mark.parametrize("tied", [True, False])
def test_a_gradient_of_gradients_is_refused_rather_than_wrong(tied: bool) -> None:
    model = GPTModel(GPTConfig(70, 8, 8, 2, 1, tied_head=tied))
    ids = torch.randint(70, (1, 8))
    with pytest.raises(RuntimeError, match="take cross_entropy of the logits"):
        model.loss_sum(ids, ids).backward(create_graph=True)
