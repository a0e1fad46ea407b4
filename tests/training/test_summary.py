"""What a finished run leaves for scripts and for the next command."""

import json
from pathlib import Path

import pytest

from gptlit.training.summary import mark_latest, write_summary


def test_facts_versions_and_commit_stand_in_the_summary(tmp_path: Path) -> None:
    path = write_summary(tmp_path, task="pretrain", metrics={"val/loss": 2.5})
    facts = json.loads(path.read_text())
    assert facts["task"] == "pretrain" and facts["metrics"] == {"val/loss": 2.5}
    assert {"python", "torch", "lightning"} <= set(facts["versions"])
    assert "git_commit" in facts
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_a_machine_without_git_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert json.loads(write_summary(tmp_path).read_text())["git_commit"] is None


def test_latest_points_to_the_run_that_finished_last(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        mark_latest(tmp_path / name)
        assert (tmp_path / "latest").resolve() == tmp_path / name
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second", "latest"}


def test_latest_survives_a_move_and_being_marked_through_itself(tmp_path: Path) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    mark_latest(tmp_path / "runs" / "first")
    mark_latest(tmp_path / "runs" / "latest")
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "latest").resolve() == tmp_path / "moved" / "first"
