"""The report on an instruction-tuned model."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gptlit.data.entry import Entry
from gptlit.data.instruction_files import read_entries
from gptlit.evaluation import instruction
from gptlit.evaluation.answers import ANSWER
from gptlit.inference.api import LanguageModel
from gptlit.inference.generation import Sampling, generate_text
from gptlit.inference.trained import TrainedModel
from gptlit.training.checkpoints import Checkpoints
from gptlit.training.ending import measure_at_the_end
from tests.inference.decisive import decisive_model


@pytest.mark.parametrize("brief", [False, True])
def test_the_answers_are_computed_where_the_run_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brief: bool
) -> None:
    devices: list[str] = []
    monkeypatch.setattr("gptlit.inference.lookup.find_checkpoint", lambda *_: tmp_path / "a.ckpt")
    monkeypatch.setattr("gptlit.inference.checkpoint.load_trained", lambda path: path)
    monkeypatch.setattr(instruction, "LanguageModel", lambda _, device: devices.append(device))
    answered: list[list[Any]] = []

    def answer(_: object, entries: list[Any], *more: object) -> tuple[list[Any], dict[str, float]]:
        answered.append(entries)
        return [], {"rouge_l": 0.5}

    monkeypatch.setattr(instruction, "answer_entries", answer)
    trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path)
    settings = {"answers": {"max_new_tokens": 1, "batch_size": 2}}
    # The Trainer leaves a task on the CPU once it is done with it.
    task: Any = SimpleNamespace(
        name="instruction", settings=settings, device=SimpleNamespace(type="cpu"), final_metrics={}
    )
    data = SimpleNamespace(splits={"test": ["a", "b", "c"]})
    measure_at_the_end(trainer, task, data, Checkpoints(tmp_path), "cuda", brief)
    assert devices == ["cuda"]
    assert answered == [["a", "b"] if brief else ["a", "b", "c"]]
    assert task.final_metrics == {"test/rouge_l": 0.5}


def test_the_last_question_of_a_chat_is_answered_behind_the_turns_before(tmp_path: Path) -> None:
    shape = {"vocab_size": 257, "context_length": 64, "emb_dim": 16, "n_heads": 2, "n_layers": 1}
    prompt = {"name": "x", "template": "{instruction}>{response};"}
    trained = TrainedModel(
        task="instruction", model=shape, tokenizer="byte", settings={"prompt": prompt}
    )
    trained.model = decisive_model(trained.model.cfg)
    model = LanguageModel(trained, "cpu", "fp32")
    said = ["Be kind.\n\nHi", "Hello", "Who?", "I"]
    raw = {"messages": [{"content": text} for text in said], "id": 7}
    chat = Entry(said[2], "", said[3], raw, history=(("Hi", said[1]),), system="Be kind.")
    plain = Entry("Hi", "", "Hello", {"messages": []})
    settings = {"max_new_tokens": 5, "batch_size": 1}
    (tmp_path / "a.ckpt").touch()
    answered, scores = instruction.answer_entries(
        model, [chat, plain], tmp_path / "a.json", tmp_path / "a.ckpt", settings
    )
    ids = [*b"Be kind.\n\nHi>Hello;", 256, *b"Who?>"]
    texts = [
        generate_text(model.model, model.tokenizer, [prompt], 5, Sampling(), [";"])[0].strip()
        for prompt in (ids, "Hi>")
    ]
    assert texts[0] != texts[1]
    transcript = "User: Be kind.\n\nHi\n\nAssistant: Hello\n\nUser: Who?"
    parts = {"instruction": transcript, "input": "", "output": "I"}
    assert answered[0] == {**raw, **parts, ANSWER: texts[0]}
    parts = {"instruction": "Hi", "input": "", "output": "Hello"}
    assert answered[1] == {"messages": [], **parts, ANSWER: texts[1]}
    assert scores["reference_words_mean"] == 1


@pytest.mark.parametrize(
    "other", [{}, {"output": None}, {"output": "a note", "input": 3}, {"instruction": "a note"}]
)
def test_the_reference_of_a_chat_is_its_answer_whatever_else_it_has(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (tmp_path / "a.json").write_text(json.dumps([{"messages": messages, **other}]))
    [entry], _ = read_entries(tmp_path / "a.json")
    parts = {"instruction": "Hi", "input": "", "output": "Hello"}
    assert instruction._with_parts(entry) == {"messages": messages, **parts}


def test_answers_to_chats_may_be_answered_again(tmp_path: Path) -> None:
    """Their file is read by the messages, not by the transcript that stands beside them."""
    said = [("user", "Hi"), ("assistant", "Hello"), ("user", "Who?"), ("assistant", "I")]
    row = {"messages": [{"role": role, "content": content} for role, content in said]}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    [entry], _ = read_entries(tmp_path / "a.json")
    answered = instruction._with_parts(entry)
    (tmp_path / "b.json").write_text(json.dumps([{**answered, ANSWER: "You"}]))
    [again], _ = read_entries(tmp_path / "b.json")
    assert again == entry
    assert instruction._with_parts(again) == {**answered, ANSWER: "You"}


def test_a_history_becomes_a_part_of_the_instruction_that_is_judged(tmp_path: Path) -> None:
    row = {"instruction": "Who?", "output": "I", "id": 7}
    more = {"system": "Be kind.", "history": [["Hi", "Hello"]]}
    (tmp_path / "a.json").write_text(json.dumps([{**row, **more}, {**row, "history": []}]))
    [entry, plain], _ = read_entries(tmp_path / "a.json")
    transcript = "User: Be kind.\n\nHi\n\nAssistant: Hello\n\nUser: Who?"
    parts = {"instruction": transcript, "input": "", "output": "I", "id": 7}
    assert instruction._with_parts(entry) == parts
    assert instruction._with_parts(plain) == {**row, "history": []}
