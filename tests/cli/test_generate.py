"""What generate.py writes into files, in this process."""

import errno
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard

from gptlit.cli.generate import (
    _answer_file,
    _check_output,
    _converse,
    _read_prompts,
    _write,
    cut_prompts,
    without_effect,
)
from gptlit.errors import UserError
from gptlit.inference.api import LanguageModel
from gptlit.inference.trained import TrainedModel
from gptlit.prompts import PromptFormat

SHAPE = {"vocab_size": 257, "context_length": 8, "emb_dim": 8, "n_heads": 1, "n_layers": 1}
CONFIG: dict[str, Any] = {"num_samples": 1, "batch_size": 2, "seed": 0}


class Model:
    """Answers in capitals; the third batch ends otherwise."""

    def __init__(self, end: BaseException | None = None) -> None:
        self.end = end
        self.batches = 0

    def generate(self, prompts: list[str], seed: int) -> list[str]:
        self.batches += 1
        if self.end is not None and self.batches == 3:
            raise self.end
        return [prompt.upper() for prompt in prompts]


def answer(model: Any, output: Path, prompts: str) -> None:
    _answer_file(model, list(prompts), {**CONFIG, "output": str(output)}, {})


def lines(file: Path) -> list[dict[str, str]]:
    assert file.read_bytes().endswith(b"\n")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_prompt_has_its_completion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer(Model(), tmp_path / "out.jsonl", "abcdé")
    assert [line["completion"] for line in lines(tmp_path / "out.jsonl")] == list("ABCDÉ")
    assert capsys.readouterr().out == f"5 completions written to {tmp_path / 'out.jsonl'}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_what_was_done_before_an_interruption_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: BaseException
) -> None:
    (tmp_path / "out.jsonl").write_text("of before\n")
    with pytest.raises(type(end)):
        answer(Model(end), tmp_path / "out.jsonl", "abcdefg")
    draft = tmp_path / "out.jsonl.unfinished"
    assert [line["completion"] for line in lines(draft)] == list("ABCD")
    assert capsys.readouterr().err == f"interrupted: 4 of 7 completions are in {draft}\n"
    assert (tmp_path / "out.jsonl").read_text() == "of before\n"


def test_what_was_done_before_a_full_disk_is_kept(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match=r"No space left.*; 4 of 7 completions are in .*unfinished"):
        answer(Model(full), tmp_path / "out.jsonl", "abcdefg")
    assert len(lines(tmp_path / "out.jsonl.unfinished")) == 4


def test_an_interruption_before_the_first_batch_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Model(KeyboardInterrupt())
    model.batches = 2
    with pytest.raises(KeyboardInterrupt):
        answer(model, tmp_path / "out.jsonl", "ab")
    assert capsys.readouterr().err == "" and list(tmp_path.iterdir()) == []


def test_what_an_interrupted_command_has_left_is_not_written_over(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer(Model(KeyboardInterrupt()), output, "abcdefg")
    refused = r"out\.jsonl\.unfinished holds .*: move or delete it, or give another output=FILE$"
    with pytest.raises(UserError, match=refused):
        answer(Model(), output, "abcdefg")
    with pytest.raises(UserError, match=refused):  # before a model is loaded
        _check_output({"prompts": "p.txt", "output": str(output)}, None)
    assert len(lines(tmp_path / "out.jsonl.unfinished")) == 4 and not output.exists()


@pytest.mark.parametrize("output", ["prompts.txt", "link.txt", "model.ckpt"])
def test_a_file_that_is_read_is_not_written_over(tmp_path: Path, output: str) -> None:
    prompts, checkpoint = tmp_path / "prompts.txt", tmp_path / "model.ckpt"
    prompts.touch()
    checkpoint.touch()
    (tmp_path / "link.txt").symlink_to(prompts)
    config = {"prompts": str(prompts), "output": str(tmp_path / output)}
    with pytest.raises(UserError, match=rf"^output: .*{output} is a file that is read; give anoth"):
        _check_output(config, checkpoint)
    _check_output({**config, "output": str(tmp_path / "new.jsonl")}, checkpoint)


TEXT = "\ufeffone\u2028still one\x0cand\x85on\n\n \r\ntwo \r\nthree".encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prompts.txt", TEXT),
        ("prompts", TEXT),
        ("prompts.gz", gzip.compress(TEXT)),
        ("prompts.txt.zst", zstandard.compress(TEXT)),
    ],
    ids=["txt", "no ending", "gz", "zst"],
)
def test_each_line_is_a_prompt(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    prompts = _read_prompts(str(tmp_path / name))
    assert prompts == ["one\u2028still one\x0cand\x85on", "two ", "three"]


@pytest.mark.parametrize("content", [b"\xff", b"a\0b", b"\n \n"], ids=["latin", "binary", "empty"])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"prompts\.txt (is|has)"):
        _read_prompts(str(tmp_path / "prompts.txt"))


GREEDY: dict[str, Any] = {
    **{"prompt": "a", "prompts": None, "history": False, "temperature": 0.0},
    **{"top_k": 0, "top_p": 1.0, "num_samples": 1},
}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, []),
        ({"top_k": 5, "top_p": 0.5, "num_samples": 2, "temperature": 0.5}, []),
        ({"top_k": 5, "num_samples": 2}, [r"top_k=5, num_samples=2: temperature=0 gives always"]),
        (
            {"prompt": None, "num_samples": 2},
            [r"num_samples has no effect where"],
        ),
        ({"prompt": None, "history": True}, []),
        ({"history": True}, [r"history=true has no effect on prompt=\.\.\. and"]),
        ({"prompt": None, "prompts": "file", "history": True}, ["history=true has no effect on"]),
        ({"prompt": None, "prompts": "file", "top_p": 0.5}, [r"top_p=0\.5: temperature=0 gives"]),
    ],
    ids=str,
)
def test_options_that_do_nothing_are_named(given: dict[str, Any], said: list[str]) -> None:
    lines = without_effect({**GREEDY, **given})
    assert len(lines) == len(said)
    assert all(re.match(pattern, line) for pattern, line in zip(said, lines, strict=True))


BARE = {"prompt": {"name": "bare", "template": "{instruction}"}}


def test_prompts_longer_than_the_context_are_counted() -> None:
    model = LanguageModel(TrainedModel(task="pretrain", model=SHAPE, tokenizer="byte"), "cpu")
    given = {"input": "", "system": ""}
    assert cut_prompts(model, [], given) == cut_prompts(model, ["12345678"], given) == []
    assert cut_prompts(model, ["123456789"], given)[0].startswith("the prompt is longer than the")
    assert cut_prompts(model, ["1", "123456789"], given)[0].startswith("1 of 2 prompts are longer")
    answers = TrainedModel(task="any", model=SHAPE, tokenizer="byte", settings=BARE)
    assert (
        len(cut_prompts(LanguageModel(answers, "cpu"), ["12"], {**given, "system": "12345"})) == 1
    )


class Answering:
    """Answers with its prompt and all that was said before it; keeps what it was given."""

    def __init__(self, template: str) -> None:
        form = PromptFormat("x", template)
        self.trained = SimpleNamespace(prompt_format=form, wrap_prompt=form.format_prompt)

    def stream(self, prompt: str, history: list[tuple[str, ...]], **rest: Any) -> Iterator[str]:
        said = [prompt, *(text for turn in history for text in turn)]
        yield from (f"{text}|" for text in said)
        yield "\n"


@pytest.mark.parametrize(
    ("kept", "ending", "written"),
    [
        (True, "\n", ["a|", "b|a|a||i|"]),
        (True, "", ["a|", "b|a|a|\n|i|"]),
        (False, "\n", ["a|", "b|"]),
    ],
)
def test_a_conversation_goes_on_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: bool,
    ending: str,
    written: list[str],
) -> None:
    monkeypatch.setattr("gptlit.cli.generate.typed", lambda _: iter("ab"))
    model: Any = Answering("{instruction}>{response}" + ending)
    _converse(model, {**CONFIG, "history": kept}, {"input": "i"})
    assert capsys.readouterr().out == "".join(f"{text}\n\n" for text in written)


@pytest.mark.parametrize("settings", [{}, BARE])
def test_only_a_text_that_is_continued_is_written_before_what_follows(
    settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    trained = TrainedModel(task="any", model=SHAPE, tokenizer="byte", settings=settings)
    _write(LanguageModel(trained, "cpu"), "Hi", {"max_new_tokens": 0}, seed=0)
    assert capsys.readouterr().out == ("\n" if settings else "Hi\n")


@pytest.mark.parametrize(("on_terminal", "shown"), [(True, "␛[31m|"), (False, "\x1b[31m|")])
def test_a_terminal_takes_no_commands_from_a_model(
    on_terminal: bool,
    shown: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: on_terminal)
    model: Any = Answering("{instruction}{response}")
    assert _write(model, "\x1b[31m", {"history": []}, seed=0) == "\x1b[31m|\n"
    assert capsys.readouterr().out == f"{shown}\n\n"
