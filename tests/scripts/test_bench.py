"""scripts/bench.py measures every kind of thing, and says so where it cannot."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench.py"
NANO = ("--model", "gpt2-nano", "--tokenizer", "byte", "--device", "cpu")


def bench(
    folder: Path, *args: str, **env: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run it, with a few seconds' worth of work; the finished process and its report."""
    report = folder / "report.json"
    done = subprocess.run(
        [sys.executable, str(BENCH), *args, "--json", str(report)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done, json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.parametrize(
    ("kind", "contestants", "options"),
    [
        (
            "train",
            ["gptlit", "gptlit-raw", "transformers-tuned"],
            (*NANO, "--context", "16", "--batch-size", "2", "--steps", "2", "--warmup", "1"),
        ),
        (
            "decode",
            ["gptlit-fp32", "transformers-fp32"],
            (*NANO, "--prompt-tokens", "4", "--new-tokens", "4", "--batch-size", "2"),
        ),
        (
            "data",
            ["gptlit", "tiktoken", "loader"],
            ("--mb", "1", "--context", "64", "--seconds", "0.1"),
        ),
        ("startup", ["python", "import gptlit", "train.py --help", "train.py modle=x"], ()),
    ],
)
def test_each_kind_reports_its_contestants(
    tmp_path: Path, kind: str, contestants: list[str], options: tuple[str, ...]
) -> None:
    done, report = bench(
        tmp_path, kind, "--rounds", "1", "--contestants", ",".join(contestants), *options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(report["contestants"]) == contestants
    for name, row in report["contestants"].items():
        assert 0 < row["min"] <= row["median"] <= row["max"]
        assert name in done.stdout
        if kind != "startup":
            assert row["memory_gb"] > 0
        if kind == "train":
            assert row["mfu"] > 0


def test_ratios_are_those_of_the_medians_and_of_the_rounds(tmp_path: Path) -> None:
    done, report = bench(
        tmp_path, "startup", "--rounds", "3", "--contestants", "python,import gptlit"
    )
    assert done.returncode == 0, done.stderr
    assert report["baseline"] == "python"
    ours, theirs = report["contestants"]["import gptlit"], report["contestants"]["python"]
    a, b = ([m["value"] for m in row["rounds"]] for row in (ours, theirs))
    assert len(a) == len(b) == 3
    assert ours["median"] == statistics.median(a)
    assert ours["ratio"]["of_medians"] == pytest.approx(statistics.median(a) / statistics.median(b))
    by_rounds = statistics.median(x / y for x, y in zip(a, b, strict=True))
    assert ours["ratio"]["by_rounds"] == pytest.approx(by_rounds)
    assert theirs["ratio"]["of_medians"] == 1


def test_a_contestant_that_fails_shows_its_error_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("raise ImportError('a broken hydra')")
    contestants = ("--contestants", "python,train.py --help")
    done, report = bench(
        tmp_path, "startup", "--rounds", "2", *contestants, PYTHONPATH=str(tmp_path)
    )
    assert done.returncode == 1
    error = report["contestants"]["train.py --help"]["error"]
    assert "a broken hydra" in error
    assert error in " ".join(done.stdout.split())
    assert len(report["contestants"]["python"]["rounds"]) == 2
