"""Activations kept in 16 bits between the forward and the backward pass."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gptlit.model import GPTConfig, GPTModel
from gptlit.model.attention import attention
from gptlit.model.saved import saved_in

CONFIG = GPTConfig(vocab_size=70, context_length=24, emb_dim=32, n_heads=4, n_layers=3)


def loss_and_gradients(model: GPTModel, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model.loss_sum(ids[:, :-1], ids[:, 1:])
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


@pytest.mark.parametrize("compiled", [False, True])
def test_the_loss_is_that_of_fp32_and_gradients_differ_by_the_rounding(compiled: bool) -> None:
    torch.manual_seed(0)
    model, ids = GPTModel(CONFIG), torch.randint(70, (3, 25))
    if compiled:
        torch.compiler.reset()  # of what other tests have compiled
        model.compile_blocks(backend="aot_eager")
    loss, exact = loss_and_gradients(model, ids)
    model.saved_dtype = torch.bfloat16
    other, rounded = loss_and_gradients(model, ids)
    assert torch.equal(loss, other)
    assert rounded.keys() == exact.keys()
    errors = {name: (rounded[name] - g).norm() / g.norm() for name, g in exact.items()}
    assert max(errors.values()) < 2**-6, errors
    inside = [errors[name] for name in errors if name.endswith(("fc.weight", "qkv.weight"))]
    assert min(inside) > 2**-12, "nothing was rounded"


def test_what_is_not_trained_saves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPTModel(CONFIG)
    model.saved_dtype = torch.bfloat16
    monkeypatch.setattr("gptlit.model.gpt.saved_in", None)  # cannot be called
    with torch.no_grad():
        model(torch.randint(70, (3, 24)))


def saved_by(output: Tensor, name: str) -> Tensor:
    """What the operation behind `output` has for its gradient."""
    saved: Any = getattr(output.grad_fn, f"_saved_{name}")
    assert isinstance(saved, Tensor)
    return saved


def test_activations_are_rounded_weights_are_not_copied() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(16, 64), torch.randn(40, 16, requires_grad=True)
    with saved_in(torch.bfloat16, linear.parameters(), at_least=x.numel()):
        y = linear(x * 1)
    assert torch.equal(saved_by(y, "mat1"), x.bfloat16().float())
    weight = saved_by(y, "mat2")
    assert weight.data_ptr() == linear.weight.data_ptr()


def test_small_statistics_keep_all_their_digits() -> None:
    torch.manual_seed(0)
    B, H, T, D = 2, 4, 24, 8  # noqa: N806
    x = torch.randn(B, T, H * D, requires_grad=True)
    q, k, v = torch.randn(B, H, T, 3, D, requires_grad=True).unbind(3)
    with saved_in(torch.bfloat16, [], at_least=x.numel()):
        normed, mixed = nn.LayerNorm(H * D)(x * 1), attention(q, k, v)
    mean = saved_by(normed, "result1")
    torch.testing.assert_close(mean.squeeze(), x.mean(-1))
    assert not torch.equal(mean, mean.bfloat16().float())
    sums = saved_by(mixed, "logsumexp")
    scores = (q @ k.mT * D**-0.5).masked_fill(~torch.ones(T, T).tril().bool(), -torch.inf)
    torch.testing.assert_close(sums, scores.logsumexp(-1))
    query = saved_by(mixed, "query")
    assert torch.equal(query, q.bfloat16().float())
    assert query.stride() == q.stride(), "compiled code would not take it"


def kept_bytes(model: GPTModel, ids: Tensor) -> int:
    """What autograd holds of the blocks, but for the weights."""
    left: list[Any] = [model.run_blocks(model.embed(ids)).grad_fn]
    sizes = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}
    seen = set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [before for before, _ in node.next_functions]
        for name in dir(node):
            kept = getattr(getattr(node, name), "data", None) if "_raw_saved" in name else None
            kept = kept[0] if isinstance(kept, tuple) else kept  # with its strides
            if isinstance(kept, Tensor):
                storage = kept.untyped_storage()
                sizes.setdefault(storage.data_ptr(), storage.nbytes())
    return sum(sizes.values())


def rounds(model: GPTModel, ids: Tensor) -> bool:
    found = []
    for dtype in (None, torch.bfloat16):
        model.saved_dtype = dtype
        loss = model.loss_sum(ids, ids)
        found += torch.autograd.grad(loss, model.trf_blocks[-1].ff.proj.weight)
    return not torch.equal(*found)


def test_nothing_is_rounded_where_gradients_take_more_memory() -> None:
    """They come in place of the activations, so that these are not what the memory must hold."""
    model, few, many = GPTModel(CONFIG), torch.randint(70, (1, 20)), torch.randint(70, (4, 20))
    per_block = sum(p.numel() for p in model.trf_blocks[0].parameters())
    assert 20 * 16 * 32 < per_block < 80 * 16 * 32
    assert not rounds(model, few) and rounds(model, many)
    for p in model.trf_blocks.parameters():
        p.grad = torch.zeros_like(p)  # as in the second micro-batch of a step
    assert rounds(model, few)
    for p in model.trf_blocks.parameters():
        p.grad = None
    for p in model.trf_blocks[:-1].parameters():
        p.requires_grad = False
    assert rounds(model, few)


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="PyTorch 2.9 does not show what it keeps")
def test_about_half_the_memory_is_kept() -> None:
    model, ids = GPTModel(CONFIG), torch.randint(70, (8, 24))
    before = kept_bytes(model, ids)
    model.saved_dtype = torch.bfloat16
    assert 0.4 < kept_bytes(model, ids) / before < 0.6
