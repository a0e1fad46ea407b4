"""A resumed run notices other data than its checkpoint was trained on, whatever their kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
