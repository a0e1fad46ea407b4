"""A run goes on as what it was, or not at all."""

import copy
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gptlit.data.instructions import InstructionDataModule
from gptlit.errors import UserError
from gptlit.options import read_option
from gptlit.tasks.pretrain import PretrainTask
from gptlit.tokenizer import get_tokenizer
from gptlit.training.setup import (
    _check_devices,
    build_task,
    check_evaluation,
    check_same_run,
    check_val_share,
    count_steps,
    make_trainer,
    optimizer_factory,
    plan_lr,
    told_of_warmup,
)
from tests.inference.classifiers import SHAPE, make_task

CLASSIFIER: list[tuple[str, str, Any]] = [
    ("labels", "settings", ["ham", "eggs"]),
    ("task.trainable", "settings", "all"),
    ("task.pool", "settings", "mean"),
    ("task.causal", "settings", False),
    *(
        (f"model.{name}", "model", value)
        for name, value in {
            "context_length": 20,
            "emb_dim": 64,
            "n_heads": 2,
            "n_layers": 1,
            "qkv_bias": False,
            "tied_head": False,
        }.items()
    ),
]


@pytest.mark.parametrize(("key", "where", "other"), CLASSIFIER, ids=str)
def test_what_a_checkpoint_must_have_in_common_with_its_run(
    key: str, where: str, other: Any
) -> None:
    task = make_task()
    saved = copy.deepcopy(dict(task.hparams))
    saved["model"] |= {name: task.model.cfg.__dict__[name] for name in ("qkv_bias", "tied_head")}
    task.hparams["model"] = dict(saved["model"])
    content = {"hyper_parameters": saved}
    check_same_run(Path("a.ckpt"), content, task)
    saved[where][key.partition(".")[2] or key] = other
    with pytest.raises(UserError, match=rf"resume=a\.ckpt: the run has {key}=.*leave it so"):
        check_same_run(Path("a.ckpt"), content, task)


@pytest.mark.parametrize(("key", "other"), [("task", "instruction"), ("tokenizer", "gpt2")])
def test_another_task_or_tokenizer_is_refused(key: str, other: str) -> None:
    task = PretrainTask(model=SHAPE, tokenizer="byte")
    saved = dict(task.hparams)
    check_same_run(Path("a.ckpt"), {"hyper_parameters": saved}, task)
    with pytest.raises(UserError, match=f"the run has {key}={other}, not "):
        check_same_run(Path("a.ckpt"), {"hyper_parameters": saved | {key: other}}, task)


def test_the_adapter_counts_where_there_is_one() -> None:
    task = make_task(trainable="lora")
    saved = copy.deepcopy(dict(task.hparams))
    saved["settings"]["lora"]["rank"] = 5
    with pytest.raises(UserError, match=r"the run has task\.lora=.*'rank': 5"):
        check_same_run(Path("a.ckpt"), {"hyper_parameters": saved}, task)
    frozen = make_task(trainable="head")
    saved["settings"]["trainable"] = "head"
    check_same_run(Path("a.ckpt"), {"hyper_parameters": saved}, frozen)
    with pytest.raises(UserError, match=r"the run has task\.adapter_only=true, not false"):
        check_same_run(Path("a.ckpt"), {"hyper_parameters": saved, "base": {}}, frozen)


def test_a_task_that_is_elsewhere_has_its_settings_alone() -> None:
    node = {"name": "pretrain", "_target_": "gptlit.tasks.pretrain.PretrainTask", "sample": None}
    config = {
        "task": {**node, "skip": 4},
        "model": {"name": "tiny", **{n: v for n, v in SHAPE.items() if n != "vocab_size"}},
        "weights": read_option("weights", "none"),
        "seed": 0,
    }
    task, _ = build_task(config, get_tokenizer("byte"), {})
    assert isinstance(task, PretrainTask) and task.settings == {"skip": 4}
    config["task"]["_target_"] = "gptlit.tasks.pretrain.Other"
    with pytest.raises(UserError, match=r"pretrain.Other is no Task named 'pretrain'"):
        build_task(config, get_tokenizer("byte"), {})


@pytest.mark.parametrize(
    ("warmup", "debug", "told"), [(9, False, False), (10, False, True), (10, True, False)]
)
def test_a_warm_up_that_lasts_to_the_end_is_told(warmup: int, debug: bool, told: bool) -> None:
    schedule = {"name": "cosine", "warmup_steps": warmup, "total_steps": None, "min_lr_ratio": 0.1}
    config = {"scheduler": schedule, "debug": debug}
    line = "\nwarning: all 10 steps are warm-up (scheduler.warmup_steps=10): the learning rate"
    assert told_of_warmup(config, 10).startswith(line) if told else not told_of_warmup(config, 10)


@pytest.mark.parametrize(
    ("warmup", "end", "steps"),
    [(7, None, 7), (0.05, None, 5), (0.0, None, 0), (0.05, 200, 10), (0.049, None, 5)],
)
def test_a_warm_up_is_a_number_of_steps_or_a_share(
    warmup: float, end: int | None, steps: int
) -> None:
    node = {"name": "cosine", "warmup_steps": warmup, "total_steps": end, "min_lr_ratio": 0.1}
    assert plan_lr(node, 100).warmup_steps == steps
    line = "all 4 steps are warm-up (scheduler.warmup_steps=0.05)"
    config = {"scheduler": node, "debug": False}
    assert (line in told_of_warmup(config, 4)) == (warmup == 0.05 and end == 200)


@pytest.mark.parametrize(
    ("name", "end", "told"),
    [("cosine", 9, True), ("linear", 9, True), ("cosine", 10, False), ("constant", 9, False)],
)
def test_a_decay_that_has_no_step_is_told(name: str, end: int, told: bool) -> None:
    schedule = {"name": name, "warmup_steps": 9, "total_steps": end, "min_lr_ratio": 0.1}
    line = told_of_warmup({"scheduler": schedule, "debug": False}, 99)
    assert ("the decay already at scheduler.total_steps=9: the learning rate jumps" in line) == told


@pytest.mark.parametrize(
    ("test_fraction", "val_fraction", "told"),
    [(0.1, 0.1, ""), (0.0, 0.1, ""), (0.05, 0.1, "1 test"), (0.1, 0.05, "1 validation")],
)
def test_splits_too_small_for_all_processes_are_refused_before_training(
    tmp_path: Path, test_fraction: float, val_fraction: float, told: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "a", "output": "b"}] * 20))
    data = InstructionDataModule(
        tokenizer=get_tokenizer("byte"),
        context_length=16,
        seed=0,
        prompt={"name": "x", "template": "{instruction}>"},
        batch_size=2,
        path=str(tmp_path / "a.json"),
        test_fraction=test_fraction,
        val_fraction=val_fraction,
    )
    data.setup("fit")
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(global_rank=0, world_size=2, strategy=strategy)
    line = f"there are {told} entries for 2 processes: use fewer"
    with pytest.raises(UserError, match=line) if told else nullcontext():
        check_evaluation(trainer, data)


def trainer_config(**settings: Any) -> dict[str, Any]:
    logger = {"csv": False, "tensorboard": False, "wandb": None, "mlflow": None}
    return {"trainer": read_option("trainer", "default") | settings, "logger": logger}


@pytest.mark.parametrize(
    ("device", "precision", "settings", "told"),
    [
        ("cuda", "fp32", {"devices": 3}, r"trainer\.devices=3: .*=cuda there are 2 here; use 2"),
        ("mps", "fp32", {"devices": 2}, r"trainer\.devices=2: .*=mps there are 1 here; use 1 at"),
        ("mps", "fp32", {"strategy": "ddp"}, "trainer=ddp .*device=mps is a single one: leave"),
        ("cuda", "fp16", {"strategy": "fsdp"}, "trainer=fsdp does not do precision=fp16: use"),
    ],
)
def test_what_the_machine_s_devices_cannot_do_is_refused(
    device: str,
    precision: str,
    settings: dict[str, Any],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=told):
        make_trainer(trainer_config(**settings), device, precision, tmp_path, None, [])


@pytest.mark.parametrize(
    ("strategy", "device", "precision", "devices"),
    [
        ("auto", "cuda", "fp16", 2),
        ("ddp", "cuda", "fp16", "auto"),
        ("fsdp", "cuda", "bf16", 2),
        ("fsdp", "cpu", "fp32", 9),
        ("auto", "mps", "fp32", 1),
    ],
)
def test_what_they_can_do_is_not(
    strategy: str,
    device: str,
    precision: str,
    devices: int | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    _check_devices(strategy, device, precision, devices, None)


def test_fp16_has_its_gradients_unscaled_before_the_step() -> None:
    optimizer = read_option("optimizer", "adamw")
    scheduler = read_option("scheduler", "cosine")
    for precision, fused in (("fp32", True), ("bf16", True), ("fp16", False)):
        config = {"optimizer": optimizer, "scheduler": {**scheduler, "total_steps": None}}
        factory = optimizer_factory(config, precision, 10)
        assert (factory.fused, factory.schedule.total_steps) == (fused, 10)
    config["scheduler"]["total_steps"] = 7
    assert optimizer_factory(config, "fp32", 10).schedule.total_steps == 7


class Batches:
    """Data with so many training and validation batches."""

    def __init__(self, n: int) -> None:
        self.n = n

    def train_batches(self, world_size: int) -> int:
        return self.n // world_size

    def val_dataloader(self) -> range:
        return range(self.n)


class Resumable(Batches):
    """Data of which all but the last batch of the second epoch has been read."""

    def batches_read(self, world_size: int) -> int:
        return 2 * self.train_batches(world_size) - 1


@pytest.mark.parametrize(
    ("data", "resumed_step", "expected"),
    [
        (Batches(13), None, (3, 0, 9)),
        (Batches(13), 7, (3, 1, 9)),
        (Resumable(13), None, (3, 0, 9)),
        (Resumable(13), 5, (3, 2, 5 + 9 - 5)),
        (Resumable(13), 20, (3, 2, 20 + 9 - 5)),  # steps of another size
        (Resumable(4), 3, (1, 0, 3 + 3 - 1)),
    ],
)
def test_epochs_are_counted_by_what_has_been_read(
    data: Batches, resumed_step: int | None, expected: tuple[int, int, int]
) -> None:
    settings = {"accumulate_grad_batches": 2, "max_epochs": 3, "max_steps": -1}
    found = count_steps(settings, data, 2, resumed_step)
    assert (found.epoch, found.place, found.total) == expected
    assert found.ends == {"trainer.max_epochs": expected[2]}


def test_a_run_ends_with_the_first_of_its_limits() -> None:
    settings = {"accumulate_grad_batches": 1, "max_epochs": None, "max_steps": 0}
    assert count_steps(settings, Batches(5), 1).ends == {"trainer.max_steps": 0}
    settings |= {"max_epochs": 1, "max_steps": 6}
    assert count_steps(settings, Batches(5), 1).total == 5
    assert count_steps(settings | {"max_steps": 4}, Batches(5), 1).total == 4
    more = count_steps(settings, Resumable(5), 1, 9)  # more has been read than is wanted
    assert more.ends == {"trainer.max_epochs": 9, "trainer.max_steps": 6}
    with pytest.raises(UserError, match=r"has 5 batches, .*accumulate_grad_batches=6; lower it"):
        count_steps(settings | {"accumulate_grad_batches": 6}, Batches(5), 1)


@pytest.mark.parametrize(
    ("share", "batches", "world_size", "cure"),
    [(0.33, 3, 1, "0.34"), (0.34, 3, 1, ""), (0.5, 3, 2, ""), (0.49, 3, 2, "0.5"), (0.9, 2, 2, "1")]
    + [(whole, 3, 2, "") for whole in (0, 0.0, 1.0, 1, 5)],
)
def test_a_share_of_less_than_one_validation_batch_is_refused(
    share: float, batches: int, world_size: int, cure: str
) -> None:
    settings = {"limit_val_batches": share}
    with pytest.raises(UserError, match=rf"give {cure}") if cure else nullcontext():
        check_val_share(settings, Batches(batches), world_size)


def test_processes_do_not_ask_each_other_for_signals_that_lightning_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(trainer_config(), "cpu", "fp32", tmp_path, None, [])
    asked = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_, **__: asked.append(True))
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    assert not asked
