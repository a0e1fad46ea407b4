"""A resumed run notices other data than its checkpoint was trained on, whatever their kind."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from gptlit.data.corpus import TextFiles
from gptlit.data.instructions import InstructionDataModule
from gptlit.data.labelled import LabelledDataModule
from gptlit.data.module import ResumableDataModule
from gptlit.data.prepared import prepare_corpus
from gptlit.data.text import TextDataModule
from gptlit.errors import UserError
from gptlit.tokenizer import get_tokenizer

BYTES = get_tokenizer("byte")
COMMON: dict[str, Any] = {"tokenizer": BYTES, "context_length": 64, "batch_size": 2}
Make = Callable[..., ResumableDataModule]


def text(folder: Path, word: str, **more: Any) -> TextDataModule:
    path = folder / "text.txt"
    path.write_text(f"A text about {word}. " * 60)
    return TextDataModule(**{**COMMON, "seed": 1, "path": str(path), "cache_dir": folder, **more})


def prepared(folder: Path, word: str, **more: Any) -> TextDataModule:
    text(folder, word)
    out = folder / word
    if not out.exists():
        sources = [TextFiles(str(folder / "text.txt"))]
        prepare_corpus(sources, BYTES, out, val_fraction=0.1, seed=1, shard_tokens=10**6)
    return TextDataModule(**{**COMMON, "seed": 1, "path": str(out), "cache_dir": folder, **more})


def labelled(folder: Path, word: str, **more: Any) -> LabelledDataModule:
    path = folder / "table.csv"
    rows = [f"{'good' if i % 2 else 'bad'} {word} {i},{i % 2}\n" for i in range(40)]
    path.write_text("text,label\n" + "".join(rows))
    return LabelledDataModule(
        **{**COMMON, "seed": 1, "path": str(path), "cache_dir": folder, **more}
    )


def instructions(folder: Path, word: str, **more: Any) -> InstructionDataModule:
    path = folder / "entries.json"
    entries = [{"instruction": f"Say {word} {i}.", "output": f"{word} {i}"} for i in range(40)]
    path.write_text(json.dumps(entries))
    prompt = {"name": "short", "template": "{instruction}>"}
    return InstructionDataModule(
        **{**COMMON, "seed": 1, "path": str(path), "cache_dir": folder, "prompt": prompt, **more}
    )


def started(data: ResumableDataModule) -> ResumableDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def saved(data: ResumableDataModule) -> dict[str, Any]:
    """The state after three batches."""
    batches = iter(started(data).train_dataloader())
    for _ in range(3):
        next(batches)
    return data.state_dict()


@pytest.fixture(params=[text, prepared, labelled, instructions], ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


def test_the_same_data_go_on(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = saved(make(tmp_path, "ships"))
    data = make(tmp_path, "ships")
    data.load_state_dict(state)
    started(data)
    assert data.train_dataloader().state_dict()["samples"] == 6
    assert capsys.readouterr().out == ""


def test_other_data_are_refused_before_or_after_they_are_read(make: Make, tmp_path: Path) -> None:
    state = saved(make(tmp_path, "ships"))
    resumed = make(tmp_path, "shoes")
    resumed.load_state_dict(state)
    with pytest.raises(UserError, match=r"other (text|rows|entries)\).*data\.on_change=retokenize"):
        started(resumed)
    ready = started(make(tmp_path, "shoes"))
    with pytest.raises(UserError, match=r"are not those of the checkpoint") as raised:
        ready.load_state_dict(state)
    assert "\n" not in str(raised.value)


def test_other_data_are_gone_on_with_where_that_is_wanted(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = saved(make(tmp_path, "ships"))
    data = make(tmp_path, "shoes", on_change="retokenize")
    data.load_state_dict(state)
    started(data)
    data.load_state_dict(state)  # as the Trainer does
    assert data.train_dataloader().state_dict()["samples"] == 6
    assert data.state_dict()["data"] != state["data"]
    assert capsys.readouterr().out.count("the data have changed since the checkpoint (other ") == 1


def test_other_text_is_refused_before_it_is_tokenized(tmp_path: Path) -> None:
    state = saved(text(tmp_path, "ships"))
    there = sorted(tmp_path.rglob("*.bin"))
    data = text(tmp_path, "shoes")
    data.load_state_dict(state)
    with pytest.raises(UserError):
        data.prepare_data()
    assert sorted(tmp_path.rglob("*.bin")) == there


def test_another_split_is_named_by_its_key(tmp_path: Path) -> None:
    state = saved(text(tmp_path, "ships"))
    data = text(tmp_path, "ships", val_fraction=0.2)
    data.load_state_dict(state)
    with pytest.raises(UserError, match=r"\(val_fraction is 0\.2, was 0\.1\)"):
        data.prepare_data()


def test_a_checkpoint_that_does_not_say_its_data_goes_with_any(make: Make, tmp_path: Path) -> None:
    state = saved(make(tmp_path, "ships"))
    del state["data"]
    data = make(tmp_path, "shoes")
    data.load_state_dict(state)
    assert started(data).train_dataloader().state_dict()["samples"] == 6


def trainer(*, fn: TrainerFn) -> Any:
    """One that is about to do something, in one process."""
    root = SimpleNamespace(root_device=torch.device("cpu"))
    state = SimpleNamespace(fn=fn)
    return SimpleNamespace(state=state, global_rank=0, world_size=1, strategy=root)


def test_other_data_may_be_measured_with_a_checkpoint(make: Make, tmp_path: Path) -> None:
    state = saved(make(tmp_path, "ships"))
    data = started(make(tmp_path, "shoes"))
    data.trainer = trainer(fn=TrainerFn.VALIDATING)
    data.load_state_dict(state)
    assert data.train_dataloader().state_dict()["samples"] == 0


def test_a_training_after_a_resumed_one_begins_at_the_beginning(make: Make, tmp_path: Path) -> None:
    data = started(make(tmp_path, "ships"))
    assert data.state_dict() == {}  # nothing has been read
    data.load_state_dict(saved(make(tmp_path, "ships")))
    data.teardown("validate")
    assert data.train_dataloader().state_dict()["samples"] == 6
    data.teardown("fit")
    assert data.train_dataloader().state_dict()["samples"] == 0


def test_loaders_read_what_they_need(make: Make, tmp_path: Path) -> None:
    assert next(iter(make(tmp_path, "ships").train_dataloader())).input_ids.numel() > 0
    assert len(list(make(tmp_path, "ships").val_dataloader())) > 0


def test_what_the_task_has_to_know_is_known_when_it_is_asked(tmp_path: Path) -> None:
    facts = labelled(tmp_path, "ships", balance="weights").for_task()
    assert facts == {"labels": ["0", "1"], "class_weights": pytest.approx([1, 1], rel=0.1)}


def test_a_tokenizer_may_be_named(make: Make, tmp_path: Path) -> None:
    assert make(tmp_path, "ships", tokenizer="byte").tokenizer is BYTES  # type: ignore[attr-defined]


def test_a_path_may_be_a_path(tmp_path: Path) -> None:
    named = text(tmp_path, "ships")
    data = text(tmp_path, "ships", path=tmp_path / "text.txt")
    assert data.path == named.path
    assert text(tmp_path, "ships", path=[tmp_path / "text.txt"]).path == [named.path]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("batch_size", 0, "data.batch_size=0: expected a whole number from 1 on"),
        ("batch_size", 2.5, "data.batch_size=2.5"),
        ("context_length", -3, "model.context_length=-3"),
        ("seed", None, "seed=None: expected a whole number from 0 on"),
        ("on_change", "keep", "data.on_change=keep: allowed are refuse, retokenize"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(
    make: Make, tmp_path: Path, key: str, value: Any, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        make(tmp_path, "ships", **{key: value})


@pytest.mark.parametrize(
    ("make", "key", "expected"),
    [
        (labelled, "balance", "data.balance=x: allowed are none, undersample, weights"),
        (instructions, "too_long", "data.too_long=x: allowed are cut, drop"),
        (instructions, "on_error", "data.on_error=x: allowed are raise, skip"),
        (instructions, "eval_batch_size", "data.eval_batch_size=x: expected a whole number"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_known_ones(
    make: Make, tmp_path: Path, key: str, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        make(tmp_path, "ships", **{key: "x"})
