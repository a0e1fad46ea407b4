"""Two machines learn what one does, also where one of them fails on the way."""

import contextlib
import csv
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import ROOT, TINY, environment, run, write_corpus
from forked import Starter
from two_machines import ADDRESSES, INTERFACE, NotAllowedError, two_machines

RUN = (
    *TINY,
    "precision=fp32",
    "data=text",
    "data.path=corpus.txt",
    "trainer.max_steps=300",
    "trainer.val_interval=100",
    "trainer.checkpoint_interval=20",
    "trainer.log_every_n_steps=1",
    "task.sample.every_n_validations=0",
)
ALONE = ("unshare", "--pid", "--fork", "--kill-child")
"""All that a command starts ends with it."""
PATIENCE_S = 240
"""For what takes seconds on an idle machine."""


class Machines:
    """torchrun on both, one process on each."""

    def __init__(self, enter: list[list[str]], folder: Path, *args: str) -> None:
        self.outputs = [folder / "first.txt", folder / "second.txt"]
        self.processes = []
        env = environment(GPTLIT_CACHE=str(folder / "cache"), GLOO_SOCKET_IFNAME=INTERFACE)
        self._starters = [Starter(env, [*machine, *ALONE]) for machine in enter]
        for number, (starter, output) in enumerate(zip(self._starters, self.outputs, strict=True)):
            torchrun = [str(starter.python), "-m", "torch.distributed.run"]
            torchrun += ["--nnodes=2", f"--node-rank={number}", "--nproc-per-node=1"]
            torchrun += [f"--master-addr={ADDRESSES[0]}", "--master-port=29511"]
            with output.open("w") as file:
                process = subprocess.Popen(
                    [*torchrun, str(ROOT / "train.py"), *args],
                    cwd=folder,
                    env=env,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            self.processes.append(process)

    def kill(self, number: int) -> None:
        """Everything on one machine, at once."""
        self._starters[number].program.kill()

    def output(self, number: int) -> str:
        return self.outputs[number].read_text()


def losses(folder: Path) -> dict[tuple[int, str], float]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("train/loss", "val/loss")
    return {(int(r["step"]), n): float(r[n]) for r in rows for n in names if r.get(n)}


def wait_for(what: Callable[[], bool], machines: Machines) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        running = all(process.poll() is None for process in machines.processes)
        assert running, "".join(machines.output(n) for n in range(2))
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_machine_that_fails_ends_the_other_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    done = run("train", *RUN, "data.batch_size=8", "hydra.run.dir=one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = losses(tmp_path / "one")

    with contextlib.ExitStack() as stack:
        try:
            enter = stack.enter_context(two_machines())
        except NotAllowedError as error:
            pytest.skip(f"no network namespaces: {error}")
        args = (*RUN, "data.batch_size=4", "trainer=ddp", "output_root=runs", "resume=auto")
        saved_before: float = 0
        for failing in (1, 0):
            machines = Machines(enter, tmp_path, *args)
            for number in range(2):
                stack.callback(machines.kill, number)
            wait_for(lambda since=saved_before: newest_save(tmp_path) > since, machines)
            machines.kill(failing)
            left = machines.processes[1 - failing]
            assert left.wait(timeout=60) == 1
            assert "another process of this run has ended" in machines.output(1 - failing)
            assert "resume=auto" in machines.output(1 - failing)
            saved_before = newest_save(tmp_path)
        assert not list(tmp_path.glob("runs/pretrain/*/summary.json"))

        machines = Machines(enter, tmp_path, *args)
        for number in range(2):
            stack.callback(machines.kill, number)
        for process in machines.processes:
            assert process.wait(timeout=PATIENCE_S) == 0, machines.output(0) + machines.output(1)

    assert re.search(r"resumed at step \d+", machines.output(0))
    [folder] = [path for path in tmp_path.glob("runs/pretrain/*") if not path.is_symlink()]
    assert losses(folder) == pytest.approx(expected, abs=1e-4)
    assert expected[300, "val/loss"] < expected[0, "val/loss"] - 1


def newest_save(folder: Path) -> float:
    """When the run's last checkpoint was written; 0 if there is none."""
    files = folder.glob("runs/pretrain/*/checkpoints/last.ckpt")
    return max((file.stat().st_mtime for file in files), default=0)
