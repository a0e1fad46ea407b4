"""Tokenized once, interrupted or not, and trained on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import ROOT, TINY, environment, run, starter

SCRIPT = "scripts/prepare_corpus"
PREPARE = (
    "input=texts",
    "out=corpus",
    "tokenizer=byte",
    "val_fraction=0.2",
    "shard_tokens=1000000",
)
EAGER = """
import gptlit.data.journal as journal
from gptlit.cli.prepare_corpus import main
journal.POINT_S = 0.0
main()
"""
"""The script, but for a note after each job rather than every few seconds."""


def write_texts(folder: Path) -> None:
    (folder / "texts").mkdir()
    for name in range(6):
        lines = (f"File {name} says that {i} is before {i + 1}.\n" for i in range(60_000))
        (folder / "texts" / f"{name}.txt").write_text("".join(lines))


def interrupt(folder: Path, with_signal: signal.Signals, notes: int) -> None:
    """Prepare until at least so many notes have been taken."""
    env = environment(GPTLIT_CACHE=str(folder / "cache"), PYTHONPATH=str(ROOT))
    process = subprocess.Popen(
        [sys.executable, "-c", EAGER, *PREPARE], cwd=folder, env=env, stderr=subprocess.DEVNULL
    )
    progress = folder / "corpus.unfinished" / "progress.ndjson"
    while not progress.exists() or progress.read_bytes().count(b"\n") <= notes:
        assert process.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.002)
    process.send_signal(with_signal)
    assert process.wait() == (130 if with_signal == signal.SIGINT else -with_signal)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_interrupted_preparation_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    write_texts(tmp_path)
    interrupt(tmp_path, signal.SIGKILL, 2)
    early = run("train", *TINY, "data.path=corpus", cwd=tmp_path)
    assert early.returncode == 2
    assert "corpus is not whole yet" in early.stderr
    interrupt(tmp_path, signal.SIGINT, 5)
    done = run(SCRIPT, *PREPARE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "going on at" in done.stdout
    assert not (tmp_path / "corpus.unfinished").exists()
    once = run(SCRIPT, *PREPARE, "out=once", cwd=tmp_path)
    assert "next: python train.py data.path=once tokenizer=byte" in once.stdout
    assert "going on" not in once.stdout
    assert content(tmp_path / "corpus") == content(tmp_path / "once")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("inptu=texts", "out=c"), "unknown key 'inptu': did you mean 'input'?"),
        (("out=c",), "input must be given"),
        (("input=text", "out=c"), "did you mean input=texts?"),
        (("input=texts", "out=texts/c"), "out=texts/c is inside input=texts"),
        (("input=texts", "val_input=texts/a.txt", "out=c"), "is in input and in val_input"),
        (("input=texts", "out=c", "val_fraction=2"), "val_fraction=2: must be > 0 and < 1"),
        (("input=texts", "out=c", "tokenizer=gtp2"), "did you mean gpt2?"),
        (("input=table.jsonl", "out=c"), "there are: 'body'; set column="),
        (("input=texts", "out=texts/a.txt/c"), "out=texts/a.txt/c is inside"),
        (("input=bad.txt", "out=c"), "bad.txt is not UTF-8 text"),
        (("input=texts", "out=~no one/c"), "out=~no one/c: Could not determine home directory; "),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(
    overrides: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    (tmp_path / "table.jsonl").write_text('{"body": "text"}\n')
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe text")
    before = sorted(tmp_path.rglob("*"))
    done = run(SCRIPT, *overrides, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_prepared_folder_trains_and_its_tokenizer_is_checked(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(10):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"Text {i} is one of ten. " * 20)
    assert run(SCRIPT, *PREPARE, cwd=tmp_path).returncode == 0
    done = run("train", *TINY, "data.path=corpus", "trainer.max_steps=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "prepared, 0.2 of it for validation" in done.stdout
    other = run("train", "data.path=corpus", "tokenizer=gpt2", cwd=tmp_path)
    assert other.returncode == 2
    assert "give tokenizer=byte, or prepare it again" in other.stderr
    assert other.stderr.count("\n") == 1


LONG_RUN = (
    *TINY,
    "data.path=corpus",
    "data.batch_size=4",
    "trainer.max_steps=60",
    "trainer.val_interval=30",
    "trainer.limit_val_batches=4",
    "trainer.checkpoint_interval=5",
    "task.sample.every_n_validations=0",
)


@pytest.mark.slow
def test_a_killed_run_on_a_prepared_folder_resumes_bit_for_bit(tmp_path: Path) -> None:
    write_texts(tmp_path)
    assert run(SCRIPT, *PREPARE, cwd=tmp_path).returncode == 0
    assert run("train", *LONG_RUN, "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    args, err = (*LONG_RUN, "hydra.run.dir=killed"), tmp_path / "console.txt"
    cache = str(tmp_path / "cache")
    process = starter().start("train", *args, cwd=tmp_path, err=err, GPTLIT_CACHE=cache)
    while not (tmp_path / "killed" / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    done = run("train", *LONG_RUN, "hydra.run.dir=killed", "resume=auto", cwd=tmp_path)
    assert "resumed at step" in done.stdout, done.stderr
    whole, killed = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "killed")
    )
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
