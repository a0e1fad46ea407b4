"""What a run has left in its folder is changed by no command that is refused."""

from pathlib import Path

import pytest
from commands import TINY, run, write_corpus

ARGS = (
    *TINY,
    "data.path=corpus.txt",
    "scheduler.warmup_steps=0",
    "trainer.max_steps=4",
    "trainer.val_interval=4",
    "task.sample.every_n_validations=0",
    "hydra.run.dir=run",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in it."""
    folder = tmp_path_factory.mktemp("home")
    write_corpus(folder / "corpus.txt")
    done = run("train", *ARGS, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    lock = folder / "config" / "run.lock"  # says who had it last
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p != lock}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("resume=run", "optimizer.lr=abc"), "optimizer.lr=abc: expected a number"),
        (("resume=run", "data.path=nowhere.txt"), "data.path=nowhere.txt: there is no such"),
        (("resume=run", "model.emb_dim=64"), "the run has model.emb_dim=32, not 64"),
        (("resume=run", "device=cuda"), "device=cuda is not available"),
        (ARGS, "run holds a run already: to go on with it add resume=auto"),
        ((*ARGS, "seed=2"), "run holds a run of another config already: choose another"),
        ((*ARGS, "optimizer.lr=abc"), "optimizer.lr=abc: expected a number"),
        (
            ("task=classification", "data=spam-sample", *TINY, "hydra.run.dir=run"),
            "run holds a run of another config already",
        ),
    ],
    ids=str,
)
def test_a_refused_command_changes_nothing(home: Path, args: tuple[str, ...], message: str) -> None:
    before = contents(home / "run")
    done = run("train", *args, cwd=home)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert contents(home / "run") == before
    assert not (home / "run" / "config" / "draft").exists()


def test_a_finished_run_that_is_asked_to_go_on_keeps_its_configs(home: Path) -> None:
    before = contents(home / "run")
    for again in (("resume=run",), (*ARGS, "resume=auto")):
        done = run("train", *again, cwd=home)
        assert done.returncode == 0, done.stderr
        assert "the run has finished at step 4 already" in done.stdout
        assert contents(home / "run") == before


def test_configs_become_those_of_the_command_that_goes_on(home: Path) -> None:
    done = run("train", "resume=run", "trainer.max_steps=6", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "max_steps: 6" in (home / "run" / "config" / "config.yaml").read_text()
    assert "- trainer.max_steps=6" in (home / "run" / "config" / "overrides.yaml").read_text()
    assert not (home / "run" / "config" / "draft").exists()


def test_a_run_without_checkpoints_may_begin_anew_in_its_folder(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "slurm.out").touch()
    done = run("train", *ARGS, "resume=auto", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("resume=auto: no unfinished run of this command, so a new one\n")
    assert (tmp_path / "run" / "summary.json").is_file()
