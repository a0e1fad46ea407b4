"""Which entries evaluate.py answers."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from gptlit.cli.answers import _name, _test_split, evaluate_answers
from gptlit.cli.build import build_data
from gptlit.cli.output import alone
from gptlit.errors import UserError
from gptlit.tokenizer import get_tokenizer

TARGET = "gptlit.data.instructions.InstructionDataModule"
ENTRIES = [{"instruction": f"Say {i}.", "input": "", "output": str(i)} for i in range(20)]


def make_run(folder: Path, **more: Any) -> Path:
    """The best checkpoint of a run, with what is looked at."""
    (folder / "mine.json").write_text(json.dumps(ENTRIES))
    prompt = {"name": "x", "template": "{instruction}>"}
    data = {"_target_": TARGET, "path": str(folder / "mine.json"), "batch_size": 2, **more}
    config = {"model": {"context_length": 32}, "tokenizer": {"name": "byte"}, "seed": 0}
    config["data"] = {**data, "prompt": prompt, "test_fraction": 0.1}
    module = build_data(config)
    module.setup("fit")
    module.train_dataloader()
    checkpoint = folder / "run" / "checkpoints" / "best.ckpt"
    for place in (checkpoint, folder / "run" / "config" / "config.yaml"):
        place.parent.mkdir(parents=True)
    OmegaConf.save(config, folder / "run" / "config" / "config.yaml")
    content = {"hyper_parameters": {"task": "instruction"}, "state_dict": {}}
    torch.save({**content, "InstructionDataModule": module.state_dict()}, checkpoint)
    return checkpoint


def test_the_test_split_is_that_of_the_training(tmp_path: Path) -> None:
    entries, source = _test_split(make_run(tmp_path))
    assert [entry.raw for entry in entries] == ENTRIES[17:19]
    assert source == [tmp_path / "mine.json"]


def test_a_test_file_of_its_own_is_the_test_split(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps(ENTRIES[:2]))
    checkpoint = make_run(tmp_path, test_path=str(own))
    entries, sources = _test_split(checkpoint)
    assert [entry.raw for entry in entries] == ENTRIES[:2]
    assert sources == [tmp_path / "mine.json", own]
    own.unlink()
    with pytest.raises(UserError, match=r"was trained on .*own\.json, which is not there"):
        _test_split(checkpoint)


def test_data_that_are_not_there_are_no_reason_to_answer_the_training_split(
    tmp_path: Path,
) -> None:
    checkpoint = make_run(tmp_path)
    (tmp_path / "mine.json").unlink()
    line = r"run was trained on .*mine\.json, which is not there: put it back, or run this command"
    with pytest.raises(UserError, match=line):
        _test_split(checkpoint)


@pytest.mark.parametrize("now", [ENTRIES[1:], [*ENTRIES, *ENTRIES], ENTRIES[:8]])
def test_data_that_have_changed_since_are_refused(tmp_path: Path, now: list[Any]) -> None:
    checkpoint = make_run(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps(now))
    line = r"^the data of .*run, .*mine\.json, have changed since .* or give data=FILE, whose"
    with pytest.raises(UserError, match=line):
        _test_split(checkpoint)


def test_a_run_that_went_on_with_changed_data_may_be_evaluated_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_run(tmp_path, on_change="retokenize")
    (tmp_path / "mine.json").write_text(json.dumps(ENTRIES[1:]))
    assert _test_split(checkpoint)[0]
    assert "the data have changed since the checkpoint" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_say_its_data_goes_with_any(tmp_path: Path) -> None:
    checkpoint = make_run(tmp_path)
    content = torch.load(checkpoint, weights_only=True)
    torch.save({k: v for k, v in content.items() if k != "InstructionDataModule"}, checkpoint)
    (tmp_path / "mine.json").write_text(json.dumps(ENTRIES[1:]))
    assert _test_split(checkpoint)[0]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("mine.json", "mine"),
        ("a/mine.JSONL.gz", "mine"),
        ("tasks.en.json", "tasks.en"),
        ("v1.5.parquet", "v1.5"),
    ],
)
def test_files_with_several_points_in_their_names_get_answers_of_their_own(
    file: str, name: str
) -> None:
    assert _name(Path(file)) == name


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """evaluate.py in the folder, with a model that has an answer ready."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.ckpt").touch()
    monkeypatch.setattr(
        "gptlit.evaluation.answers.generate_text",
        lambda _, __, prompts, *rest: ["ok"] * len(prompts),
    )
    model = SimpleNamespace(
        model=None,
        tokenizer=get_tokenizer("byte"),
        wrap_prompt=lambda text, *_: text,
        told_of_cut=lambda prompts: ["too long"] * any(len(text) > 20 for text in prompts),
        trained=SimpleNamespace(stop=[]),
        device="cpu",
        precision="fp32",
    )

    def run(data: str, output: str | None = None, instruction_field: str = "instruction") -> None:
        names = {"instruction_field": instruction_field, "input_field": "input"}
        config = {
            "data": {"path": data, "on_error": "raise", **names, "output_field": "output"},
            "output": output,
            "max_new_tokens": 1,
            "batch_size": 2,
            "judge": {"name": "none"},
        }
        evaluate_answers(config, Path("best.ckpt"), model)

    return run


def test_files_of_one_name_do_not_overwrite_each_others_answers(
    tmp_path: Path, evaluate: Callable[..., None]
) -> None:
    for folder, part in (("a", ENTRIES[:2]), ("b", ENTRIES[1:3])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text(json.dumps(part))
    default = tmp_path / "x-instruction-data-with-response.json"
    evaluate("a/x.json")
    answers = default.read_bytes()
    line = rf"^{default.name} is there .* the entries of b/x\.json: give output=FILE, or move or"
    with pytest.raises(UserError, match=line):
        evaluate("b/x.json")
    assert default.read_bytes() == answers
    evaluate("b/x.json", "mine.json")
    evaluate("b/x.json", default.name)  # which is meant
    assert [entry["instruction"] for entry in json.loads(default.read_text())] == [
        "Say 1.",
        "Say 2.",
    ]


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_the_same_entries_may_be_answered_again(
    tmp_path: Path, evaluate: Callable[..., None], suffix: str
) -> None:
    messages = [{"role": "user", "content": "é"}, {"role": "assistant", "content": "Hello"}]
    rows: list[dict[str, Any]] = [{"messages": messages, "model_response": "of before", "n": 0.1}]
    if suffix == "json":
        rows.append({**ENTRIES[0], "also": [None, "\ud800"]})
        (tmp_path / "x.json").write_text(json.dumps(rows))
    else:
        rows[0]["at"] = datetime(2024, 5, 17)
        pd.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    for _ in range(2):
        evaluate(f"x.{suffix}")
    found = json.loads((tmp_path / "x-instruction-data-with-response.json").read_text())
    assert [entry["model_response"] for entry in found] == ["ok"] * len(rows)


def test_answers_have_the_usual_names_whatever_those_of_the_entries(
    tmp_path: Path, evaluate: Callable[..., None]
) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{"question": "a", "output": "b"}]))
    evaluate("x.json", "out.json", "question")
    evaluate("out.json", "again.json")
    for name in ("out.json", "again.json"):
        [entry] = json.loads((tmp_path / name).read_text())
        assert entry["instruction"] == entry["question"] == "a"
        assert entry["model_response"] == "ok"


@pytest.mark.parametrize("content", ["", "{}", "3", "[3]", "no JSON", '[{"instruction": "?"}]'])
def test_what_is_no_file_of_answers_is_not_overwritten(
    tmp_path: Path, evaluate: Callable[..., None], content: str
) -> None:
    (tmp_path / "x.json").write_text(json.dumps(ENTRIES[:2]))
    default = tmp_path / "x-instruction-data-with-response.json"
    default.write_text(content)
    with pytest.raises(UserError, match="is there already and holds no answers to the entries"):
        evaluate("x.json")
    assert default.read_text() == content


def test_two_commands_do_not_write_the_same_answers(
    tmp_path: Path, evaluate: Callable[..., None]
) -> None:
    (tmp_path / "x.json").write_text(json.dumps(ENTRIES[:2]))
    with alone(tmp_path / "out.json", tmp_path / "out.progress.jsonl"):
        with pytest.raises(UserError, match=r"^out\.json is in use"):
            evaluate("x.json", "out.json")
        evaluate("x.json", "other.json")
    evaluate("x.json", "out.json")


def test_who_interrupts_is_told_that_the_same_command_goes_on(
    tmp_path: Path,
    evaluate: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "x.json").write_text(json.dumps(ENTRIES[:2]))
    stop = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr("gptlit.evaluation.answers.generate_text", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate("x.json")
    assert capsys.readouterr().err == "interrupted: the same command goes on where it stopped\n"


def test_prompts_that_are_cut_are_told(
    tmp_path: Path, evaluate: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, instruction in (("x", "short"), ("y", "long " * 9)):
        entry = {"instruction": instruction, "output": "b"}
        (tmp_path / f"{name}.json").write_text(json.dumps([entry]))
        evaluate(f"{name}.json")
        assert capsys.readouterr().err == ("warning: too long\n" if name == "y" else "")
