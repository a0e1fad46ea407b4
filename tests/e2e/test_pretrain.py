"""From raw text to generated text, by the commands that users type."""

import csv
import json
import math
from pathlib import Path

import pytest
from commands import TINY, run, write_corpus

SHORT = (
    *TINY,
    "data=text",
    "data.path=corpus.txt",
    "trainer.max_steps=60",
    "trainer.val_interval=20",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    write_corpus(folder / "corpus.txt")
    done = run(
        "train", *SHORT, "logger=default", "seed=0", "optimizer.lr=1e-2", cwd=folder, DRAW="1"
    )
    assert done.returncode == 0, done.stderr
    (folder / "console.txt").write_text(done.stdout)
    return folder


def test_the_run_folder_is_complete(trained: Path) -> None:
    run_folder = (trained / "outputs" / "pretrain" / "latest").resolve()
    names = {str(path.relative_to(run_folder)) for path in run_folder.rglob("*")}
    assert names >= {
        "config/config.yaml",
        "config/overrides.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "summary.json",
    }
    for suffix, start in {"png": b"\x89PNG", "pdf": b"%PDF"}.items():
        assert (run_folder / "plots" / f"loss.{suffix}").read_bytes().startswith(start)
    assert list(run_folder.glob("tensorboard/events.out.tfevents.*"))


def test_the_summary_agrees_with_the_metrics(trained: Path) -> None:
    run_folder = trained / "outputs" / "pretrain" / "latest"
    summary = json.loads((run_folder / "summary.json").read_text())
    keys = "task model parameters device precision seed steps tokens seconds tokens_per_second"
    assert set(summary) == {*keys.split(), "metrics", "best_checkpoint", "versions", "git_commit"}
    assert (summary["task"], summary["seed"], summary["steps"]) == ("pretrain", 0, 60)
    assert summary["tokens"] == 60 * 8 * 32
    with (run_folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 10, 20, 30, 40, 50, 60]
    losses = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    assert len(losses) == 4
    assert losses[-1] < 0.8 * math.log(257)
    assert summary["metrics"]["val/loss"] == pytest.approx(losses[-1])
    bits = losses[-1] / math.log(2)  # one byte a token
    assert float(rows[-1]["val/bits_per_byte"]) == pytest.approx(bits, rel=1e-3)


def test_the_console_says_where_everything_is_and_what_to_type_next(trained: Path) -> None:
    console = (trained / "console.txt").read_text()
    last = console.strip().splitlines()[-5:]
    assert last[0].startswith("done in ")
    assert "best.ckpt" in last[1] and "plots" in last[2]
    assert "python generate.py ckpt=outputs/pretrain/" in last[3]
    assert "tensorboard --logdir outputs" in last[4]
    assert "Warning" not in console


def test_generation_continues_the_newest_run(trained: Path) -> None:
    greedy = [
        run("generate", "prompt=line 3", "max_new_tokens=12", *ckpt, cwd=trained)
        for ckpt in ([], ["ckpt=outputs/pretrain/latest"])
    ]
    assert all(done.returncode == 0 for done in greedy), greedy[0].stderr
    assert greedy[0].stdout == greedy[1].stdout
    assert greedy[0].stdout.startswith("line 3")
    assert len(greedy[0].stdout.rstrip("\n")) > len("line 3")


def test_samples_differ_and_are_repeatable(trained: Path) -> None:
    args = ("prompt=line", "temperature=1.5", "num_samples=3", "max_new_tokens=20")
    first, again = (run("generate", *args, cwd=trained).stdout for _ in range(2))
    assert first == again
    assert len(set(first.split("-" * 20 + "\n"))) == 3


def test_an_interactive_session_ends_with_quit(trained: Path) -> None:
    done = run("generate", "max_new_tokens=5", cwd=trained, stdin="line 1\nline 2\nquit\nline 3\n")
    assert done.returncode == 0
    assert "line 1" in done.stdout and "line 2" in done.stdout
    assert "line 3" not in done.stdout


def test_a_file_of_prompts_gives_a_jsonl(trained: Path) -> None:
    (trained / "prompts.txt").write_text("line 1\n\nline 22 says, that\n")
    args = ("prompts=prompts.txt", "output=out.jsonl", "num_samples=2", "max_new_tokens=5")
    assert run("generate", *args, cwd=trained).returncode == 0
    lines = [json.loads(line) for line in (trained / "out.jsonl").read_text().splitlines()]
    prompts = [line["prompt"] for line in lines]
    assert prompts == ["line 1", "line 1", "line 22 says, that", "line 22 says, that"]
    assert all(line["completion"] for line in lines)


def test_a_sweep_runs_each_value(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    args = (*SHORT, "trainer.max_steps=2", "optimizer.lr=1e-3,1e-2", "-m")
    done = run("train", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summaries = sorted(tmp_path.glob("outputs/pretrain/sweeps/*/*/summary.json"))
    assert [path.parent.name for path in summaries] == ["0", "1"]
    assert not (tmp_path / "outputs" / "pretrain" / "latest").exists()


def test_debug_trains_two_steps(tmp_path: Path) -> None:
    done = run("train", "debug=true", "device=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 steps" in done.stdout
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["debug"]
