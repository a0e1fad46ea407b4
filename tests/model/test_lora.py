import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gptlit.model import (
    GPTConfig,
    GPTModel,
    KVCache,
    LoRAConfig,
    LoRALinear,
    add_lora,
    is_lora_parameter,
    merge_lora,
)

TINY = GPTConfig(vocab_size=70, context_length=24, emb_dim=16, n_heads=2, n_layers=2)
IDS = torch.randint(70, (3, 12), generator=torch.Generator().manual_seed(1))
WHOLE = ("qkv", "out_proj", "fc", "proj")
PAPER = ("q", "v")

some_targets = st.one_of(
    st.lists(st.sampled_from(WHOLE), min_size=1, unique=True),
    st.lists(st.sampled_from(["q", "k", "v", *WHOLE[1:]]), min_size=1, unique=True),
).map(tuple)


def plain(**changes: Any) -> GPTModel:
    torch.manual_seed(0)
    return GPTModel(GPTConfig(**{**TINY.to_dict(), **changes}))


def tuned(model: GPTModel, config: LoRAConfig) -> GPTModel:
    """With LoRA that has left its start: the change of each target is as large as its weight."""
    torch.manual_seed(1)
    add_lora(model, config)
    for name, parameter in model.named_parameters():
        if is_lora_parameter(name):
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def lora_names(model: GPTModel) -> set[str]:
    return set(filter(is_lora_parameter, model.state_dict()))


def by_hand(state: dict[str, Tensor], config: LoRAConfig, layer: str) -> Tensor:
    """W + alpha / rank B A of one layer, part by part, as equation 3 has it."""
    weight, a, b = (state[f"{layer}.{name}"] for name in ("weight", "lora_A", "lora_B"))
    r, expected = config.rank, weight.clone()
    if layer.endswith("qkv") and "qkv" not in config.targets:
        parts, size = [p for p in ("q", "k", "v") if p in config.targets], len(weight) // 3
        rows = [slice(size * "qkv".index(p), size * ("qkv".index(p) + 1)) for p in parts]
    else:
        rows, size = [slice(None)], len(weight)
    for i, part in enumerate(rows):
        change = b[i * size : (i + 1) * size] @ a[i * r : (i + 1) * r]
        expected[part] += config.alpha / r * change
    return expected


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("targets", [WHOLE, PAPER, ("k", "fc")], ids=str)
def test_the_model_answers_as_before_until_it_is_trained(
    targets: tuple[str, ...], dropout: float
) -> None:
    model = plain()
    before = model(IDS)
    after = add_lora(model, LoRAConfig(rank=4, dropout=dropout, targets=targets))(IDS)
    assert torch.equal(before, after)


def test_the_draws_of_the_models_own_dropout_stay_the_same() -> None:
    model = plain(drop_rate=0.2)
    torch.manual_seed(5)
    before = model(IDS)
    add_lora(model, LoRAConfig(rank=4))
    torch.manual_seed(5)
    assert torch.equal(model(IDS), before)


@pytest.mark.parametrize("recompute", [False, True])
def test_only_a_and_b_have_gradients(recompute: bool) -> None:
    model = add_lora(plain(activation_checkpointing=recompute), LoRAConfig(rank=4))
    model.loss_sum(IDS, IDS).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == is_lora_parameter(name) == parameter.requires_grad
    # B is at zero, so that the first step moves it alone.
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all(bool(g.any()) == name.endswith("lora_B") for name, g in grads.items())


@pytest.mark.parametrize("targets", [WHOLE, PAPER], ids=str)
def test_training_moves_the_answers_and_no_weight_of_the_model(targets: tuple[str, ...]) -> None:
    model = plain()
    with torch.no_grad():
        model.tok_emb.weight *= 20  # the head is frozen: let it tell tokens apart
    start = copy.deepcopy(model.state_dict())
    add_lora(model, LoRAConfig(rank=4, targets=targets))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model.loss_sum(IDS, IDS.flip(1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    state = model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in start.items())
    assert set(state) - set(start) == lora_names(model)


@settings(max_examples=40)
@given(rank=st.integers(1, 16), alpha=st.floats(0.5, 64), targets=some_targets)
def test_merged_weights_are_those_of_the_equation_and_answer_the_same(
    rank: int, alpha: float, targets: tuple[str, ...]
) -> None:
    config = LoRAConfig(rank=rank, alpha=alpha, targets=targets)
    model = tuned(plain().double(), config)  # sums in another order then agree to the last digits
    state, names = copy.deepcopy(model.state_dict()), list(plain().state_dict())
    with torch.no_grad():
        expected = model(IDS)
        assert merge_lora(model) is model
        torch.testing.assert_close(model(IDS), expected, atol=1e-12, rtol=1e-10)
    assert list(model.state_dict()) == names
    assert {type(m) for m in model.modules() if isinstance(m, nn.Linear)} == {nn.Linear}
    changed = {name.rpartition(".")[0] for name in state if is_lora_parameter(name)}
    for name, weight in model.state_dict().items():
        layer = name.rpartition(".")[0]
        if name.endswith("weight") and layer in changed:
            wanted = by_hand(state, config, layer)
            torch.testing.assert_close(weight, wanted, atol=1e-14, rtol=1e-12)
        else:
            assert torch.equal(weight, state[name])


@pytest.mark.parametrize("targets", [WHOLE, PAPER], ids=str)
def test_merging_costs_no_precision(targets: tuple[str, ...]) -> None:
    model = tuned(plain(), LoRAConfig(targets=targets))
    with torch.no_grad():
        expected = model(IDS)
        torch.testing.assert_close(merge_lora(model)(IDS), expected, atol=1e-5, rtol=0)


def test_a_query_and_value_change_leaves_the_keys_alone() -> None:
    model = plain()
    before = model.trf_blocks[0].att.qkv.weight.clone()
    merge_lora(tuned(model, LoRAConfig(rank=2, targets=PAPER)))
    same = (model.trf_blocks[0].att.qkv.weight == before).all(dim=1).view(3, 16)
    assert same.all(dim=1).tolist() == [False, True, False]
    assert same.any(dim=1).tolist() == [False, True, False]


def test_the_order_of_parts_means_nothing() -> None:
    models = [tuned(plain(), LoRAConfig(rank=2, targets=t)) for t in (("q", "v"), ("v", "q"))]
    with torch.no_grad():
        assert torch.equal(models[0](IDS), models[1](IDS))


def test_merging_without_lora_changes_nothing() -> None:
    model = plain()
    layer, weight = model.trf_blocks[0].ff.fc, model.trf_blocks[0].ff.fc.weight
    merge_lora(model)
    assert model.trf_blocks[0].ff.fc is layer and layer.weight is weight
    assert all(p.requires_grad for p in model.parameters())


def test_merging_leaves_shared_weights_alone() -> None:
    """Weights may be mapped from a file, or be another model's."""
    state = plain().state_dict()
    kept = copy.deepcopy(state)
    model = plain()
    model.load_state_dict(state, assign=True)
    merge_lora(tuned(model, LoRAConfig(rank=4)))
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_16_bit_weights_are_merged_in_32_bits() -> None:
    config = LoRAConfig(rank=16, alpha=5)
    model = tuned(plain(), config).bfloat16()
    state = {name: t.float() for name, t in model.state_dict().items()}
    merge_lora(model)
    merged = model.trf_blocks[1].ff.proj.weight
    expected = by_hand(state, config, "trf_blocks.1.ff.proj")
    assert merged.dtype == torch.bfloat16
    # One rounding, of the sum; an ulp more where the sums differ in their last bit.
    ulps = (merged.float() - expected).abs() / (expected.abs() * 2**-8)
    assert ulps.max() <= 1.01


def test_dropout_hides_inputs_of_a_alone_and_follows_the_seed() -> None:
    model = tuned(plain(), LoRAConfig(rank=4, dropout=0.5)).train()
    answers = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        answers.append(model(IDS))
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(IDS), model(IDS))
        layer = model.trf_blocks[0].ff.fc
        x, n = torch.randn(16), 4000
        mean = layer.train()(x.expand(n, 16)).mean(dim=0)
        torch.testing.assert_close(mean, layer.eval()(x), atol=0.1, rtol=0)


def test_a_model_in_evaluation_stays_there() -> None:
    model = add_lora(plain().eval(), LoRAConfig(rank=4, dropout=0.5))
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_by_itself_freezes_and_keeps_the_layer_it_is_built_on(bias: bool) -> None:
    torch.manual_seed(0)
    base = nn.Linear(6, 9, bias=bias)
    names = [name for name, _ in base.named_parameters()]
    layer = LoRALinear(base, LoRAConfig(rank=2, alpha=4), parts=(False, False, True))
    trained = [name for name, p in layer.named_parameters() if p.requires_grad]
    assert trained == ["lora_A", "lora_B"] and layer.weight is base.weight
    x = torch.randn(2, 5, 6)
    nn.init.ones_(layer.lora_B)
    expected = base(x)
    expected[..., 6:] += 2 * (x @ layer.lora_A.T).sum(dim=-1, keepdim=True)
    torch.testing.assert_close(layer(x), expected)
    merged = layer.merged()
    assert [name for name, _ in merged.named_parameters()] == names
    torch.testing.assert_close(merged(x), expected)


@pytest.mark.parametrize("targets", [WHOLE, PAPER], ids=str)
def test_the_cache_gives_what_the_whole_sequence_gives(targets: tuple[str, ...]) -> None:
    model = tuned(plain(), LoRAConfig(rank=4, targets=targets))
    cache = KVCache(model.cfg, 12)
    with torch.inference_mode():
        parts = [model(part, cache=cache) for part in IDS.split((5, 1, 6), dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(IDS), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("targets", [WHOLE, PAPER], ids=str)
def test_autocast_trains_in_16_bits(targets: tuple[str, ...]) -> None:
    model = tuned(plain(), LoRAConfig(rank=4, targets=targets)).train()
    exact = model.loss_sum(IDS, IDS)
    exact.backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        assert model.trf_blocks[0].att.qkv(torch.randn(2, 16)).dtype == torch.bfloat16
        loss = model.loss_sum(IDS, IDS)
    loss.backward()
    torch.testing.assert_close(loss, exact, atol=0, rtol=1e-2)
    for name, grad in wanted.items():
        got = model.get_parameter(name).grad
        assert got is not None and got.dtype == torch.float32
        assert (got - grad).norm() < 5e-2 * grad.norm(), name


def test_recomputing_activations_changes_no_gradient() -> None:
    grads = []
    for on in (False, True):
        model = plain(activation_checkpointing=on, drop_rate=0.1)
        tuned(model, LoRAConfig(rank=4, dropout=0.3)).train()
        torch.manual_seed(2)
        model.loss_sum(IDS, IDS).backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_a_block_compiles_to_one_graph_before_and_after_merging() -> None:
    torch.compiler.reset()  # of what other tests have compiled
    model = tuned(plain(), LoRAConfig(rank=4, targets=("q", "v", "fc")))
    with torch.no_grad():
        expected = model(IDS)
        model.compile_blocks(backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(model(IDS), expected)
        torch.testing.assert_close(merge_lora(model)(IDS), expected, atol=1e-5, rtol=1e-5)


def test_a_copy_is_its_own() -> None:
    model = tuned(plain(), LoRAConfig(rank=4, targets=PAPER))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(IDS)
        assert torch.equal(twin(IDS), expected)
        twin.trf_blocks[0].att.qkv.lora_B.zero_()
        assert torch.equal(model(IDS), expected) and not torch.equal(twin(IDS), expected)


@pytest.mark.parametrize("targets", [WHOLE, PAPER], ids=str)
def test_a_whole_checkpoint_goes_onto_the_meta_device(targets: tuple[str, ...]) -> None:
    config = LoRAConfig(rank=4, targets=targets)
    model = tuned(plain(), config)
    with torch.device("meta"):
        opened = add_lora(GPTModel(TINY), config)
    assert all(p.is_meta for p in opened.parameters())
    opened.load_state_dict(model.state_dict(), assign=True)
    assert all(p.requires_grad == is_lora_parameter(n) for n, p in opened.named_parameters())
    with torch.no_grad():
        expected = model(IDS)
        assert torch.equal(opened.eval()(IDS), expected)
        torch.testing.assert_close(merge_lora(opened)(IDS), expected, atol=1e-5, rtol=1e-5)


def test_lora_has_the_type_of_the_weights() -> None:
    model = add_lora(plain().double(), LoRAConfig(rank=4))
    assert {p.dtype for p in model.parameters()} == {torch.float64}


@pytest.mark.parametrize("name", ["lora_A", "x.lora_B", "model.trf_blocks.0.ff.fc.lora_A"])
def test_its_parameters_are_known_by_name(name: str) -> None:
    assert is_lora_parameter(name)
    assert not is_lora_parameter(name + ".weight") and not is_lora_parameter("no_" + name[-6:])


WRONG = [
    ({"rank": 0}, r"lora\.rank must be a whole number from 1 on, got 0"),
    ({"rank": 2.0}, r"lora\.rank .* got 2\.0"),
    ({"rank": True}, r"lora\.rank .* got True"),
    ({"rank": "8"}, r"lora\.rank .* got '8'"),
    ({"alpha": 0}, r"lora\.alpha must be a number above 0, got 0"),
    ({"alpha": float("nan")}, r"lora\.alpha .* got nan"),
    ({"alpha": float("inf")}, r"lora\.alpha .* got inf"),
    ({"alpha": "16"}, r"lora\.alpha .* got '16'"),
    ({"dropout": 1.0}, r"lora\.dropout must be in \[0, 1\), got 1\.0"),
    ({"dropout": -0.1}, r"lora\.dropout .* got -0\.1"),
    ({"dropout": None}, r"lora\.dropout .* got None"),
    ({"targets": []}, r"lora\.targets must be a list of layers, got \(\)"),
    ({"targets": "qkv"}, r"lora\.targets must be a list of layers, got 'qkv'"),
    ({"targets": ["query"]}, r"lora\.targets has 'query'; it can have qkv, out_proj, .*, v"),
    ({"targets": [["q"]]}, r"lora\.targets has \['q'\]"),
    ({"targets": ["fc", "q", "fc"]}, r"lora\.targets has 'fc' twice"),
    ({"targets": ["qkv", "v"]}, r"lora\.targets has qkv and its part v"),
    ({"r": 8}, r"lora\.r does not exist; there are rank, alpha, dropout, targets"),
]


@pytest.mark.parametrize(
    ("node", "message"), WRONG, ids=lambda x: str(x) if "lora" not in x else ""
)
def test_a_wrong_value_is_refused_by_its_key(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRAConfig.from_dict(node)


@settings(max_examples=30)
@given(rank=st.integers(1, 99), alpha=st.floats(0.5, 64), targets=some_targets)
def test_a_config_survives_json(rank: int, alpha: float, targets: tuple[str, ...]) -> None:
    config = LoRAConfig(rank=rank, alpha=alpha, dropout=0.1, targets=targets)
    assert LoRAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert LoRAConfig.from_dict({}) == LoRAConfig()


def test_a_rank_that_no_target_can_have_is_refused_and_nothing_changes() -> None:
    model = plain()
    with pytest.raises(
        ValueError, match=r"lora\.rank must be at most 16 for trf_blocks\.0\..*, got 17"
    ):
        add_lora(model, LoRAConfig(rank=17, targets=("fc", "qkv")))
    assert not lora_names(model) and all(p.requires_grad for p in model.parameters())


def test_a_model_gets_lora_once() -> None:
    model = add_lora(plain(), LoRAConfig(rank=4, targets=("q",)))
    with pytest.raises(ValueError, match="has LoRA already: merge_lora it first"):
        add_lora(model, LoRAConfig(rank=4, targets=("fc",)))
    add_lora(merge_lora(model), LoRAConfig(rank=4, targets=("fc",)))
    assert len(lora_names(model)) == 4


def test_layers_of_another_kind_are_refused() -> None:
    model = plain()
    model.trf_blocks[1].ff.fc = nn.Identity()
    with pytest.raises(ValueError, match=r"trf_blocks\.1\.ff\.fc is a Identity"):
        add_lora(model, LoRAConfig(rank=4))
    assert not lora_names(model) and all(p.requires_grad for p in model.parameters())
