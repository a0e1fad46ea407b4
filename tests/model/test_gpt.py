import dataclasses
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.model import GPTConfig, GPTModel, KVCache
from gptlit.model.attention import attention

TINY = GPTConfig(vocab_size=70, context_length=24, emb_dim=16, n_heads=2, n_layers=2)

PUBLISHED = {  # layers, width, heads -> parameters with the tied head
    (12, 768, 12): 124_439_808,
    (24, 1024, 16): 354_823_168,
    (36, 1280, 20): 774_030_080,
    (48, 1600, 25): 1_557_611_200,
}


@pytest.mark.parametrize(("shape", "count"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(shape: tuple[int, int, int], count: int) -> None:
    n_layers, emb_dim, n_heads = shape
    with torch.device("meta"):
        model = GPTModel(GPTConfig(n_layers=n_layers, emb_dim=emb_dim, n_heads=n_heads))
    assert model.num_parameters() == count


def test_flops_per_token_counts_what_the_matrix_products_do() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    cfg = GPTConfig(vocab_size=64, context_length=16, emb_dim=32, n_heads=2, n_layers=3)
    model = GPTModel(cfg)
    ids = torch.randint(64, (1, 16))
    # Plain products, of all queries with all keys; those of a fused kernel are not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(ids)
        forward = counter.get_total_flops()
        logits.sum().backward()
    assert forward / 16 == cfg.flops_per_token(training=False)
    assert counter.get_total_flops() / 16 == cfg.flops_per_token()


def test_the_head_is_tied_and_padding_rows_are_never_in_logits_or_loss() -> None:
    model = GPTModel(TINY)
    assert model.tok_emb.weight.shape == (128, 16)
    with torch.no_grad():
        model.tok_emb.weight[70:] = 100.0  # would win every softmax
    ids = torch.randint(70, (2, 9))
    assert model(ids).shape == (2, 9, 70)
    expected = torch.nn.functional.cross_entropy(
        model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
    loss = model.loss_sum(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.tok_emb.weight.grad is not None
    assert model.tok_emb.weight.grad[70:].abs().max() == 0


@settings(max_examples=30)
@given(
    cuts=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    training=st.booleans(),
)
def test_the_cache_gives_what_the_whole_sequence_gives(
    cuts: list[int], seed: int, training: bool
) -> None:
    torch.manual_seed(seed)
    model = GPTModel(dataclasses.replace(TINY, activation_checkpointing=True)).train(training)
    total = min(sum(cuts), TINY.context_length)
    ids = torch.randint(70, (2, total))
    cache, parts, start = KVCache(TINY, total), [], 0
    with torch.no_grad():
        whole = model(ids)
        for cut in cuts:
            stop = min(start + cut, total)
            if stop > start:
                parts.append(model(ids[:, start:stop], cache=cache))
            start = stop
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)


def test_the_cache_is_kept_by_a_model_that_would_recompute_its_blocks() -> None:
    model = GPTModel(dataclasses.replace(TINY, activation_checkpointing=True)).train()
    ids, cache = torch.randint(70, (2, 6)), KVCache(TINY, 6)
    with torch.no_grad():
        steps = [model(ids[:, i : i + 1], cache=cache) for i in range(6)]
        torch.testing.assert_close(torch.cat(steps, dim=1), model(ids), atol=1e-5, rtol=1e-4)


def test_a_cache_that_cannot_be_used_is_told_with_the_cure() -> None:
    model, ids, cache = GPTModel(TINY), torch.randint(70, (2, 4)), KVCache(TINY, 8)
    with pytest.raises(ValueError, match=r"no gradient: use it within torch.no_grad\(\)"):
        model(ids, cache=cache)
    with torch.no_grad():
        model(ids, cache=cache)
        with pytest.raises(ValueError, match="of 2 rows, not of 1: make a new KVCache"):
            model(ids[:1], cache=cache)


def test_a_position_never_sees_later_ones() -> None:
    model = GPTModel(TINY).eval()
    ids = torch.randint(70, (1, 12))
    changed = ids.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 70
    with torch.no_grad():
        assert torch.equal(model(ids)[:, :7], model(changed)[:, :7])


@pytest.mark.parametrize("masked", [False, True])
def test_both_attention_paths_agree(masked: bool) -> None:
    """The 16-bit CPU path against the fused kernel in fp32."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 20, 8).unbind()
    mask = torch.rand(2, 1, 20, 20) < 0.7 if masked else None
    if mask is not None:
        mask = mask | torch.eye(20, dtype=torch.bool)
    expected = attention(q, k, v, mask)
    got = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    assert (got.float() - expected).norm() / expected.norm() < 1e-2


def test_activation_checkpointing_runs_blocks_again_and_changes_no_gradient() -> None:
    grads, runs = [], []
    for on in (False, True):
        torch.manual_seed(0)
        model = GPTModel(GPTConfig(**{**TINY.to_dict(), "activation_checkpointing": on}))
        ids = torch.randint(70, (2, 10), generator=torch.Generator().manual_seed(1))
        for block in model.trf_blocks:
            block.register_forward_pre_hook(lambda *_: runs.append(on))  # noqa: B023
        model.loss_sum(ids, ids).backward()
        grads.append([p.grad for p in model.parameters()])
    assert (runs.count(False), runs.count(True)) == (TINY.n_layers, 2 * TINY.n_layers)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_every_block_is_compiled_in_place() -> None:
    model = GPTModel(TINY)
    with patch.object(torch.nn.Module, "compile", autospec=True) as compiled:
        model.compile_blocks()
    assert [call.args[0] for call in compiled.call_args_list] == list(model.trf_blocks)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_the_last_block_is_computed_in_full_only_where_it_is_kept(
    compiled: bool, activation_checkpointing: bool
) -> None:
    """A compiled block would be compiled a second time for that."""
    options = {**TINY.to_dict(), "activation_checkpointing": activation_checkpointing}
    model, ids = GPTModel(GPTConfig(**options)).double(), torch.randint(70, (2, 9))
    if compiled:
        with patch.object(torch.nn.Module, "compile", autospec=True):
            model.compile_blocks()
    targets = torch.where(torch.rand(ids.shape) < 0.4, ids, -100)
    kept = targets != -100
    rows: list[int] = []
    for block in model.trf_blocks:
        block.ff.register_forward_pre_hook(lambda _, given: rows.append(given[0][..., 0].numel()))
    model.loss_sum(ids, targets).backward()
    in_last = ids.numel() if compiled else int(kept.sum())
    assert rows[: TINY.n_layers] == [*[ids.numel()] * (TINY.n_layers - 1), in_last]
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    expected = torch.nn.functional.cross_entropy(model(ids)[kept], targets[kept], reduction="sum")
    expected.backward()
    torch.testing.assert_close(found, {name: p.grad for name, p in model.named_parameters()})


def test_residual_projections_start_smaller() -> None:
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(vocab_size=64, emb_dim=128, n_heads=2, n_layers=8))
    block = model.trf_blocks[3]
    assert block.att.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.ff.proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("emb_dim", 0),
        ("n_layers", -1),
        ("n_layers", "2"),
        ("context_length", 16.0),
        ("vocab_size", None),
        ("drop_rate", 1.0),
        ("drop_rate", None),
        ("emb_init_std", "0.02"),
        ("n_heads", 5),
    ],
)
def test_impossible_shapes_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"model.{field}"):
        GPTConfig(**{"emb_dim": 16, "n_heads": 2, field: value})


def test_a_shape_as_a_dict_is_told_with_the_way_to_a_model() -> None:
    with pytest.raises(TypeError, match=r"got dict; .* GPTModel\(GPTConfig\(\*\*shape\)\)"):
        GPTModel({"emb_dim": 16})  # type: ignore[arg-type]


def test_ids_and_targets_of_the_wrong_shape_are_told_with_the_right_one() -> None:
    model, ids = GPTModel(TINY), torch.randint(70, (2, 9))
    with pytest.raises(ValueError, match=r"must be \(batch, time\), got \(9,\); .* ids\[None\]"):
        model(ids[0])
    with pytest.raises(ValueError, match=r"targets are \(2, 8\), input_ids \(2, 9\): .* one for"):
        model.loss_sum(ids, ids[:, 1:])


def test_too_long_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens exceed the model's context of 24"):
        GPTModel(TINY)(torch.zeros(1, 25, dtype=torch.int64))


def test_an_untied_head_is_a_table_of_its_own() -> None:
    tied, untied = GPTModel(TINY), GPTModel(dataclasses.replace(TINY, tied_head=False))
    assert untied.num_parameters() == tied.num_parameters() + TINY.vocab_size * TINY.emb_dim
    tables = (TINY.vocab_size + TINY.context_length) * TINY.emb_dim
    assert tied.num_parameters(embeddings=False) == tied.num_parameters() - tables
    assert untied.num_parameters(embeddings=False) - TINY.vocab_size * TINY.emb_dim == (
        tied.num_parameters(embeddings=False)
    )
    ids = torch.randint(TINY.vocab_size, (2, 8))
    untied.loss_sum(ids[:, :-1], ids[:, 1:]).backward()
    assert untied.out_head is not None
    head, table = untied.out_head.get_parameter("weight").grad, untied.tok_emb.weight.grad
    assert head is not None and table is not None
    seen = table.abs().sum(dim=1) > 0
    assert seen.nonzero()[:, 0].tolist() == sorted(set(ids[:, :-1].flatten().tolist()))
    assert bool((head.abs().sum(dim=1) > 0)[: TINY.vocab_size].all())


def test_the_embeddings_initial_spread_is_an_option() -> None:
    torch.manual_seed(0)
    model = GPTModel(dataclasses.replace(TINY, emb_init_std=0.5))
    assert model.tok_emb.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert model.trf_blocks[0].get_parameter("att.qkv.weight").std().item() == pytest.approx(
        0.02, rel=0.1
    )
