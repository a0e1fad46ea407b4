"""Answers to instructions: the same in batches, after an interruption, and in any order."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from gptlit.errors import UserError
from gptlit.evaluation import answers as module
from gptlit.evaluation import perplexity
from gptlit.evaluation.answers import write_answers, write_json
from gptlit.inference.generation import Sampling, generate_text
from gptlit.journal import progress_path
from gptlit.model import GPTConfig, GPTModel
from gptlit.tokenizer import get_tokenizer
from tests.inference.decisive import decisive_model

CFG = GPTConfig(vocab_size=257, context_length=48, emb_dim=32, n_heads=4, n_layers=2)
TOKENIZER = get_tokenizer("byte")
PROMPTS = ["Name a colour.", "Hi", "What is 2 + 2?", "x" * 30, "Write é.", "", "Hello, you"]
ENTRIES = [{"instruction": p, "input": "", "output": p.upper()} for p in PROMPTS]
STEPS = 12


@pytest.fixture(scope="module")
def model() -> GPTModel:
    return decisive_model(CFG).eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "instruction-data-with-response.json"


def write(model: GPTModel, path: Path, **changes: Any) -> list[dict[str, Any]]:
    options = {"fingerprint": "a", "batch_size": 3, "max_new_tokens": STEPS, "stop": ["~"]}
    arguments = {"prompts": PROMPTS, "entries": ENTRIES} | options | changes
    return write_answers(model, TOKENIZER, path=path, **arguments)


def counting(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[list[str]]:
    """The prompts of each batch that is generated; batch `fail_at` ends in a KeyboardInterrupt."""
    batches: list[list[str]] = []

    def generate(model: GPTModel, tokenizer: Any, prompts: list[str], *rest: Any) -> list[str]:
        if len(batches) == fail_at:
            raise KeyboardInterrupt
        batches.append(prompts)
        return generate_text(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(module, "generate_text", generate)
    return batches


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 50])
def test_batches_answer_as_one_by_one(model: GPTModel, path: Path, batch_size: int) -> None:
    expected = []
    for prompt, entry in zip(PROMPTS, ENTRIES, strict=True):
        [text] = generate_text(model, TOKENIZER, [prompt], STEPS, Sampling(), ["~"])
        expected.append({**entry, "model_response": text.strip()})
    assert write(model, path, batch_size=batch_size) == expected
    assert json.loads(path.read_text()) == expected


def test_prompts_of_similar_length_go_together(
    model: GPTModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = counting(monkeypatch)
    write(model, path, batch_size=2)
    lengths = [[len(TOKENIZER.encode(prompt)) for prompt in batch] for batch in batches]
    assert lengths == [[30, 14], [14, 10], [9, 2], [0]]


@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_an_interrupted_run_goes_on_where_it_stopped(
    model: GPTModel, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    undisturbed = tmp_path / "undisturbed.json"
    write(model, undisturbed)
    before = counting(monkeypatch, fail_at)
    with pytest.raises(KeyboardInterrupt):
        write(model, path)
    assert not path.exists()
    after = counting(monkeypatch)
    write(model, path)
    assert path.read_bytes() == undisturbed.read_bytes()
    assert len(before) == fail_at
    assert sorted(prompt for batch in before + after for prompt in batch) == sorted(PROMPTS)


def test_dates_of_a_chat_are_written_as_text(
    model: GPTModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = [{**entry, "at": datetime(2024, 5, 17)} for entry in ENTRIES]
    write(model, path, entries=dated)
    assert {entry["at"] for entry in json.loads(path.read_text())} == {"2024-05-17 00:00:00"}
    batches = counting(monkeypatch)
    write(model, path, entries=dated)
    assert batches == []


def test_a_finished_run_is_not_repeated(
    model: GPTModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(model, path)
    content = path.read_bytes()
    path.unlink()
    batches = counting(monkeypatch)
    write(model, path)
    assert batches == []
    assert path.read_bytes() == content


def cut_tail(content: bytes) -> bytes:
    return content[:-7]


def zero_tail(content: bytes) -> bytes:
    return content + bytes(100)


def half_a_line(content: bytes) -> bytes:
    return content + b'{"entry": 6, "ans'


@pytest.mark.parametrize("damage", [cut_tail, zero_tail, half_a_line])
def test_what_a_crash_left_is_mended(
    model: GPTModel, path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    write(model, path)
    expected = path.read_bytes()
    counting(monkeypatch, fail_at=2)
    kept = progress_path(path)
    kept.unlink()
    with pytest.raises(KeyboardInterrupt):
        write(model, path)
    kept.write_bytes(damage(kept.read_bytes()))
    counting(monkeypatch)
    write(model, path)
    assert path.read_bytes() == expected
    batches = counting(monkeypatch)
    write(model, path)
    assert batches == []


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "b"},
        {"max_new_tokens": STEPS - 1},
        {"stop": []},
        {"prompts": [p + "!" for p in PROMPTS]},
        {"entries": [{**entry, "output": "?"} for entry in ENTRIES]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_work_starts_anew(
    model: GPTModel, path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    write(model, path)
    batches = counting(monkeypatch)
    answered = write(model, path, **changes)
    assert sum(map(len, batches)) == len(PROMPTS)
    assert json.loads(path.read_text()) == answered


def test_two_commands_at_once_take_none_of_each_others_answers(
    model: GPTModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(model, path)
    expected = path.read_bytes()
    progress_path(path).unlink()

    def other_begins(model: GPTModel, tokenizer: Any, prompts: list[str], *rest: Any) -> list[str]:
        monkeypatch.setattr(module, "generate_text", generate_text)
        with pytest.raises(KeyboardInterrupt):
            counting(monkeypatch, fail_at=1)
            write(model, path, max_new_tokens=2)
        batches = counting(monkeypatch)
        write(model, path, max_new_tokens=1)
        assert len(batches) == 3
        monkeypatch.setattr(module, "generate_text", generate_text)
        return generate_text(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(module, "generate_text", other_begins)
    write(model, path)
    assert path.read_bytes() == expected
    batches = counting(monkeypatch)
    write(model, path, max_new_tokens=2)
    assert len(batches) == 2
    assert max(len(row["model_response"]) for row in json.loads(path.read_text())) <= 2


def test_a_smaller_batch_keeps_what_is_there(
    model: GPTModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting(monkeypatch, fail_at=1)
    with pytest.raises(KeyboardInterrupt):
        write(model, path)
    batches = counting(monkeypatch)
    write(model, path, batch_size=1)
    assert len(batches) == len(PROMPTS) - 3


def test_no_entries_give_an_empty_list(model: GPTModel, path: Path) -> None:
    assert write(model, path, prompts=[], entries=[]) == []
    assert json.loads(path.read_text()) == []


def test_each_prompt_needs_its_entry(model: GPTModel, path: Path) -> None:
    with pytest.raises(ValueError, match="7 prompts do not fit 6 entries"):
        write(model, path, entries=ENTRIES[1:])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        write(model, path, batch_size=0)


def test_a_folder_that_cannot_be_written_is_said(model: GPTModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*: .*; choose another folder"):
        write(model, tmp_path / "file" / "answers.json")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*taken: .*; choose another folder"):
        write_json(tmp_path / "taken", [])


@pytest.mark.parametrize("bar", [module.progress_bar, perplexity._progress])
@pytest.mark.parametrize(("show", "terminal"), [(True, True), (True, False), (False, True)])
def test_a_bar_is_drawn_on_a_terminal_alone_and_not_into_the_output(
    monkeypatch: pytest.MonkeyPatch, bar: Callable[[bool], Progress], show: bool, terminal: bool
) -> None:
    monkeypatch.setattr(Console, "is_terminal", terminal)
    drawn = bar(show)
    assert drawn.disable == (not (show and terminal))
    assert drawn.console.stderr


def test_any_text_survives_the_file(tmp_path: Path) -> None:
    text = "é \u2028 \ud800 😀 \\ud800 \x00 \n"
    write_json(tmp_path / "a.json", {"text": text})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"text": text}
