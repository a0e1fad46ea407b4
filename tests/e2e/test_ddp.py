"""Two processes learn what one does."""

import csv
from pathlib import Path

import pytest
from commands import TINY, run, write_corpus

RUN = (
    *TINY,
    "precision=fp32",
    "data=text",
    "data.path=corpus.txt",
    "trainer.max_steps=24",
    "trainer.val_interval=12",
    "trainer.log_every_n_steps=1",
    "task.sample.every_n_validations=0",
)


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(25))
    values = [float(row[name]) for row in rows for name in ("train/loss", "val/loss") if row[name]]
    assert len(values) == 24 + 3
    return values


def test_the_loss_curve_is_that_of_one_process_with_the_same_global_batch(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    variants = {
        "one": ["data.batch_size=8"],
        "accumulated": ["data.batch_size=2", "trainer.accumulate_grad_batches=4"],
        "two": ["data.batch_size=4", "trainer=ddp", "trainer.devices=2"],
        "both": [
            "data.batch_size=2",
            "trainer=ddp",
            "trainer.devices=2",
            "trainer.accumulate_grad_batches=2",
        ],
    }
    for name, args in variants.items():
        done = run("train", *RUN, *args, f"hydra.run.dir={name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    expected = losses(tmp_path / "one")
    assert expected[-1] < expected[0] - 0.5
    for name in variants:
        assert losses(tmp_path / name) == pytest.approx(expected, abs=1e-4)
