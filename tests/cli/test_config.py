"""Every option of every group composes and passes the checks."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gptlit.cli import schema_data, train
from gptlit.cli.launchers import PLUGINS
from gptlit.errors import UserError
from gptlit.options import conf_dir, read_option

CONF = conf_dir()
COMMANDS = sorted(path.stem for path in CONF.glob("*.yaml"))


def groups(command: str) -> list[str]:
    main: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{command}.yaml"))
    names = [name for entry in main["defaults"] if isinstance(entry, dict) for name in entry]
    return [name for name in names if (CONF / name).is_dir()]


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


CASES = [
    pytest.param(command, f"{group}={option}", id=f"{command} {group}={option}")
    for command in COMMANDS
    for group in groups(command)
    for option in options(group)
]


def composed(command: str, *overrides: str) -> dict[str, Any]:
    """The checked config; where the user must choose, any text."""
    typed = [_as_typed(arg) for arg in overrides]
    if command == "train":
        typed = train.with_implied(typed)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(command, overrides=typed)
    for name in OmegaConf.missing_keys(cfg):
        OmegaConf.update(cfg, name, f"given-{name}")
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    importlib.import_module(f"gptlit.cli.{command}").check_config(config)
    return config


def _as_typed(arg: str) -> str:
    name, _, value = arg.partition("=")
    return f"{name}='{value}'" if (CONF / name).is_dir() else arg


@pytest.mark.parametrize("command", COMMANDS)
def test_the_defaults_are_allowed(command: str) -> None:
    composed(command)


@pytest.mark.parametrize(("command", "choice"), CASES)
def test_every_option_is_allowed(
    command: str, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    if choice in PLUGINS:
        pytest.importorskip(f"hydra_plugins.{PLUGINS[choice][0]}")
    composed(command, choice, *_task_for(choice))


def _task_for(choice: str) -> list[str]:
    """What has to be chosen with an option: of data, the task that reads it."""
    group, _, option = choice.partition("=")
    if group != "data":
        return []
    kind = schema_data.DATA[read_option("data", option)["_target_"]]
    return [f"task={kind.task}"]


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_file_can_be_chosen(path: Path) -> None:
    group = str(path.parent.relative_to(CONF))
    assert group == "." or any(group in groups(command) for command in COMMANDS)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_can_be_tried_out_quickly(experiment: str) -> None:
    config = composed("train", f"experiment={experiment}", "debug=true")
    assert config["debug"] is True
    assert config["trainer"]["max_steps"] == 2


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["task=pretrain", "optimizer.lr=1"], {"optimizer.lr": 1}),
        (["optimizer.lr=1", "task=pretrain"], {"optimizer.lr": 1}),
        (["experiment=the-verdict", "model=gpt2-nano"], {"model.name": "gpt2-nano"}),
        (["experiment=the-verdict", "data=pydocs"], {"data.name": "pydocs"}),
        (["experiment=the-verdict", "scheduler=linear"], {"scheduler.name": "linear"}),
        (["experiment=the-verdict", "optimizer.lr=7"], {"optimizer.lr": 7}),
        (["experiment=the-verdict", "model.context_length=9"], {"model.context_length": 9}),
        (["experiment=shakespeare-char", "tokenizer=gpt2"], {"tokenizer.name": "gpt2"}),
        (["model=gpt2-nano", "tokenizer=gpt2"], {"tokenizer.name": "gpt2"}),
        (["debug=true", "trainer.max_steps=5"], {"trainer.max_steps": 5}),
        (["scheduler=linear", "scheduler.warmup_steps=0"], {"scheduler.warmup_steps": 0}),
        (["precision=fp32", "device=cpu"], {"precision.name": "fp32", "device.name": "cpu"}),
        (["seed=0"], {"seed": 0}),
    ],
    ids=str,
)
def test_the_command_line_wins(overrides: list[str], expected: dict[str, Any]) -> None:
    config = OmegaConf.create(composed("train", *overrides))
    assert {name: OmegaConf.select(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"task.name": "pretrain", "model.name": "gpt2-nano", "data.name": "pydocs"}),
        (["model=gpt2-nano"], {"tokenizer.name": "byte"}),
        (["model=gpt2-small"], {"tokenizer.name": "gpt2", "model.emb_dim": 768}),
        (
            ["experiment=the-verdict"],
            {"model.name": "gpt2-small", "model.context_length": 256, "optimizer.lr": 4e-4},
        ),
        (["trainer=ddp"], {"trainer.strategy": "ddp", "trainer.accumulate_grad_batches": 1}),
    ],
    ids=str,
)
def test_defaults_follow_from_choices(overrides: list[str], expected: dict[str, Any]) -> None:
    config = OmegaConf.create(composed("train", *overrides))
    assert {name: OmegaConf.select(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("trainer.max_steps=0", "trainer.max_steps=0 trains nothing"),
        ("trainer.max_steps=-1", "the run has no end"),
        ("trainer.limit_val_batches=1.5", "trainer.limit_val_batches=1.5: give a share"),
        (
            "trainer.early_stopping=2 trainer.limit_val_batches=0",
            "trainer.early_stopping=2 needs validations, of which trainer.limit_val_batches=0",
        ),
        (
            "scheduler.warmup_steps=1.5",
            "scheduler.warmup_steps=1.5: give a share of the run",
        ),
        (
            "scheduler.warmup_steps=1.0",
            "scheduler.warmup_steps=1.0: give a share of the run",
        ),
        ("optimizer.betas=[0.9]", r"optimizer.betas=\[0.9\]: expected two numbers"),
        ("seed=4294967296", "seed=4294967296: must be >= 0"),
        ("+data.foo=1", "unknown key 'data.foo'"),
        ("task.sample.top_k=-1", "task.sample.top_k=-1: must be >= 0"),
        ("~data", "data is missing"),
    ],
)
def test_what_goes_wrong_later_is_refused_now(overrides: str, line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}"):
        composed("train", *overrides.split())
