"""Which entries evaluate.py answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from gptlit.cli.answers import _name, _test_split
from gptlit.cli.build import build_data
from gptlit.errors import UserError

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
    assert source == tmp_path / "mine.json"


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
