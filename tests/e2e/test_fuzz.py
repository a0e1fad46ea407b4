"""No command line ends in a traceback, whatever has happened to it on the way."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import fuzz_worker
import pytest
from commands import ROOT, command, environment
from fuzz_worker import Outcome
from fuzzing import OFFLINE, Command, corrupted, make_world

COMMANDS = 1000
SAMPLE = 30
"""Of the refused ones, those that are repeated in a process of their own, imports and all."""
ANSWER_S = 3.0
ATTEMPTS = 3
"""A busy neighbour on the same core lengthens CPU seconds too; the least counts."""
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
    workers = [
        subprocess.Popen(
            [sys.executable, fuzz_worker.__file__, world, result], stdin=numbers, env=env
        )
        for result in results
    ]
    os.close(numbers)
    with os.fdopen(given, "wb") as pipe:
        for number in range(COMMANDS):
            pipe.write(number.to_bytes(fuzz_worker.NUMBER_BYTES, "big"))
    assert [worker.wait() for worker in workers] == [0] * WORKERS
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
def test_a_refusal_takes_three_seconds_at_most(world: Path, outcomes: list[Outcome]) -> None:
    """CPU seconds, which other work on the machine does not lengthen. A command that has begun to
    train, to download or to read a corpus before it was refused is left out."""
    refused = [
        end
        for end in outcomes
        if end.code == 2 and not end.stdout and end.cpu_s < 1 and "download" not in end.stderr
    ]
    chosen = refused[:: max(1, len(refused) // SAMPLE)][:SAMPLE]
    for end in chosen:
        given = corrupted(end.number)
        done, cpu_s = run_alone(given, world)
        for _ in range(ATTEMPTS - 1):
            if cpu_s > ANSWER_S:
                cpu_s = min(cpu_s, run_alone(given, world)[1])
        assert done.returncode == 2, f"{given}\n{done.stderr}"
        assert done.stderr.count("error: ") == end.stderr.count("error: "), given
        assert cpu_s <= ANSWER_S, f"{cpu_s:.1f} s: {given}\n{done.stderr}"


def run_alone(given: Command, world: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """The command in a process of its own, and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command(given.script, *given.args),
        cwd=world,
        env=environment(**OFFLINE, GPTLIT_CACHE=str(world / "cache")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=300,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
