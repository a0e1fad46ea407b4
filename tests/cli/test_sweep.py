"""A sweep's table is made of what its runs have left in their folders."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from gptlit.cli import sweep
from gptlit.options import conf_dir
from gptlit.training import reuse


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, a command line of its own, and no variables of a launcher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", "-m"])
    monkeypatch.setattr(sweep.Sweep, "newest", None)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def started(name: str, *overrides: str) -> Path:
    """What Hydra leaves when a run of the sweep begins."""
    folder = Path("sweep") / name
    (folder / "config").mkdir(parents=True, exist_ok=True)
    stored = OmegaConf.create(["seed=1", *overrides])
    OmegaConf.save(stored, folder / "config" / "overrides.yaml")
    return folder


def done(folder: Path, loss: float | None, monitor: str | None = None, **facts: Any) -> Path:
    """What a run leaves when it has finished."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    metrics = {"train/loss": 9.0} | ({} if loss is None else {"val/loss": loss})
    facts = {"seconds": 12.5, "tokens": 4096, "metrics": metrics, **facts}
    (folder / "summary.json").write_text(json.dumps(facts))
    trainer = {} if monitor is None else {"monitor": monitor}
    reuse.begin({"resume": None, "folder": str(folder), "trainer": trainer}, folder)
    reuse.finish(folder, loss)
    return folder


def mistake(folder: Path) -> Path:
    sweep.note_failure(folder, ValueError("no"), "optimizer.lr=fast: expected a number", False)
    return folder


def crash(folder: Path) -> Path:
    try:
        raise RuntimeError("out of memory\nwith details")
    except RuntimeError as error:
        sweep.note_failure(folder, error, None, False)
    return folder


def report(capsys: pytest.CaptureFixture[str], *, repeats: bool = True) -> tuple[int, str]:
    """As at the end of a sweep in this process."""
    hook = sweep.Sweep()
    hook.repeats = repeats
    hook.folder, hook.made, hook.started_ns = Path("sweep").absolute(), True, 0
    sweep.Sweep.newest = hook
    capsys.readouterr()
    code = sweep.finish()
    return code, capsys.readouterr().out


def rows() -> list[dict[str, str]]:
    with Path("sweep/results.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_best_stands_first_and_the_failed_last(capsys: pytest.CaptureFixture[str]) -> None:
    losses = {"0": 3.0, "1": None, "2": 1.0, "3": float("nan"), "10": 2.0}
    for name, loss in losses.items():
        done(started(name, f"optimizer.lr=1e-{name}"), loss)
    mistake(started("4", "optimizer.lr=fast"))
    crash(started("5", "optimizer.lr=1e5"))
    started("6", "optimizer.lr=1e6")
    code, text = report(capsys)
    assert code == 1
    assert [row["run"] for row in rows()] == ["2", "10", "0", "1", "3", "4", "5", "6"]
    errors = {row["run"]: row["error"] for row in rows() if row["error"]}
    assert errors == {
        "4": "optimizer.lr=fast: expected a number",
        "5": "RuntimeError: out of memory",
        "6": "did not finish",
    }
    assert text.index("1e-2") < text.index("1e-10") < text.index("1e-0") < text.index("fast")
    assert "8 runs, 2 failed, 1 stopped" in text and "RuntimeError: out of memory" in text
    assert "best: ckpt=sweep/2\n" in text
    assert "hydra.sweep.dir='sweep' resume=auto skip_if_trained=true" in text


def test_the_best_run_is_that_of_the_best_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    done(started("0", "x=1"), 1.0, metrics={"val/loss": 3.0})
    done(started("1", "x=2"), 2.0, metrics={"val/loss": 2.0})
    _, text = report(capsys)
    assert [row["run"] for row in rows()] == ["0", "1"]
    assert "best val/loss" in text and "best: ckpt=sweep/0\n" in text


def test_the_best_run_has_the_highest_score_where_high_is_good(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, score in {"0": 0.5, "1": 0.75, "2": None, "3": 0.25}.items():
        done(started(name, f"x={name}"), score, monitor="val/f1")
    _, text = report(capsys)
    assert [row["run"] for row in rows()] == ["1", "0", "3", "2"]
    assert "best val/f1" in text and "best: ckpt=sweep/1\n" in text


def test_scores_of_several_metrics_have_no_best(capsys: pytest.CaptureFixture[str]) -> None:
    done(started("0", "x=0"), 2.0, monitor="val/loss")
    done(started("1", "x=1"), 0.5, monitor="val/accuracy")
    done(started("2", "x=2"), 1.0, monitor="val/loss")
    _, text = report(capsys)
    assert [row["run"] for row in rows()] == ["0", "1", "2"]
    assert "score" in text and "best" not in text


def test_the_best_run_is_named_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    done(started("lr 1", "x=1"), 1.0)
    assert "best: ckpt='sweep/lr 1'\n" in report(capsys)[1]


def test_without_a_score_no_run_is_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    done(started("0", "x=1"), None)
    done(started("1", "x=2"), float("nan"))
    assert "best: " not in report(capsys)[1]


def test_a_search_does_not_offer_to_repeat_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    mistake(started("0"))
    assert sweep.GO_ON in report(capsys)[1]
    text = report(capsys, repeats=False)[1]
    assert sweep.GO_ON not in text and "goes on with the search" in text


def test_a_run_that_was_refused_in_its_folder_has_the_values_that_were_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = done(started("0", "x=1"), 1.0)
    draft = folder / reuse.DRAFT
    draft.mkdir()
    OmegaConf.save(OmegaConf.create(["x=2"]), draft / "overrides.yaml")
    mistake(folder)
    reuse.list_in_sweep(folder)
    done(started("1", "x=3"), 2.0)
    report(capsys)
    assert [(row["run"], row["x"]) for row in rows()] == [("1", "3"), ("0", "2")]
    assert "x=1" in (folder / reuse.OVERRIDES).read_text()  # the checkpoints are of it


def test_values_stand_in_the_table_without_their_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    values = ["plain", "'it\\'s'", "'say \"no\"'", "['a','b']", "null", "'a, b'"]
    for number, value in enumerate(values):
        done(started(str(number), f"x={value}"), float(number))
    report(capsys)
    shown = ["plain", "it's", 'say "no"', "['a','b']", "null", "a, b"]
    assert [row["x"] for row in rows()] == shown


def test_a_row_has_what_was_swept_what_came_out_and_what_it_took(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done(
        started("0", "model='gpt2-nano'", "x=1"), 2.5, metrics={"val/loss": 2.0, "test/accuracy": 1}
    )
    done(started("1", "model='gpt2-small'"), 3.0)
    code, text = report(capsys)
    assert code == 0 and "failed" not in text and "skip_if_trained" not in text
    first, second = rows()
    assert first == {
        "run": "0",
        "model": "gpt2-nano",
        "x": "1",
        "test/accuracy": "1",
        "val/loss": "2.0",
        "score": "2.5",
        "seconds": "12.5",
        "tokens": "4096",
        "folder": str(Path("sweep/0").absolute()),
        "error": "",
    }
    assert (second["x"], second["test/accuracy"], second["val/loss"]) == ("", "", "3.0")
    assert "4,096" in text and "12.5" in text and "seed" not in text


@pytest.mark.parametrize(
    ("runs", "code"),
    [
        ([done], 0),
        ([done, mistake, mistake], 2),
        ([mistake], 2),
        ([mistake, crash], 1),
        ([done, crash], 1),
        ([done, lambda folder: folder], 1),
    ],
)
def test_the_exit_code_says_who_is_to_blame(
    capsys: pytest.CaptureFixture[str], runs: list[Any], code: int
) -> None:
    for index, leave in enumerate(runs):
        folder = started(str(index), f"seed={index}")
        done(folder, 1.0) if leave is done else leave(folder)
    assert report(capsys)[0] == code


def test_only_a_crash_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    line = "optimizer.lr=fast: expected a number"
    assert (mistake(started("0")) / "error.txt").read_text() == f"error: {line}\n"
    text = (crash(started("1")) / "error.txt").read_text()
    assert text.startswith("RuntimeError: out of memory\nwith details\n")
    assert "Traceback (most recent call last)" in text and "in crash" in text
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"error: run 0: {line}",
        "error: run 1: RuntimeError: out of memory (traceback in sweep/1/error.txt)",
    ]


def test_debug_shows_all_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    folder = started("0")
    sweep.note_failure(folder, ValueError("no"), "a mistake", True)
    assert (folder / "error.txt").read_text().startswith("error: a mistake\n\n")
    assert "ValueError: no" in capsys.readouterr().err
    assert [run.users_mistake for run in sweep.collect(Path("sweep"))] == [True]


def test_a_failure_in_a_folder_with_old_results_is_a_failure() -> None:
    mistake(done(started("0"), 1.0))
    [run] = sweep.collect(Path("sweep"))
    assert run.error and not run.metrics


def test_runs_of_an_earlier_sweep_in_the_folder_are_left_out() -> None:
    for name in ("0", "1", "2"):
        mistake(started(name, f"seed={name}"))
    now = sweep._file_time_ns(Path("sweep"))
    os.utime("sweep/2/config/overrides.yaml", ns=(now - 10**9, now - 10**9))
    done(started("0", "seed=0"), 1.0)
    os.utime("sweep/1/config/overrides.yaml", ns=(now - 10**9, now - 10**9))
    assert [run.name for run in sweep.collect(Path("sweep"), now)] == ["0"]


def test_a_run_that_did_not_train_has_the_results_of_the_other() -> None:
    there = done(Path("elsewhere").absolute(), 1.5, seconds=7)
    folder = started("0")
    reuse.take(reuse.Finished(there, 1.5), folder)
    [run] = sweep.collect(Path("sweep"))
    assert (run.folder, run.metrics["val/loss"], run.summary["seconds"]) == (there, 1.5, 7)
    assert (run.name, run.score, run.error) == ("0", 1.5, None)


def hydra_config(*overrides: str) -> Any:
    """Hydra's part of the config in a sweep, as its jobs see it."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        typed = ["hydra.mode=MULTIRUN", *overrides]
        cfg = compose("train", overrides=typed, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def test_all_runs_are_kept_in_one_folder_whatever_is_swept() -> None:
    config = hydra_config("output_root='it\\'s here'")
    hook = sweep.Sweep()
    hook.on_multirun_start(config)
    assert sweep.Sweep.newest is hook
    assert (
        hook.folder.is_dir() and hook.folder.parent == Path("it's here/pretrain/sweeps").absolute()
    )
    pinned = config.hydra.overrides.hydra[-1]
    assert hydra_config("task=classification", pinned).hydra.sweep.dir == str(hook.folder)


def test_a_run_begins_with_what_is_swept(capsys: pytest.CaptureFixture[str]) -> None:
    command = {"hydra": {"overrides": {"task": ["data='text'", "compile=True", "seed=1,2"]}}}
    Path("sweep").mkdir()
    OmegaConf.save(OmegaConf.create(command), "sweep/multirun.yaml")
    job: Any = SimpleNamespace(
        runtime=SimpleNamespace(output_dir="sweep/1"),
        sweep=SimpleNamespace(dir="sweep"),
        overrides=SimpleNamespace(task=["data=text", "compile=true", "seed=2"]),
    )
    sweep.start_run(job)
    assert capsys.readouterr().out == "\nrun 1: seed=2\n"


def test_a_sweep_that_never_began_leaves_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    sweep.Sweep().on_multirun_start(hydra_config())
    [made] = Path("outputs/pretrain/sweeps").iterdir()
    (made / "multirun.yaml").touch()
    assert sweep.finish() == 0
    assert not Path("outputs/pretrain/sweeps").exists()
    Path("mine").mkdir()
    sweep.Sweep().on_multirun_start(hydra_config("hydra.sweep.dir=mine"))
    assert sweep.finish() == 0
    assert Path("mine").is_dir() and capsys.readouterr().out == ""


def test_runs_of_an_earlier_sweep_are_not_trained_anew(capsys: pytest.CaptureFixture[str]) -> None:
    done(started("0"), 2.0)
    into = "hydra.sweep.dir=sweep"
    with pytest.raises(SystemExit, match="2"):
        sweep.Sweep().on_multirun_start(hydra_config(into))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: sweep holds runs already") and sweep.GO_ON in line
    assert sweep.Sweep.newest is None
    for cure in sweep.GO_ON.split():
        hook = sweep.Sweep()
        hook.on_multirun_start(hydra_config(into, cure))
        assert sweep.Sweep.newest is hook


def test_only_the_sweeps_of_training_are_reported() -> None:
    assert sweep.is_sweep(hydra_config().hydra)
    assert not sweep.is_sweep(hydra_config("hydra.mode=RUN").hydra)
    assert not sweep.is_sweep(hydra_config("~hydra.callbacks.sweep").hydra)


def test_other_processes_of_a_run_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = crash(started("0"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    code, text = report(capsys)
    assert (code, text) == (0, "") and not Path("sweep/results.csv").exists()
    (folder / "error.txt").unlink()
    crash(folder)
    assert not (folder / "error.txt").exists() and capsys.readouterr().err == ""


def test_only_runs_that_said_why_they_failed_account_for_an_error_of_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = SimpleNamespace(folder=Path("sweep"), started_ns=0)
    assert not sweep.all_failed()
    monkeypatch.setattr(sweep.Sweep, "newest", here)
    mistake(started("0"))
    assert sweep.all_failed()
    cut_off = started("1")  # its launcher broke, and nothing else says so
    assert not sweep.all_failed()
    crash(cut_off)
    assert sweep.all_failed()
    done(started("2"), 1.0)
    assert not sweep.all_failed()
