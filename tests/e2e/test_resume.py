"""A killed run goes on as if nothing had happened."""

import csv
import json
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from commands import TINY, command, environment, run, write_corpus

RUN = (
    *TINY,
    "data=text",
    "data.path=corpus.txt",
    "data.batch_size=4",
    "model.drop_rate=0.1",  # random numbers too must go on where they stopped
    "trainer.max_steps=240",
    "trainer.val_interval=60",
    "trainer.checkpoint_interval=7",
    "trainer.accumulate_grad_batches=2",
    "task.sample.every_n_validations=2",
    "hydra.run.dir=run",
)
"""Three epochs, with validations, checkpoints and epoch ends at different steps."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 240
    return content["state_dict"]


def rows(folder: Path) -> list[dict[str, str]]:
    """What was measured, without the columns that depend on the clock."""
    with (folder / "run" / "metrics.csv").open() as file:
        return [
            {k: v for k, v in row.items() if not k.endswith(("per_second", "mfu", "memory_gb"))}
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_corpus(folder / "corpus.txt")
    done = run("train", *RUN, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def kill_and_resume(folder: Path, delay_s: float) -> int:
    """Kill the run after a while, then let it go on; returns the step it went on from."""
    write_corpus(folder / "corpus.txt")
    env = environment(GPTLIT_CACHE=str(folder / "cache"))
    process = subprocess.Popen(
        command("train", *RUN), cwd=folder, env=env, stdout=subprocess.DEVNULL
    )
    checkpoints = folder / "run" / "checkpoints"
    while not checkpoints.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = checkpoints / "last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"] if last.exists() else 0
    done = run("train", *RUN, "resume=auto", cwd=folder)
    assert done.returncode == 0, done.stderr
    said = f"resumed at step {step}", f"finished at step {step} already"
    assert any(line in done.stdout for line in said) or step == 0
    return int(step)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_bit(undisturbed: Path, tmp_path: Path) -> None:
    random.seed(0)
    started = time.monotonic()
    # On any machine most of them hit a run that is training.
    seconds = json.loads((undisturbed / "run" / "summary.json").read_text())["seconds"]
    delays = [random.uniform(0.0, 1.2 * seconds) for _ in range(10)]
    folders = [tmp_path / str(i) for i in range(10)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        steps = list(pool.map(kill_and_resume, folders, delays))
    print(f"killed at steps {steps}, {time.monotonic() - started:.0f} s")
    assert len(set(steps)) >= 4, f"the kills hit too few different moments: {steps}"
    expected, measured = weights(undisturbed), rows(undisturbed)
    for folder in folders:
        got = weights(folder)
        assert all(torch.equal(got[name], expected[name]) for name in expected)
        assert rows(folder) == measured


def test_a_finished_run_says_so_and_is_left_alone(undisturbed: Path) -> None:
    files = {path: path.read_bytes() for path in (undisturbed / "run").glob("*.*")}
    for resume in ("auto", "run"):
        done = run("train", *RUN, f"resume={resume}", cwd=undisturbed)
        assert done.returncode == 0, done.stderr
        assert "run: the run has finished at step 240 already" in done.stdout
    assert {path: path.read_bytes() for path in (undisturbed / "run").glob("*.*")} == files
