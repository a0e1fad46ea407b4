"""What is allowed under a key, and what is said when a value is not."""

# ruff: noqa: RUF009  # key() describes a field; its default is never read

from dataclasses import dataclass
from typing import Any

import pytest

from gptlit.cli.checking import ELSEWHERE, check, key, nearest, unknown_key
from gptlit.cli.mistakes import config_keys
from gptlit.errors import UserError


@dataclass
class Inmost:
    depth: int = key("in cm", ge=1)
    width: int = key("in cm", ge=1)


@dataclass
class Inner:
    size: int = key("edge in cm", ge=1, le=9)
    more: Inmost | None = key("what it holds")


@dataclass
class Node:
    """One key of each kind."""

    whole: int = key("count", ge=0)
    number: float = key("rate", gt=0, lt=1)
    text: str = key("title")
    choice: str = key("colour", choices=("red", "green"))
    flag: bool = key("switch")
    optional: int | None = key("limit", ge=1)
    either: int | str = key("devices", ge=1, choices=("auto",))
    one_or_more: str | list[str] = key("names")
    note: str = key("what to say", may_be_empty=True)
    numbers: list[float] = key("moments", ge=0, lt=1)
    anything: dict[str, Any] = key("options")
    inner: Inner = key("a group")


GOOD: dict[str, Any] = {
    "whole": 3,
    "number": 0.5,
    "text": "a",
    "choice": "red",
    "flag": True,
    "optional": None,
    "either": "auto",
    "one_or_more": "a",
    "note": "b",
    "numbers": [0.5, 0],
    "anything": {"x": 1},
    "inner": {"size": 2, "more": {"depth": 1, "width": 2}},
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"whole": 0},
        {"optional": 1},
        {"either": 4},
        {"one_or_more": ["a", "b"]},
        {"one_or_more": []},
        {"note": ""},
        {"numbers": []},
        {"anything": {}},
        {"inner": {"size": 9, "more": None}},
    ],
    ids=str,
)
def test_what_fits_passes(change: dict[str, Any]) -> None:
    check({**GOOD, **change}, Node)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"whole": -1}, "whole=-1: must be >= 0 (count)"),
        ({"whole": 1.0}, "whole=1.0: expected a whole number (count)"),
        ({"whole": True}, "whole=true: expected a whole number (count)"),
        ({"whole": "3"}, "whole=3: expected a whole number (count)"),
        ({"whole": None}, "whole=null: expected a whole number (count)"),
        ({"number": 0}, "number=0: must be > 0 and < 1 (rate)"),
        ({"number": 1.0}, "number=1.0: must be > 0 and < 1 (rate)"),
        ({"number": float("nan")}, "number=nan: must be > 0 and < 1 (rate)"),
        ({"number": "fast"}, "number=fast: expected a number (rate)"),
        ({"text": ""}, "text is empty: give a value (title)"),
        ({"one_or_more": ["a", ""]}, "one_or_more is empty: give a value (names)"),
        ({"text": 3}, "text=3: expected text (title)"),
        ({"choice": "gren"}, "choice=gren: allowed are red, green; did you mean green?"),
        ({"choice": "x"}, "choice=x: allowed are red, green"),
        ({"flag": 1}, "flag=1: expected true or false (switch)"),
        ({"flag": "true"}, "flag=true: expected true or false (switch)"),
        ({"optional": 0}, "optional=0: must be >= 1 (limit)"),
        ({"optional": "no"}, "optional=no: expected a whole number or null (limit)"),
        ({"either": 0}, "either=0: must be >= 1 (devices)"),
        ({"either": "all"}, "either=all: allowed are auto"),
        ({"one_or_more": ["a", 1]}, 'one_or_more=["a", 1]: expected text or a list of texts (na'),
        ({"numbers": [0.5, 1.0]}, "numbers=1.0: must be >= 0 and < 1 (moments)"),
        ({"numbers": 0.5}, "numbers=0.5: expected a list of numbers (moments)"),
        ({"anything": [1]}, "anything=[1]: expected a group of keys (options)"),
        ({"inner": 3}, "inner=3 is a group"),
        ({"inner": None}, "inner=null is a group"),
        (
            {"inner": {"size": 1, "more": 3}},
            "inner.more=3: it has keys of its own, which are given instead: inner.more.depth=...,",
        ),
        ({"inner": {"size": 1, "more": {"depth": 0, "width": 1}}}, "inner.more.depth=0: must be"),
        ({"inner": {"size": 10}}, "inner.size=10: must be >= 1 and <= 9 (edge in cm)"),
        ({"inner": {}}, "inner.size is missing (edge in cm)"),
        ({"inner": {"size": 1, "sise": 1}}, "unknown key 'inner.sise': did you mean 'inner.size'?"),
        ({"wole": 3}, "unknown key 'wole': did you mean 'whole'?"),
        ({"zzzzzzzz": 3}, "unknown key 'zzzzzzzz'; known are anything, choice, "),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_with_what_would(change: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        check({**GOOD, **change}, Node)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", GOOD)
def test_every_key_must_be_there(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name} is missing \(.+\)$"):
        check({k: v for k, v in GOOD.items() if k != name}, Node)


def test_of_a_keys_last_name_the_whole_name_is_told() -> None:
    known = ["model", "optimizer.lr", "data.batch_size", "task.answers.batch_size", "model.name"]
    assert unknown_key("lr", known) == "unknown key 'lr': did you mean 'optimizer.lr'?"
    several = "did you mean 'data.batch_size' or 'task.answers.batch_size'?"
    assert unknown_key("batch_size", known).endswith(several)
    assert "did you mean" not in unknown_key("kind", [f"group_{name}.kind" for name in "abcdef"])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("learning_rate", "'optimizer.lr'"),
        ("trainer.gradient_accumulation_steps", "'trainer.accumulate_grad_batches'"),
        ("model.n_embd", "'model.emb_dim'"),
        ("dropout", "'model.drop_rate' or 'task.lora.dropout'"),
        ("model_name_or_path", "'weights'"),
    ],
)
def test_a_key_may_be_given_by_the_name_that_it_has_elsewhere(theirs: str, ours: str) -> None:
    assert unknown_key(theirs, config_keys("train")).endswith(f": did you mean {ours}?")


def test_names_from_elsewhere_stand_for_names_that_exist() -> None:
    keys = {key for command in ("train", "generate") for key in config_keys(command)}
    assert ELSEWHERE.keys() - keys == {"cuda", "default"}, "which are options"
    assert not set(" ".join(ELSEWHERE.values()).split()) & keys


def test_a_gpu_is_cuda() -> None:
    assert nearest("GPU", ["cpu", "cuda"]) == "cuda" and nearest("gpu", ["cpu"]) is None


def test_a_key_is_not_its_own_nearest_match() -> None:
    assert "did you mean 'model.name'" in unknown_key("model.nam", ["model.name", "model.nam"])
    assert "did you mean" not in unknown_key("model", ["model", "prompt"])
