"""`--help` shows what can be chosen and set, as it would be with what else is typed."""

from pathlib import Path

import pytest
import yaml
from commands import run

COMMANDS = ("train", "generate", "classify", "evaluate", "scripts/export", "scripts/prepare_corpus")


@pytest.mark.parametrize("script", COMMANDS)
def test_every_command_explains_itself(tmp_path: Path, script: str) -> None:
    shown = run(script, "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    about, keys = shown.stdout.split("== Keys, and their values now ==\n")
    config, examples = keys.split("Examples:\n")
    assert f"python {script}.py" in about
    assert f"python {script}.py" in examples
    assert yaml.safe_load(config)["debug"] is False
    assert "$" not in about
    assert list(tmp_path.iterdir()) == []


def test_groups_and_values_are_those_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text("# Mine.\nname: own\n")
    args = ("--config-dir=mine", "--resolve", "model=own", "optimizer.lr=0.5", "task=instruction")
    shown = run("train", "--help", *args, cwd=tmp_path)
    groups = shown.stdout.partition("options ==\n")[2].partition("\n\n")[0].splitlines()
    assert "model: gpt2-large, gpt2-medium, gpt2-nano, gpt2-small, gpt2-xl, own" in groups
    assert not any(line.startswith("judge") for line in groups)  # is a group of evaluate.py
    assert "optimizer: adamw" in groups and groups == sorted(groups)
    config = shown.stdout.partition("values now ==\n")[2].partition("Examples:")[0]
    values = yaml.safe_load(config)
    assert (values["model"]["name"], values["optimizer"]["lr"]) == ("own", 0.5)
    assert values["data"]["prompt"]["name"] == "alpaca"  # an interpolation


def test_a_mistake_beside_it_is_said_alone(tmp_path: Path) -> None:
    shown = run("train", "--help", "modle=x", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == "error: unknown key 'modle': did you mean 'model'?\n"
