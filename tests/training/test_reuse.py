"""Which finished runs are taken for a repetition, and which are not."""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gptlit.errors import UserError
from gptlit.training import reuse
from gptlit.training.launch import first_process

CONFIG: dict[str, Any] = {
    "task": {"name": "pretrain"},
    "optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]},
    "logger": {"csv": True},
    "seed": 1,
    "output_root": "outputs",
    "resume": None,
    "debug": False,
    "skip_if_trained": True,
}
ROOT = Path("outputs/pretrain")
NEW = ROOT / "new"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and no variables of a launcher."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)


def make(folder: Path, score: float | None = 2.5, **changes: Any) -> Path:
    """A run that has finished."""
    reuse.begin({**CONFIG, **changes}, folder)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "best.ckpt").touch()
    (folder / "summary.json").write_text("{}")
    reuse.finish(folder, score)
    return folder


def found(**changes: Any) -> Path | None:
    run = reuse.find({**CONFIG, **changes}, NEW)
    return run.folder if run else None


@pytest.mark.parametrize("place", ["1", "sweeps/now/0", "sweeps/by/name/deep/0"])
def test_a_finished_run_is_found_wherever_it_lies_below_the_task(place: str) -> None:
    folder = make(ROOT / place)
    assert reuse.find(CONFIG, NEW) == reuse.Finished(folder, 2.5)


def test_the_own_folder_is_looked_at_even_outside() -> None:
    make(Path("elsewhere"))
    assert found() is None
    assert reuse.find(CONFIG, Path("elsewhere")) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"resume": "auto"},
        {"debug": True},
        {"skip_if_trained": False},
        {"logger": {"csv": False}},
        {"optimizer": {"betas": [0.9, 0.95], "lr": 0.001}},
        {"seed": 1.0},
    ],
    ids=str,
)
def test_what_does_not_change_the_result_does_not_matter(changes: dict[str, Any]) -> None:
    assert make(ROOT / "1") == found(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"seed": 2}, {"optimizer": {"lr": 1e-3, "betas": [0.95, 0.9]}}, {"compile": True}],
    ids=str,
)
def test_another_config_is_another_run(changes: dict[str, Any]) -> None:
    make(ROOT / "1")
    assert found(**changes) is None


def test_the_root_may_have_moved() -> None:
    make(ROOT / "1")
    shutil.move("outputs", "archive")
    assert found() is None
    assert found(output_root="archive") == Path("archive/pretrain/1")


@pytest.mark.parametrize(
    "missing", ["summary.json", "checkpoints/best.ckpt", "config/trained.json"]
)
def test_a_run_that_lacks_something_is_not_taken(missing: str) -> None:
    (make(ROOT / "1") / missing).unlink()
    assert found() is None


def test_the_last_checkpoint_will_do() -> None:
    checkpoints = make(ROOT / "1") / "checkpoints"
    (checkpoints / "best.ckpt").rename(checkpoints / "last.ckpt")
    assert found() == ROOT / "1"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": 1}'])
def test_a_damaged_record_is_none(text: str) -> None:
    (make(ROOT / "1") / "config" / "trained.json").write_text(text)
    assert found() is None


def test_the_newest_is_taken_and_the_link_to_it_is_no_run_of_its_own() -> None:
    for age, name in enumerate(("2", "1", "3")):
        folder = make(ROOT / name, score=float(name))
        os.utime(folder / "summary.json", (1e9 - age, 1e9 - age))
    (ROOT / "latest").symlink_to("2")
    assert found() == ROOT / "2"


def test_results_of_an_earlier_command_in_the_folder_are_not_those_of_a_later_one() -> None:
    make(ROOT / "1", seed=1)
    reuse.begin({**CONFIG, "seed": 2}, ROOT / "1")  # and killed
    assert found(seed=1) is None and found(seed=2) is None


def test_hydra_may_write_its_config_anew_without_a_run() -> None:
    folder = make(ROOT / "1")
    (folder / "config" / "config.yaml").write_text("seed: 2")
    assert found(seed=1) == folder and found(seed=2) is None


def test_a_resumed_run_counts_if_it_is_still_the_same() -> None:
    reuse.begin(CONFIG, ROOT / "1")  # killed
    assert make(ROOT / "1", resume="last.ckpt") == found()
    make(ROOT / "1", resume="last.ckpt", seed=3)
    assert found() is None and found(seed=3) is None


def test_what_a_resumed_run_has_other_than_before_is_told() -> None:
    folder = make(ROOT / "1")
    resumed = {**CONFIG, "resume": "last.ckpt"}
    assert reuse.told_of_changes(resumed, folder) == ""
    changed = {**resumed, "optimizer": {"lr": 2e-3}, "logger": {"csv": False}, "seed": 2}
    line = "optimizer.lr=0.002 (was 0.001), optimizer.betas=None (was [0.9, 0.95]), seed=2 (was 1)"
    assert reuse.told_of_changes(changed, folder) == f"\nchanged since it began: {line}"
    assert reuse.told_of_changes({**changed, "resume": None}, folder) == ""
    assert reuse.told_of_changes(changed, ROOT / "none") == ""


def test_it_is_told_each_time_the_run_goes_on() -> None:
    folder = make(ROOT / "1")
    changed = {**CONFIG, "resume": "auto", "seed": 2}
    for config in (changed, {**changed, "seed": 3}, {**CONFIG, "resume": "auto"}):
        reuse.begin(config, folder)
        reuse.finish(folder, 1.0)
        told = reuse.told_of_changes(changed, folder)
        assert told == "\nchanged since it began: seed=2 (was 1)"
        assert reuse.find(config, NEW) is None


def test_a_folder_with_checkpoints_is_not_begun_anew() -> None:
    folder = make(ROOT / "1")
    reuse.check_free(CONFIG, NEW)
    with pytest.raises(UserError, match=r"1 holds a run already: .*resume=auto; else choose"):
        reuse.check_free(CONFIG, folder)
    with pytest.raises(UserError, match=r"1 holds a run of another config already: choose"):
        reuse.check_free({**CONFIG, "seed": 2}, folder)


def test_what_was_typed_is_that_of_the_run_once_it_begins() -> None:
    draft = NEW / "config" / "draft"

    def type_(overrides: str) -> None:
        draft.mkdir(parents=True)
        (draft / "overrides.yaml").write_text(overrides)

    reuse.drop_draft(NEW)  # there is none
    type_("first")
    reuse.begin(CONFIG, NEW)
    assert not draft.exists()
    type_("second")
    assert reuse.newest_overrides(NEW).read_text() == "second"
    reuse.drop_draft(NEW)
    assert not draft.exists()
    assert reuse.newest_overrides(NEW).read_text() == "first"


@pytest.mark.parametrize("score", [None, 1e-9, float("inf")])
def test_the_score_is_kept_as_it_was(score: float | None) -> None:
    make(ROOT / "1", score=score)
    run = reuse.find(CONFIG, NEW)
    assert run is not None and run.score == score


def test_the_folder_of_a_run_that_did_not_train_points_to_its_result() -> None:
    run = reuse.Finished(make(ROOT / "1"), 2.5)
    (NEW / "config").mkdir(parents=True)
    assert reuse.result_folder(NEW) == NEW
    reuse.take(run, NEW)
    assert reuse.result_folder(NEW) == (ROOT / "1").resolve()
    shutil.move("outputs", "archive")
    assert reuse.result_folder(Path("archive/pretrain/new")).is_dir()
    reuse.begin(CONFIG, Path("archive/pretrain/new"))
    assert reuse.result_folder(Path("archive/pretrain/new")) == Path("archive/pretrain/new")


def test_a_run_that_is_its_own_result_needs_no_pointer() -> None:
    run = reuse.Finished(make(ROOT / "1"), 2.5)
    reuse.take(reuse.Finished(make(ROOT / "2"), 2.5), ROOT / "1")
    reuse.take(run, ROOT / "1")
    assert reuse.result_folder(ROOT / "1") == ROOT / "1"


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_only_the_first_process_of_a_run_writes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], first: bool
) -> None:
    from lightning.fabric.utilities.rank_zero import _get_rank

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert first_process() == ((_get_rank() or 0) == 0) == first
    reuse.begin(CONFIG, NEW)
    assert NEW.exists() == first
    found = reuse.Finished(ROOT, None)
    for changing in (reuse.list_in_sweep, reuse.drop_draft, partial(reuse.take, found)):
        (NEW / reuse.DRAFT).mkdir(parents=True)
        changing(NEW)
        assert (NEW / reuse.DRAFT).exists() != first
        shutil.rmtree(NEW)


def test_nothing_is_left_half_written() -> None:
    folder = make(ROOT / "1")
    assert [path.name for path in (folder / "config").iterdir()] == ["trained.json"]
    assert json.loads((folder / "config" / "trained.json").read_text())["score"] == 2.5
