"""Sweeps, searches and repetitions, by the commands that users type."""

import csv
import json
import re
from pathlib import Path

import pytest
from commands import TINY, run, run_anew, starter, write_corpus
from slurm_stub import with_slurm

SHORT = (
    *TINY,
    "data=text",
    "data.path=corpus.txt",
    "scheduler.warmup_steps=0",
    "trainer.max_steps=10",
    "trainer.val_interval=10",
    "trainer.gradient_clip_val=null",
    "task.sample.every_n_validations=0",
)
FOLDER = Path("outputs/pretrain/sweeps/lr")
RATES = "optimizer.lr=1e-3,fast,1e-2,1e30,3e-3,1e-4"
SWEEP = ("-m", *SHORT, RATES, f"hydra.sweep.dir={FOLDER}")
"""Four runs that finish, one with a bad value, and one that diverges."""
BEST_FIRST = ["2", "4", "0", "5", "1", "3"]
TRAINED = "step 10/10"
"""What the console shows of a run that trains to its end."""


def results(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_corpus(folder / "corpus.txt")
    done = run("train", *SWEEP, cwd=folder)
    assert done.returncode == 2, done.stderr
    (folder / "console.txt").write_text(done.stdout)
    (folder / "errors.txt").write_text(done.stderr)
    return folder


def test_runs_that_fail_do_not_end_the_others(swept: Path) -> None:
    rows = results(swept / FOLDER)
    rates = ["0.01", "0.003", "0.001", "0.0001", "fast", "1e+30"]
    assert [row["optimizer.lr"] for row in rows] == rates
    for row in rows[:4]:
        summary = json.loads((Path(row["folder"]) / "summary.json").read_text())
        assert float(row["val/loss"]) == summary["metrics"]["val/loss"]
        assert (float(row["seconds"]), int(row["tokens"])) == (summary["seconds"], 10 * 8 * 32)
    losses = [float(row["val/loss"]) for row in rows[:4]]
    assert losses == sorted(losses)
    assert rows[4]["error"].startswith("optimizer.lr=fast: expected a number")
    assert "training has diverged" in rows[5]["error"]


def test_failures_are_told_when_they_happen_and_kept_in_their_folders(swept: Path) -> None:
    lines = (swept / "errors.txt").read_text().splitlines()
    assert [line.partition(": ")[2].partition(": ")[0] for line in lines] == ["run 1", "run 3"]
    for line in lines:
        name, _, message = line.removeprefix("error: run ").partition(": ")
        assert (swept / FOLDER / name / "error.txt").read_text() == f"error: {message}\n"


def test_the_console_ends_with_the_table(swept: Path) -> None:
    console = (swept / "console.txt").read_text()
    assert "\nrun 2: optimizer.lr=0.01\n" in console
    table = console.partition("optimizer.lr ┃ best val/loss")[2]
    places = [table.index(value) for value in ("0.01 ", "0.003 ", "0.0001 ", "fast ", "1e+30 ")]
    assert places == sorted(places)
    assert f"6 runs, 2 failed; this table: {FOLDER / 'results.csv'}" in table
    assert "Warning" not in console


def test_the_same_command_again_trains_only_what_has_failed(swept: Path) -> None:
    before = results(swept / FOLDER)
    done = run("train", *SWEEP, "skip_if_trained=true", cwd=swept)
    assert done.returncode == 2
    for name in BEST_FIRST[:4]:
        assert f"skipped, being trained already: {FOLDER / name}, best score" in done.stdout
    assert TRAINED not in done.stdout and "step 0/10" in done.stdout
    assert results(swept / FOLDER) == before


def test_another_sweep_takes_what_an_earlier_one_has_trained(swept: Path) -> None:
    args = ("-m", *SHORT, "optimizer.lr=1e-3,1e-2", "skip_if_trained=true", "hydra.sweep.dir=new")
    done = run("train", *args, cwd=swept)
    assert done.returncode == 0, done.stderr
    assert TRAINED not in done.stdout
    rows = results(swept / "new")
    assert [row["run"] for row in rows] == ["1", "0"]
    assert [row["folder"] for row in rows] == [str(swept / FOLDER / name) for name in ("2", "0")]
    before = {row["run"]: row["val/loss"] for row in results(swept / FOLDER)}
    assert [row["val/loss"] for row in rows] == [before["2"], before["0"]]


def test_a_single_run_takes_that_of_a_sweep_and_leaves_no_folder(swept: Path) -> None:
    (swept / "torch.py").write_text("raise SystemExit('torch was imported')")
    skip = ("skip_if_trained=true", "resume=auto")  # nothing is left to go on with
    args = (*SHORT, "optimizer.lr=0.01", *skip, "logger=default")
    env = {"PYTHONPATH": str(swept), "GPTLIT_ALLOCATOR": "system"}
    done = run_anew("train", *args, cwd=swept, **env)
    (swept / "torch.py").unlink()
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert line.startswith(f"skipped, being trained already: {FOLDER / '2'}, best score ")
    assert [path.name for path in (swept / "outputs" / "pretrain").iterdir()] == ["sweeps"]


BROKEN = """
def DataModule(**options):
    raise ZeroDivisionError("our own mistake")
"""


def test_a_crash_keeps_its_traceback_and_the_table_says_what_it_was(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    (tmp_path / "broken.py").write_text(BROKEN)
    args = ("-m", *SHORT, "data._target_=broken.DataModule", "optimizer.lr=1,fast")
    done = run("train", *args, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    [folder] = (tmp_path / "outputs" / "pretrain" / "sweeps").iterdir()
    assert [row["run"] for row in results(folder)] == ["0", "1"]
    assert "ZeroDivisionError" in results(folder)[0]["error"]
    trace = (folder / "0" / "error.txt").read_text()
    assert "our own mistake" in trace and "broken.py" in trace
    [line, _] = done.stderr.splitlines()
    assert f"traceback in {(folder / '0' / 'error.txt').relative_to(tmp_path)}" in line


def test_a_sweep_over_options_that_do_not_exist_is_refused_before_it_begins(tmp_path: Path) -> None:
    done = run("train", "-m", *TINY, "scheduler=cosine,cosinus", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: unknown scheduler=cosinus")
    assert not list(tmp_path.glob("outputs/pretrain/*"))


@pytest.mark.slow
def test_two_processes_sweep_together(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    ddp = ("trainer=ddp", "trainer.devices=2", "optimizer.lr=fast,1e-3,1e30,1e-2")
    for again in (False, True):
        skip = f"skip_if_trained={again}"
        done = run("train", "-m", *SHORT, *ddp, skip, "hydra.sweep.dir=sweep", cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert done.stdout.count("4 runs, 2 failed") == 1
        rows = results(tmp_path / "sweep")
        assert [row["run"] for row in rows] == ["3", "1", "0", "2"]
        assert {row["tokens"] for row in rows[:2]} == {str(10 * 2 * 8 * 32)}
        assert done.stdout.count(TRAINED) == (0 if again else 2)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "corpus.txt", "sweep"}


def test_a_plugin_that_is_missing_is_named(tmp_path: Path) -> None:
    args = ("-m", *TINY, "hydra/launcher=nowhere", "seed=1,2")
    done = run("train", *args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: hydra/launcher/nowhere is not installed: pip install")


def test_a_search_with_optuna_goes_on_where_it_stopped(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    write_corpus(tmp_path / "corpus.txt")
    search = ("-m", *SHORT, "hparams_search=optuna", "hydra.sweeper.n_trials=2")
    for _ in range(2):
        done = run("train", *search, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(TRAINED) == 2
    failing = run("train", *search, "model.n_heads=5", cwd=tmp_path)
    assert failing.returncode == 2 and failing.stdout.count("must be divisible") == 2
    [study] = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/outputs/optuna.db")
    assert study.study_name == "pretrain-gpt2-nano-text-val/loss" and study.n_trials == 6
    (tmp_path / "outputs" / "optuna.db").rename(tmp_path / "optuna.db")
    failing = run("train", *search, "model.n_heads=5", cwd=tmp_path)  # there is no best run
    assert failing.returncode == 2 and failing.stderr.count("error: ") == 2
    assert "2 runs, 2 failed; this table" in failing.stdout
    tables = (tmp_path / "outputs" / "pretrain" / "sweeps").iterdir()
    scores = [float(row["score"]) for table in tables for row in results(table) if row["score"]]
    assert len(scores) == 4 and study.best_trial.value == pytest.approx(min(scores))


def test_runs_side_by_side_are_reported_as_others(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    write_corpus(tmp_path / "corpus.txt")
    local = ("launcher=local", *SHORT, RATES, "hydra.sweep.dir=sweep", "skip_if_trained=true")
    done = run("train", *local, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert [row["run"] for row in results(tmp_path / "sweep")] == BEST_FIRST
    assert done.stdout.count("6 runs, 2 failed") == 1 and done.stdout.count(TRAINED) == 4
    assert done.stderr.count("error: run ") == 2
    again = run("train", *local, "hydra.launcher.n_jobs=1", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stdout.count("skipped, being trained already") == 4 and TRAINED not in again.stdout


@pytest.mark.slow
def test_runs_as_slurm_jobs_are_reported_as_others(tmp_path: Path) -> None:
    """Also one that meets its time limit, which goes on from where it was."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    write_corpus(tmp_path / "corpus.txt")
    limit = tmp_path / "sweep" / "0" / "checkpoints" / "last.ckpt"
    env = with_slurm(tmp_path, starter().python, SLURM_STUB_LIMIT=str(limit))
    long = ("trainer.max_steps=400", "trainer.val_interval=400", "trainer.checkpoint_interval=20")
    rates = "optimizer.lr=1e-3,fast,1e-2,1e30"
    slurm = ("launcher=slurm", *SHORT, *long, rates, "hydra.sweep.dir=sweep")
    done = run("train", *slurm, cwd=tmp_path, **env)
    assert done.returncode == 2, done.stderr
    assert [row["run"] for row in results(tmp_path / "sweep")] == ["2", "0", "1", "3"]
    assert "4 runs, 2 failed" in done.stdout
    script = (tmp_path / "slurm" / "job-100.sh").read_text()
    for line in ("--time=240", "--gpus-per-node=1", "--signal=USR2@120", "--array=0-3%4"):
        assert f"#SBATCH {line}" in script
    [console] = (tmp_path / "sweep" / ".submitit").glob("*/*_0_0_log.out")
    assert re.search(r"resumed at step \d+", console.read_text())


def test_slurm_is_asked_for_where_there_is_none(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = run("train", "launcher=slurm", *TINY, "seed=1,2", cwd=tmp_path, PATH="/nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: launcher=slurm: this machine has no Slurm")
