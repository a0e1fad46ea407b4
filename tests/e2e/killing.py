"""Runs that are killed at random moments, go on with resume=auto, and are compared at the end with
one that nobody disturbed."""

import contextlib
import csv
import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from commands import TINY, run, starter, write_corpus
from forked import Forked

COMMON = (*TINY, "trainer.log_every_n_steps=5", "hydra.run.dir=run")
RUNS = {
    # Three epochs, with validations, checkpoints and epoch ends at different steps.
    "pretrain": (
        "data=text",
        "data.path=corpus.txt",
        "data.batch_size=4",
        "model.drop_rate=0.1",  # random numbers too must go on where they stopped
        "trainer.max_steps=120",
        "trainer.val_interval=30",
        "trainer.checkpoint_interval=7",
        "trainer.accumulate_grad_batches=2",
        "task.sample.every_n_validations=2",
    ),
    "classification": (
        "data=spam-sample",
        "data.batch_size=8",
        "task.trainable=last_block",
        "task.cache_features=true",
        "trainer.max_epochs=2",
        "trainer.val_interval=35",
        "trainer.checkpoint_interval=10",
    ),
    "instruction": (
        "data=instructions-sample",
        "model.context_length=64",
        "model.drop_rate=0.1",
        "trainer.max_steps=120",
        "trainer.val_interval=30",
        "trainer.checkpoint_interval=8",
        "task.sample.every_n_validations=0",
        "task.answers.max_new_tokens=4",
    ),
}
REPORTS: dict[str, tuple[str, ...]] = {
    "pretrain": (),
    "classification": ("test-predictions.csv",),
    "instruction": ("instruction-data-with-response.json",),
}
CLOCK = ("per_second", "mfu", "memory_gb")
"""Ends of the names of what depends on the machine."""
RESUME_ME = 75
"""The documented exit code of a run that was asked to stop."""
PARTS = ("state_dict", "optimizer_states", "lr_schedulers")
"""Of a checkpoint: what must be the same bit for bit."""


class Run:
    """A run of a task in a folder, and what was done to it."""

    def __init__(self, task: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        write_corpus(folder / "corpus.txt", 200)
        self.task, self.home, self.folder = task, folder, folder / "run"
        self.args = (*COMMON, *RUNS[task], "resume=auto")
        self.checkpoints = self.folder / "checkpoints"
        self.seconds = 0.0
        """From the start of its process to the end, if nobody disturbs it."""
        self.history: list[str] = []
        """A line for each kill."""

    def finish(self) -> None:
        """Let it go on to its end."""
        done = run("train", *self.args, cwd=self.home)
        assert done.returncode == 0, self._report(done.stderr)

    def time(self) -> None:
        """Let it go from its start to its end, and note how long that takes."""
        process = self._start()
        started = time.monotonic()
        assert process.wait(timeout=600) == 0, self._report(self._said())
        self.seconds = time.monotonic() - started

    def kill(
        self,
        number: signal.Signals,
        moment: str,
        rng: random.Random,
        undisturbed: "Run",
    ) -> bool:
        """Start the run, or let it go on, until it is killed.

        Args:
            number: SIGKILL or SIGTERM.
            moment: one of `MOMENTS`.
            rng: says when exactly.
            undisturbed: knows how long it takes.

        Returns:
            whether it was killed before it came to its end.
        """
        process = self._start()
        before = self.last_step()
        self._wait(process, moment, rng, undisturbed)
        process.send_signal(number)
        code = process.wait(timeout=600)
        said = self._said()
        self._check_end(number, code, said, before)
        if code != 0:
            self.history.append(f"{number.name} {moment}: step {self.last_step()}")
        return code != 0

    def _start(self) -> Forked:
        cache, err = str(self.home / "cache"), self.home / "stderr.txt"
        return starter().start("train", *self.args, cwd=self.home, err=err, GPTLIT_CACHE=cache)

    def _said(self) -> str:
        return (self.home / "stderr.txt").read_text()

    def _wait(
        self,
        process: Forked,
        moment: str,
        rng: random.Random,
        undisturbed: "Run",
    ) -> None:
        """Until the moment has come, or the process has ended."""
        before, training = self.last_step(), undisturbed.facts()["seconds"]
        if moment == "anywhere":
            end = time.monotonic() + rng.uniform(0, undisturbed.seconds)
            _until(process, lambda: time.monotonic() >= end)
        elif moment == "writing":  # into one of the next checkpoints
            stale, left, before_it = set(self._half_written()), rng.randint(1, 3), False

            def writing() -> bool:
                nonlocal left, before_it
                now = bool(set(self._half_written()) - stale)
                left -= now and not before_it
                before_it = now
                return left == 0

            _until(process, writing)
        elif moment == "training":
            _until(process, lambda: self.last_step() > before)
            time.sleep(rng.uniform(0, 0.4 * training))
        else:
            _until(process, lambda: self._is_measured_at(STEPS[self.task]))
            time.sleep(rng.uniform(0, 0.3 * training))

    def _half_written(self) -> list[Path]:
        return [path for path in self.checkpoints.glob(".*.tmp") if path.exists()]

    def _is_measured_at(self, step: int) -> bool:
        rows = self.rows()
        return bool(rows) and int(rows[-1]["step"]) >= step

    def _check_end(self, number: signal.Signals, code: int, said: str, before: int) -> None:
        if number == signal.SIGKILL:
            assert code in (0, -signal.SIGKILL), self._report(said)
            return
        # Before our first line, the signal ends it as it ends any process.
        assert code in (0, RESUME_ME, -signal.SIGTERM), self._report(said)
        if code == RESUME_ME:
            step = self.last_step()
            # A signal that comes before the checkpoint is read knows no step.
            saved = f"after step {step}; go on with resume=auto" if step else "before a step"
            where = saved, "before the run began"
            assert said.startswith("stopped by SIGTERM"), self._report(said)
            assert any(words in said for words in where), self._report(said)
            assert said.count("\n") == 1, self._report(said)
            # One that has taken no step leaves what a SIGKILL has left.
            if step > before:
                rows = self.rows()
                assert not rows or int(rows[-1]["step"]) <= step, "a step that was done is lost"
                assert not self._half_written()

    def last_step(self) -> int:
        """The step that the run would go on from, 0 if there is none."""
        last = self.checkpoints / "last.ckpt"
        return int(load(last)["global_step"]) if last.exists() else 0

    def rows(self) -> list[dict[str, str]]:
        """What was measured, without what depends on the clock."""
        path = self.folder / "metrics.csv"
        if not path.exists():
            return []
        text = path.read_text()
        rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
        return [{k: v for k, v in row.items() if not k.endswith(CLOCK)} for row in rows]

    def assert_like(self, undisturbed: "Run") -> None:
        """Nothing is lost, doubled or different."""
        what = " ".join((self.task, *self.history))
        for name in ("last.ckpt", "best.ckpt"):
            mine, other = load(self.checkpoints / name), load(undisturbed.checkpoints / name)
            assert mine["global_step"] == other["global_step"], what
            for part in PARTS:
                assert_same(mine[part], other[part], f"{what}: {part} of {name}")
        names = {path.name for path in self.checkpoints.iterdir()}
        assert names == {"best.ckpt", "last.ckpt", "previous.ckpt"}, what
        assert self.rows() == undisturbed.rows(), what
        mine, other = self.summary(), undisturbed.summary()
        assert mine == other, what
        for report in REPORTS[self.task]:
            ours, theirs = ((r.folder / report).read_bytes() for r in (self, undisturbed))
            assert ours == theirs, f"{what}: {report}"

    def summary(self) -> dict[str, Any]:
        """Its facts, without what depends on the clock and the place."""
        facts = self.facts()
        kept = {name: facts[name] for name in ("steps", "tokens", "best_checkpoint")}
        metrics = {k: v for k, v in facts["metrics"].items() if not k.endswith(CLOCK)}
        return {**kept, **metrics}

    def facts(self) -> dict[str, Any]:
        """All of its summary."""
        facts: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return facts

    def _report(self, said: str) -> str:
        return "\n".join((self.task, *self.history, said))


MOMENTS = ("anywhere", "writing", "writing", "training", "training", "ending")
STEPS = {"pretrain": 120, "classification": 210, "instruction": 120}
"""How many each run has."""


def load(path: Path) -> dict[str, Any]:
    """A checkpoint, while another one may be taking its name."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def assert_same(mine: Any, other: Any, what: str) -> None:
    """The same numbers, bit for bit."""
    if isinstance(mine, torch.Tensor):
        assert torch.equal(mine, other), what
    elif isinstance(mine, dict):
        assert mine.keys() == other.keys(), what
        for name in mine:
            assert_same(mine[name], other[name], f"{what}/{name}")
    elif isinstance(mine, list | tuple):
        assert len(mine) == len(other), what
        for a, b in zip(mine, other, strict=True):
            assert_same(a, b, what)
    else:
        assert mine == other, what


def _until(process: Forked, ready: Callable[[], bool]) -> None:
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            if ready():
                return
        time.sleep(0.001)
