"""Two processes learn what one does: in every task, with whole copies of the model and with parts
of it; and what they save is what one process saves."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import TINY, run, write_corpus

BASE = (
    *TINY,
    "precision=fp32",
    "weights=none",
    "optimizer.lr=2e-3",
    "trainer.log_every_n_steps=1",
)
SPEED = ("train/tokens_per_second", "train/mfu", "train/memory_gb")


def pretrain(folder: Path) -> list[str]:
    write_corpus(folder / "corpus.txt", 200)
    length = ["trainer.max_steps=16", "trainer.val_interval=8", "task.sample.max_new_tokens=3"]
    return ["data.path=corpus.txt", *length]


def classification(folder: Path) -> list[str]:
    """46 training texts of unequal length: the last step of an epoch is a smaller one."""
    with (folder / "messages.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for i in range(67):
            words = "win cash " if i % 3 == 0 else "see you "
            rows.writerow([f"{words}{'x' * (i % 11)} {i}", "spam" if i % 3 == 0 else "ham"])
    data = ["data=csv", "data.path=messages.csv", "data.balance=weights", "data.eval_batch_size=8"]
    return ["task=classification", *data, "trainer.max_epochs=2"]


def instruction(folder: Path) -> list[str]:
    """52 training entries, whose responses have from 1 to 15 targets."""
    entries = [
        {"instruction": f"After {i}?", "input": "", "output": f"{i + 1}{'!' * (i % 13)}"}
        for i in range(61)
    ]
    (folder / "entries.json").write_text(json.dumps(entries))
    data = ["data=instructions", "data.path=entries.json", "prompt_format=plain"]
    text = ["task.answers.max_new_tokens=2", "task.sample.max_new_tokens=2"]
    length = ["model.context_length=64", "trainer.max_epochs=2"]
    return ["task=instruction", *data, *text, *length]


def cached(folder: Path) -> list[str]:
    return [*classification(folder), "task.trainable=last_block", "task.cache_features=true"]


def train(folder: Path, name: str, *args: str) -> Path:
    done = run("train", *BASE, *args, f"hydra.run.dir={name}", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / name


def measured(folder: Path) -> dict[tuple[str, str], float]:
    """All that a run has logged, by step and name, and its final metrics. Of a perplexity, which
    numbers of 32 bits do not tell to 1e-4, the logarithm."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {
        (row["step"], name): float(value)
        for row in rows
        for name, value in row.items()
        if value and name not in (*SPEED, "step")
    }
    final = json.loads((folder / "summary.json").read_text())["metrics"]
    found |= {("end", name): value for name, value in final.items() if name not in SPEED}
    return {(step, n): math.log(v) if "perplexity" in n else v for (step, n), v in found.items()}


@pytest.mark.parametrize(
    ("task", "batch"),
    [
        # A step of two micro-batches on each of two processes.
        (pretrain, ["data.batch_size=2", "trainer.accumulate_grad_batches=2"]),
        pytest.param(classification, ["data.batch_size=4"], marks=pytest.mark.slow),
        pytest.param(cached, ["data.batch_size=4"], marks=pytest.mark.slow),
        pytest.param(instruction, ["data.batch_size=4"], marks=pytest.mark.slow),
    ],
)
def test_the_curves_are_those_of_one_process_with_the_same_global_batch(
    task: Callable[[Path], list[str]], batch: list[str], tmp_path: Path
) -> None:
    args = task(tmp_path)
    expected = measured(train(tmp_path, "one", *args, "data.batch_size=8"))
    steps = [loss for (_, name), loss in expected.items() if name == "train/loss"]
    assert len(steps) >= 12
    assert steps[-1] < steps[0] - 0.01
    for strategy in ("ddp", "fsdp"):
        two = [f"trainer={strategy}", "trainer.devices=2", *batch]
        assert measured(train(tmp_path, strategy, *args, *two)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_a_sharded_run_is_saved_as_one_process_would_and_goes_on_with_any_number_of_them(
    tmp_path: Path,
) -> None:
    sharded = ("data.batch_size=4", "trainer=fsdp", "trainer.devices=2")
    whole = ("data.batch_size=8", "trainer=default", "trainer.devices=1")
    args = [*pretrain(tmp_path), "scheduler.total_steps=16"]
    expected = measured(train(tmp_path, "one", *args, *whole))

    args[1] = "trainer.max_steps=8"
    half = train(tmp_path, "sharded", *args, *sharded)
    shutil.copytree(half, tmp_path / "whole")
    done = run("generate", "ckpt=sharded", "prompt=line", "max_new_tokens=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("line")

    args[1] = "trainer.max_steps=16"
    for name, processes in {"sharded": sharded, "whole": whole}.items():
        went_on = train(tmp_path, name, *args, *processes, f"resume={name}")
        assert measured(went_on) == pytest.approx(expected, abs=1e-4)
