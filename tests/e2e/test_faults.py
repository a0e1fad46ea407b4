"""What goes wrong while a run trains ends in one line, and nothing is lost."""

import csv
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import ROOT, TINY, command, environment, run, starter, write_corpus
from forked import Forked, Starter

ARGS = (
    *TINY,
    "data=text",
    "data.path=corpus.txt",
    "trainer.max_steps=2000",
    "trainer.val_interval=1000",
    "trainer.checkpoint_interval=20",
    "task.sample.every_n_validations=0",
)
RESUME_ME = 75
LAST = Path("run/checkpoints/last.ckpt")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


def start(home: Path, *args: str, **env: str) -> Forked:
    """A run in the background, which writes into the files `out` and `err`."""
    files = {name: home / name for name in ("out", "err")}
    env = {"GPTLIT_CACHE": str(home / "cache"), **env}
    given = (*ARGS, "hydra.run.dir=run", *args)
    return starter().start("train", *given, cwd=home, **files, **env)


def wait_for(process: Forked, home: Path, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 200
    while not ready():
        assert process.poll() is None, said(home)
        assert time.monotonic() < end
        time.sleep(0.01)


def said(home: Path) -> str:
    """What a run in the background has written to stderr."""
    return (home / "err").read_text()


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


SLURM = {
    "SLURM_JOB_ID": "1234",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}
"""What a job of one process finds; Lightning would save, and queue the job again, by itself."""


@pytest.mark.parametrize(
    ("number", "code", "env"),
    [
        (signal.SIGTERM, RESUME_ME, {}),
        (signal.SIGUSR1, RESUME_ME, SLURM),
        (signal.SIGINT, 130, {}),
    ],
)
def test_a_signal_ends_a_run_after_its_step(
    home: Path, number: signal.Signals, code: int, env: dict[str, str]
) -> None:
    process = start(home, **env)
    wait_for(process, home, (home / LAST).exists)
    process.send_signal(number)
    assert process.wait(200) == code, said(home)
    step = step_of(home / LAST)
    assert said(home) == f"stopped by {number.name} after step {step:,}; go on with resume=auto\n"
    assert not list(home.glob("run/hpc*"))
    process = start(home, "resume=auto", **env)
    wait_for(process, home, lambda: step_of(home / LAST) > step)
    process.send_signal(signal.SIGKILL)
    process.wait(200)
    assert f"resumed at step {step:,}" in (home / "out").read_text()


def test_a_second_ctrl_c_ends_a_run_at_once(home: Path) -> None:
    process = start(home, "data.batch_size=512", "trainer.accumulate_grad_batches=1")
    wait_for(process, home, (home / "run" / "metrics.csv").exists)
    time.sleep(1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    assert process.wait(200) == 130
    assert "Traceback" not in said(home)


def test_two_processes_stop_at_the_same_step(home: Path) -> None:
    process = start(home, "trainer=ddp", "trainer.devices=2", "trainer.max_steps=20000")
    wait_for(process, home, (home / LAST).exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(200) == RESUME_ME, said(home)
    step = step_of(home / LAST)
    assert said(home) == f"stopped by SIGTERM after step {step:,}; go on with resume=auto\n"
    args = ("trainer=ddp", "trainer.devices=2", f"trainer.max_steps={step + 5}")
    done = run("train", *ARGS, "hydra.run.dir=run", "resume=auto", *args, cwd=home)
    assert done.returncode == 0, done.stderr
    with (home / "run" / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps)) and steps[-1] == step + 5
    assert set(range(0, step, 10)) <= set(steps)


def test_a_signal_ends_a_sweep(home: Path) -> None:
    args = ("-m", "seed=1,2,3", "hydra.sweep.dir=sweep")
    process = start(home, *args)
    wait_for(process, home, (home / "sweep/0/checkpoints/last.ckpt").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(200) == RESUME_ME, said(home)
    assert said(home) == "stopped by SIGTERM\n"
    out = (home / "out").read_text()
    assert "1 runs, 1 stopped" in out and "did not finish" in out
    assert not (home / "sweep/1").exists()
    told = out.splitlines()[-1].partition("the same command with ")[2].split()
    step = step_of(home / "sweep/0/checkpoints/last.ckpt")
    again = run("train", *ARGS, *args, *told, f"trainer.max_steps={step + 5}", cwd=home)
    assert again.returncode == 2 and "holds a run of another config" in again.stderr


def test_a_checkpoint_cut_short_is_replaced_by_the_one_before_it(home: Path) -> None:
    short = ("trainer.max_steps=50", "hydra.run.dir=run")
    done = run("train", *ARGS, *short, cwd=home)
    assert done.returncode == 0, done.stderr
    shutil.copytree(home / "run", home / "whole")
    (home / "run/summary.json").unlink()
    content = bytearray((home / LAST).read_bytes())
    flipped = content.copy()
    flipped[len(content) // 2] ^= 1
    for damaged in (content[: len(content) // 2], b"", flipped):
        (home / LAST).unlink()  # it may have another name too
        (home / LAST).write_bytes(damaged)
        done = run("train", *ARGS, *short, "resume=auto", cwd=home)
        assert done.returncode == 0, done.stderr
        assert "resumed at step 40" in done.stdout
        assert "last.ckpt is" in done.stdout and "previous.ckpt takes its place" in done.stdout
        (home / "run/summary.json").unlink()
    expected, got = (
        torch.load(home / f / "checkpoints/last.ckpt", weights_only=True) for f in ("whole", "run")
    )
    assert all(torch.equal(got["state_dict"][n], v) for n, v in expected["state_dict"].items())


def test_two_runs_in_one_folder_are_refused(home: Path) -> None:
    process = start(home)
    wait_for(process, home, (home / LAST).exists)
    files = {path: path.read_bytes() for path in (home / "run/config").iterdir()}
    for more in ([], ["resume=auto"], ["resume=run"], ["seed=5"]):
        done = run("train", *ARGS, "hydra.run.dir=run", *more, cwd=home)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: run is in use: process {process.pid} on ")
        assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in (home / "run/config").iterdir()} == files
    process.send_signal(signal.SIGKILL)
    process.wait(200)
    done = run("train", *ARGS, "hydra.run.dir=run", "resume=auto", "trainer.max_steps=1", cwd=home)
    assert done.returncode == 0, done.stderr


MOUNT = "mkdir -p disk && mount -t tmpfs -o size=4m none disk"
"""A small file system."""


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Starter:
    """Starts commands that see file systems of their own."""
    within = ("unshare", "-m")
    if not all(map(shutil.which, ("unshare", "nsenter"))):
        pytest.skip("there is no unshare(1) or nsenter(1)")
    folder = tmp_path_factory.mktemp("mounts")
    command = [*within, "sh", "-c", MOUNT]
    if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("no file systems can be mounted here")
    return Starter(environment(), within)


def shell(script: str, home: Path, apart: Starter) -> subprocess.CompletedProcess[str]:
    """Run a script beside a small file system, `disk`; `train` begins a command whose run is on
    it."""
    args = (str(apart.python), str(ROOT / "train.py"), *ARGS, "hydra.run.dir=disk/run")
    lines = ("set -e", f"cd {home}", MOUNT, "set +e", f'train() {{ {shlex.join(args)} "$@"; }}')
    enter = ["nsenter", f"--target={apart.program.pid}", "--mount"]
    return subprocess.run(
        [*enter, "sh", "-c", "\n".join((*lines, script))],
        env=environment(GPTLIT_CACHE=str(home / "cache")),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(("logger", "kb_left"), [("csv", 0), ("csv", 100), ("default", 0)])
def test_a_full_disk(home: Path, apart: Starter, logger: str, kb_left: int) -> None:
    """There is room for a checkpoint, for some rows of metrics, or for nothing."""
    args = f"logger={logger} resume=auto"
    script = (
        f"train {args} trainer.max_steps=30; cp disk/run/checkpoints/last.ckpt before.ckpt;"
        f"cat /dev/zero > disk/filler; truncate -s -{kb_left * 1024} disk/filler;"
        f"train {args}; echo full: $?; cp disk/run/checkpoints/last.ckpt after.ckpt;"
        f"rm disk/filler; train {args} trainer.max_steps=60; echo again: $?;"
        "ls -A disk/run/checkpoints"
    )
    done = shell(script, home, apart)
    report = done.stdout + done.stderr
    assert "Traceback" not in report
    assert "full: 2\n" in done.stdout and "again: 0\n" in done.stdout, report
    line = "error: cannot write to disk/run: No space left on device; what was saved before is who"
    assert line in done.stderr, report
    assert (home / "before.ckpt").read_bytes() == (home / "after.ckpt").read_bytes()
    assert done.stdout.endswith("best.ckpt\nlast.ckpt\nprevious.ckpt\n"), report


def test_a_folder_that_cannot_be_written_to(home: Path, apart: Starter) -> None:
    done = shell("mount -o remount,ro disk; train", home, apart)
    assert done.returncode == 2
    expected = "error: cannot write to disk/run: Read-only file system; choose output_root=FOLDER\n"
    assert done.stderr == expected


def test_too_little_memory(home: Path) -> None:
    """The embeddings of the first batch alone ask for more than the process may have."""
    write_corpus(home / "corpus.txt", n_lines=50_000)
    args = (*ARGS, "data.batch_size=65536", "model.emb_dim=2048", "trainer.limit_val_batches=0")
    limited = f"ulimit -v 12000000; exec {shlex.join(command('train', *args))}"
    done = subprocess.run(
        ["bash", "-c", limited],
        cwd=home,
        env=environment(GPTLIT_CACHE=str(home / "cache")),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        r"error: out of memory \(it tried to allocate 17 GB\); what takes less, in this order:"
        r" 1. data.batch_size=32768 trainer.accumulate_grad_batches=2 \(the same steps\);"
        r" 2. model.context_length=16; 3. model.activation_checkpointing=true .*\n",
        done.stderr,
    )


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(home: Path) -> None:
    """Between two logged steps, of which only every 10th is looked at."""
    args = (*ARGS, "hydra.run.dir=run", "trainer.checkpoint_interval=4")
    done = run("train", *args, "trainer.max_steps=12", cwd=home)
    assert done.returncode == 0, done.stderr
    worse = ("trainer.max_steps=100", "optimizer.lr=1e20", "trainer.gradient_clip_val=null")
    done = run("train", *args, *worse, "resume=auto", cwd=home)
    assert done.returncode == 2
    found = re.fullmatch(
        r"error: the .* at step (\d+): training has diverged; the checkpoint of step (\d+) is kept."
        r" Likely causes: too high a learning rate: .*; too short a warm-up: .*; bad data: .*\n",
        done.stderr,
    )
    assert found is not None, done.stderr
    at, kept = map(int, found.groups())
    content = torch.load(home / LAST, weights_only=True)
    assert content["global_step"] == kept < at
    assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())
