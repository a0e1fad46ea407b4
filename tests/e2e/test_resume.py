"""A killed run goes on as if nothing had happened."""

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from commands import run
from killing import MOMENTS, RUNS, STEPS, Run

KILLS = 17
"""Of each task's runs: more than 50 in all."""
IN_A_ROW = 5
"""Kills of one run, before it may come to its end."""


def whole_run(task: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nobody disturbs, and how long it takes."""
    whole = Run(task, tmp_path_factory.mktemp("undisturbed") / task)
    whole.time()
    assert whole.last_step() == STEPS[task]
    return whole


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return whole_run("pretrain", tmp_path_factory)


@pytest.fixture(scope="module")
def undisturbed(pretrained: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A run of each task."""
    others = [task for task in RUNS if task != pretrained.task]
    return [pretrained, *(whole_run(task, tmp_path_factory) for task in others)]


def kill_again_and_again(undisturbed: Run, folder: Path, kills: int, seed: int) -> list[str]:
    """Kill runs so many times in all, each a few times; those that come to their end must be like
    the undisturbed one. Returns a line for each kill."""
    rng = random.Random(seed)
    history: list[str] = []
    for number in count():
        killed = Run(undisturbed.task, folder / str(number))
        for _ in range(min(IN_A_ROW, kills - len(history))):
            how = rng.choice((signal.SIGKILL, signal.SIGTERM))
            if not killed.kill(how, rng.choice(MOMENTS), rng, undisturbed):
                break
        killed.finish()
        killed.assert_like(undisturbed)
        history += killed.history
        if len(history) == kills:
            return history
    raise AssertionError


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_no_bit(
    undisturbed: list[Run], tmp_path: Path
) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(
                kill_again_and_again, whole, tmp_path / f"{whole.task}{part}", n, 10 * row + part
            )
            for row, whole in enumerate(undisturbed)
            for part, n in enumerate((KILLS // 2, KILLS - KILLS // 2))
        ]
        history = [line for job in jobs for line in job.result()]
    print(f"{len(history)} kills in {time.monotonic() - started:.0f} s", *history, sep="\n")
    assert len(history) >= 50
    steps = {line.rpartition(" ")[2] for line in history}
    assert len(steps) >= 15, "the kills hit too few different moments"
    for moment in MOMENTS:
        assert any(moment in line for line in history)


def test_a_finished_run_says_so_and_is_left_alone(pretrained: Run) -> None:
    files = {path: path.read_bytes() for path in pretrained.folder.glob("*.*")}
    for resume in ("auto", "run"):
        done = run("train", *pretrained.args, f"resume={resume}", cwd=pretrained.home)
        assert done.returncode == 0, done.stderr
        assert "run: the run has finished at step 120 already" in done.stdout
    assert {path: path.read_bytes() for path in pretrained.folder.glob("*.*")} == files
