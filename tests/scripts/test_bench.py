"""scripts/bench.py measures every kind of thing, and says so where it cannot."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlit.model import GPTConfig, GPTModel
from gptlit.weights.export import export_huggingface

BENCH = Path(__file__).parents[2] / "scripts" / "bench.py"
NANO = ("--model", "gpt2-nano", "--tokenizer", "byte", "--device", "cpu", "--rounds", "1")

CONTESTANTS = {
    "train": ["gptlit", "gptlit-raw", "transformers-tuned"],
    "decode": ["gptlit-fp32", "gptlit-prompt-lookup", "transformers-fp32"],
    "instruct": ["packed"],
    "answers": ["gptlit", "transformers"],
    "data": ["gptlit", "tiktoken", "loader"],
    "startup": ["python", "import gptlit", "train.py modle=x"],
}
OPTIONS = {
    "train": (*NANO, "--context", "16", "--batch-size", "2", "--steps", "2", "--warmup", "1"),
    "decode": (
        *(*NANO, "--prompt-tokens", "4", "--new-tokens", "4", "--batch-size", "2"),
        *("--text", str(BENCH)),
    ),
    "instruct": (*NANO[:2], *NANO[4:], "--data", "FILE", "--steps", "2", "--warmup", "1"),
    "answers": (*NANO, "--data", "FILE", "--new-tokens", "4", "--sample", "2"),
    "data": ("--mb", "1", "--context", "64", "--seconds", "0.1", "--rounds", "1"),
    "startup": ("--rounds", "3"),
}


@dataclass
class Bench:
    exit_code: int
    output: str
    report: dict[str, Any]


def bench(folder: Path, kind: str, contestants: list[str], *options: str, **env: str) -> Bench:
    """One run of the script."""
    path = folder / f"{kind}.json"
    given = ["--contestants", ",".join(contestants), "--json", str(path)]
    done = subprocess.run(
        [sys.executable, str(BENCH), kind, *options, *given],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert path.exists(), done.stderr
    return Bench(done.returncode, done.stdout, json.loads(path.read_text()))


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Bench]]]:
    """One run of each kind; two at a time, since nothing here depends on how fast they are."""
    folder = tmp_path_factory.mktemp("benches")
    entries = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(100)]
    file = folder / "entries, [1]'s.json"
    file.write_text(json.dumps(entries))
    options = {k: [str(file) if o == "FILE" else o for o in OPTIONS[k]] for k in OPTIONS}
    with ThreadPoolExecutor(2) as pool:
        yield {k: pool.submit(bench, folder, k, CONTESTANTS[k], *options[k]) for k in options}


@pytest.mark.parametrize("kind", OPTIONS)
def test_each_kind_reports_its_contestants(kind: str, benches: dict[str, Future[Bench]]) -> None:
    run = benches[kind].result()
    assert run.exit_code == 0, run.report
    assert list(run.report["contestants"]) == CONTESTANTS[kind]
    assert kind in run.report["command"]
    assert run.report["versions"].keys() >= {"python", "gptlit", "torch", "transformers"}
    assert "git_commit" in run.report and not run.report["interrupted"]
    assert run.report["machine"]["environment"]["OMP_NUM_THREADS"] == "1"
    for name, row in run.report["contestants"].items():
        assert 0 < row["min"] <= row["median"] <= row["max"]
        assert name in run.output
        assert (row["memory_gb"] is not None) == (kind != "startup")
        assert (row["mfu"] is not None) == (kind == "train")


def test_trained_weights_are_those_of_an_exported_folder(tmp_path: Path) -> None:
    model = GPTModel(GPTConfig(257, context_length=64, emb_dim=32, n_heads=2, n_layers=1))
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)  # then it writes the first token of all for ever
    export_huggingface(model, "byte", tmp_path / "trained", 256, {})
    contestants = ["gptlit-fp32", "gptlit-prompt-lookup", "transformers-fp32"]
    options = ("--prompt-tokens", "4", "--new-tokens", "32", "--weights", tmp_path / "trained")
    # The folder has a tokenizer of its own.
    of_random = ["gpt2" if option == "byte" else option for option in NANO]
    run = bench(tmp_path, "decode", contestants, *of_random, *map(str, options))
    assert run.exit_code == 0, run.report
    [measured] = run.report["contestants"]["gptlit-prompt-lookup"]["rounds"]
    per_pass, what = measured["note"].split(maxsplit=1)
    assert what == "tokens a pass" and float(per_pass) > 3, "every guess comes true"


def test_ratios_are_those_of_the_medians_and_of_the_rounds(
    benches: dict[str, Future[Bench]],
) -> None:
    report = benches["startup"].result().report
    assert report["baseline"] == "python"
    ours, theirs = report["contestants"]["import gptlit"], report["contestants"]["python"]
    a, b = ([m["value"] for m in row["rounds"]] for row in (ours, theirs))
    assert len(a) == len(b) == 3
    assert ours["median"] == statistics.median(a)
    assert ours["ratio"]["of_medians"] == pytest.approx(statistics.median(a) / statistics.median(b))
    by_rounds = statistics.median(x / y for x, y in zip(a, b, strict=True))
    assert ours["ratio"]["by_rounds"] == pytest.approx(by_rounds)
    assert theirs["ratio"]["of_medians"] == 1


def test_lightning_costs_what_a_plain_step_is_faster(benches: dict[str, Future[Bench]]) -> None:
    report = benches["train"].result().report
    ours, plain = (report["contestants"][name]["median"] for name in ("gptlit", "gptlit-raw"))
    [cost] = report["costs"].values()
    assert cost["of_medians"] == pytest.approx(plain / ours - 1)


def test_nowhere_to_write_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "none" / "x.json"
    done = subprocess.run(
        [sys.executable, str(BENCH), "startup", "--contestants", "python", "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 2
    assert "in a folder that exists" in done.stderr and "round" not in done.stderr


def test_a_contestant_that_fails_shows_its_error_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("raise ImportError('a broken hydra')")
    names = ["python", "train.py --help"]
    run = bench(tmp_path, "startup", names, "--rounds", "2", PYTHONPATH=str(tmp_path))
    assert run.exit_code == 1
    error = run.report["contestants"]["train.py --help"]["error"]
    assert "a broken hydra" in error
    assert all(word in run.output for word in error.split())  # on however many lines
    assert len(run.report["contestants"]["python"]["rounds"]) == 2
