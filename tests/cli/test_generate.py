"""What generate.py writes and says, in this process."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gptlit.cli.generate import _converse, _write, cut_prompts, without_effect
from gptlit.inference.api import LanguageModel
from gptlit.inference.trained import TrainedModel
from gptlit.prompts import PromptFormat

SHAPE = {"vocab_size": 257, "context_length": 8, "emb_dim": 8, "n_heads": 1, "n_layers": 1}
CONFIG: dict[str, Any] = {"seed": 0}


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
