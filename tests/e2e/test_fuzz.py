"""No command line ends in a traceback, whatever has happened to it on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fuzz_worker
import pytest
from commands import ROOT, environment
from fuzz_worker import Outcome
from fuzzing import OFFLINE, corrupted, make_world

COMMANDS = 1000
WORKERS = 4
"""More than there may be cores: some commands wait, for a server that does not answer."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tmp_path_factory.mktemp("fuzz") / "world"
    make_world(world)
    return world


@pytest.fixture(scope="module")
def outcomes(world: Path) -> list[Outcome]:
    """How all of them end; each worker takes the next one."""
    results = [world.with_name(f"results-{worker}") for worker in range(WORKERS)]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "e2e")))
    env = environment(**OFFLINE, GPTLIT_ALLOCATOR="system", PYTHONPATH=path)
    numbers, given = os.pipe()
    command = [sys.executable, fuzz_worker.__file__, world, *results]
    workers = subprocess.Popen(command, stdin=numbers, env=env)
    os.close(numbers)
    with os.fdopen(given, "wb") as pipe:
        for number in range(COMMANDS):
            pipe.write(number.to_bytes(fuzz_worker.NUMBER_BYTES, "big"))
    assert workers.wait() == 0
    lines = [line for result in results for line in result.read_text().splitlines()]
    return [Outcome(**json.loads(line)) for line in lines]


def what_is_wrong(end: Outcome) -> str | None:
    """Why a user could not be content with it."""
    if "Traceback" in end.stdout + end.stderr:
        return "a traceback"
    if end.code is None:
        return None if end.cpu_s >= fuzz_worker.TRAINS_S else "it hangs"
    if end.code not in (0, 2):
        return f"exit code {end.code}"
    # Of a sweep an earlier run may have warned.
    lines = [line for line in end.stderr.splitlines() if not line.startswith("warning: ")]
    errors = [line for line in lines if line.startswith("error: ")]
    if end.code == 2 and not errors:
        return "no message"
    several = len(errors) == len([line for line in errors if line.startswith("error: run ")])
    if end.code == 2 and len(lines) > 1 and not several:
        return "a message of several lines"
    return None


@pytest.mark.slow
def test_a_corrupted_command_line_is_answered_or_works(outcomes: list[Outcome]) -> None:
    assert len(outcomes) == COMMANDS
    bad = [
        f"{wrong}: {corrupted(end.number)}\n{end.stdout[-500:]}\n{end.stderr[-2000:]}"
        for end in outcomes
        if (wrong := what_is_wrong(end))
    ]
    assert not bad, f"{len(bad)} of {COMMANDS}\n" + "\n\n".join(bad[:20])


@pytest.mark.slow
def test_most_are_corrupted_and_some_work(outcomes: list[Outcome]) -> None:
    """Else the test above would show nothing."""
    codes = [end.code for end in outcomes]
    assert codes.count(2) > COMMANDS // 2
    assert codes.count(0) > COMMANDS // 20


@pytest.mark.slow
def test_a_refusal_does_not_wait_for_lightning(outcomes: list[Outcome]) -> None:
    """Which takes longer to import than all else that it may need. What is refused by a download
    that fails, or in training, had to come so far."""
    late = [
        f"{corrupted(end.number)}\n{end.stderr}"
        for end in outcomes
        if end.code == 2 and end.lightning and not end.stdout and "download" not in end.stderr
    ]
    assert not late, "\n\n".join(late)
    assert any(end.lightning for end in outcomes)
