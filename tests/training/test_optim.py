"""The course of the learning rate, and who decays."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gptlit.model import GPTConfig, GPTModel
from gptlit.training.optim import OptimizerFactory, Schedule, keep_options, parameter_groups

SHAPE = GPTConfig(vocab_size=30, context_length=8, emb_dim=16, n_heads=2, n_layers=2)


@pytest.mark.parametrize(
    ("kind", "step", "factor"),
    [
        ("cosine", 0, 1 / 11),
        ("cosine", 9, 10 / 11),
        ("cosine", 10, 1.0),
        ("cosine", 35, 0.6 + 0.4 * 0.5**0.5),  # a quarter of the way
        ("cosine", 60, 0.6),  # half way: the mean of 1 and 0.2
        ("cosine", 110, 0.2),
        ("cosine", 10_000, 0.2),
        ("linear", 0, 1 / 11),
        ("linear", 10, 1.0),
        ("linear", 35, 0.8),
        ("linear", 110, 0.2),
        ("linear", 10_000, 0.2),
        ("constant", 0, 1 / 11),
        ("constant", 10, 1.0),
        ("constant", 10_000, 1.0),
    ],
)
def test_the_schedule_passes_through_its_points(kind: str, step: int, factor: float) -> None:
    schedule = Schedule(kind, total_steps=110, warmup_steps=10, min_lr_ratio=0.2)
    assert schedule(step) == pytest.approx(factor)


@given(
    kind=st.sampled_from(["cosine", "linear", "constant"]),
    total=st.integers(1, 300),
    warmup=st.integers(0, 350),
    floor=st.floats(0, 1),
)
def test_it_rises_to_the_peak_then_never_rises_again(
    kind: str, total: int, warmup: int, floor: float
) -> None:
    schedule = Schedule(kind, total, warmup, floor)
    values = [schedule(step) for step in range(max(total, warmup) + 3)]
    assert values[warmup] == 1.0
    assert all(0 < a < b for a, b in pairwise(values[: warmup + 1]))
    after = values[warmup:]
    assert all(a >= b for a, b in pairwise(after))
    assert min(after) >= floor - 1e-12
    assert kind == "constant" or values[max(total, warmup + 1)] == pytest.approx(floor)


def test_a_course_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="scheduler=cosin: allowed are cosine, linear, constant"):
        Schedule("cosin", 10)


def test_every_trainable_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    model = GPTModel(SHAPE)
    for parameter in model.trf_blocks[0].parameters():
        parameter.requires_grad = False
    decayed, rest = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    grouped = [id(p) for group in (decayed, rest) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].rpartition(".")[2] for p in decayed["params"]} == {"weight"}
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] for p in rest["params"])
    assert not any("norm" in names[id(p)] for p in decayed["params"])


def test_a_tied_weight_is_updated_once() -> None:
    model = GPTModel(SHAPE)
    head = nn.Linear(SHAPE.emb_dim, SHAPE.padded_vocab_size, bias=False)
    head.weight = model.tok_emb.weight
    model.out_head = head
    grouped = [id(p) for group in parameter_groups(model, 0.1) for p in group["params"]]
    assert len(grouped) == len(set(grouped))


def factory(lr: float, weight_decay: float, total_steps: int) -> OptimizerFactory:
    return OptimizerFactory(lr, weight_decay, (0.9, 0.95), 1e-8, Schedule("linear", total_steps))


@pytest.mark.parametrize("fused", [True, False])
def test_the_optimizer_has_the_numbers_of_the_config(fused: bool) -> None:
    made = OptimizerFactory(0.3, 0.1, (0.8, 0.7), 1e-5, Schedule("constant", 10), fused=fused)
    given = {"lr": 0.3, "betas": (0.8, 0.7), "eps": 1e-5, "fused": fused}
    for group in made(nn.Linear(2, 2))["optimizer"].param_groups:
        assert {name: group[name] for name in given} == given


def test_after_a_resume_the_numbers_are_those_of_the_config() -> None:
    module = nn.Linear(2, 2)

    def make(made_by: OptimizerFactory, steps: int = 0) -> tuple[torch.optim.Optimizer, ...]:
        made = made_by(module)
        optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        module(torch.ones(2)).sum().backward()
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
        return optimizer, scheduler

    optimizer, scheduler = make(factory(1.0, 0.1, total_steps=10), steps=5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.55)
    longer, plan = make(factory(2.0, 0.3, total_steps=20))
    longer.load_state_dict(optimizer.state_dict())
    plan.load_state_dict(scheduler.state_dict())
    lr = 2.0 * (0.1 + 0.9 * 0.75)  # a quarter of the way
    for group, decay in zip(longer.param_groups, (0.3, 0.0), strict=True):
        assert group["lr"] == pytest.approx(lr)
        assert group["weight_decay"] == decay
    moments = [state["exp_avg"] for state in longer.state.values()]
    assert len(moments) == 2 and all(bool(m.any()) for m in moments)
    plan.step()
    assert longer.param_groups[0]["lr"] == pytest.approx(2.0 * (0.1 + 0.9 * 0.7))


@pytest.mark.parametrize(("saved", "own"), [(False, True), (True, False), (True, True)])
def test_step_counts_are_restored_to_where_the_optimizer_looks_for_them(
    saved: bool, own: bool
) -> None:
    """On the meta device in place of a GPU; only the CPU's own numbers can come from there."""
    module = nn.Linear(2, 2)
    before = torch.optim.AdamW(module.parameters(), fused=saved)
    module(torch.ones(2)).sum().backward()
    before.step()
    device = "meta" if own else "cpu"
    after = torch.optim.AdamW(nn.Linear(2, 2, device=device).parameters())
    after.register_load_state_dict_post_hook(partial(keep_options, [{"fused": own}]))
    after.load_state_dict(before.state_dict())
    steps = [state["step"] for state in after.state.values()]
    assert [(step.device.type, step.dtype) for step in steps] == 2 * [(device, torch.float32)]
    assert own or all(int(step) == 1 for step in steps)


def test_resuming_with_the_same_config_changes_no_bit() -> None:
    def run(cut: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        module = nn.Linear(4, 4)
        made = factory(0.1, 0.1, total_steps=10)(module)
        for step in range(8):
            if step == cut:
                saved = [part.state_dict() for part in (made["optimizer"], scheduler(made))]
                made = factory(0.1, 0.1, total_steps=10)(module)
                made["optimizer"].load_state_dict(saved[0])
                scheduler(made).load_state_dict(saved[1])
            module.zero_grad()
            (module(torch.full((4,), step + 1.0)) ** 2).sum().backward()
            made["optimizer"].step()
            scheduler(made).step()
        return module.weight.detach().clone()

    def scheduler(made: dict) -> torch.optim.lr_scheduler.LRScheduler:
        return made["lr_scheduler"]["scheduler"]

    assert torch.equal(run(None), run(5))
