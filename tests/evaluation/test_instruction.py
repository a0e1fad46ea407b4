"""The report on an instruction-tuned model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gptlit.evaluation import instruction
from gptlit.training.checkpoints import Checkpoints
from gptlit.training.ending import measure_at_the_end


def test_the_answers_are_computed_where_the_run_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []
    monkeypatch.setattr("gptlit.inference.lookup.find_checkpoint", lambda *_: tmp_path / "a.ckpt")
    monkeypatch.setattr("gptlit.inference.checkpoint.load_trained", lambda path: path)
    monkeypatch.setattr(instruction, "LanguageModel", lambda _, device: devices.append(device))
    monkeypatch.setattr(instruction, "answer_entries", lambda *_: ([], {"test/rouge_l": 0.5}))
    trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path)
    settings = {"answers": {"max_new_tokens": 1, "batch_size": 1}}
    # The Trainer leaves a task on the CPU once it is done with it.
    task: Any = SimpleNamespace(
        name="instruction", settings=settings, device=SimpleNamespace(type="cpu"), final_metrics={}
    )
    data = SimpleNamespace(splits={"test": ["an entry"]})
    measure_at_the_end(trainer, task, data, Checkpoints(tmp_path), "cuda")
    assert devices == ["cuda"]
    assert task.final_metrics == {"test/rouge_l": 0.5}
