"""Processes that Slurm starts read one command line, whatever each would make of it."""

import os
import re
import socket
import subprocess
import time
from pathlib import Path

import torch
from commands import ROOT, TINY, environment, starter, write_corpus

RUN = (
    *TINY,
    "data=text",
    "data.path=corpus.txt",
    "data.batch_size=2",
    "trainer.max_steps=2",
    "trainer.val_interval=2",
    "task.sample.every_n_validations=0",
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def srun(folder: Path, *args: str) -> list[subprocess.CompletedProcess[str]]:
    """Start two tasks as srun does, but the second more than a second after the first."""
    place = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "gptlit",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        "SLURM_STEP_ID": "0",
        "MASTER_PORT": str(free_port()),
        "GPTLIT_CACHE": str(folder / "cache"),
    }
    tasks = []
    for rank in ("0", "1"):
        task = subprocess.Popen(
            [starter().python, ROOT / "train.py", *args],
            cwd=folder,
            env=environment(**place, SLURM_PROCID=rank, SLURM_LOCALID=rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        tasks.append(task)
        time.sleep(1.2)
    ends = [task.communicate(timeout=240) for task in tasks]
    return [
        subprocess.CompletedProcess(task.args, task.returncode, *end)
        for task, end in zip(tasks, ends, strict=True)
    ]


def test_tasks_of_a_job_share_one_run_folder(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    first, second = srun(tmp_path, *RUN, "trainer=ddp")
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    assert "done in" in first.stdout
    said = second.stdout
    if torch.__version__ < (2, 10):  # it says that it is connected
        said = re.sub(r"^\[Gloo\] .*\n", "", said, flags=re.MULTILINE)
    assert said == ""
    runs = [entry.name for entry in os.scandir(tmp_path / "outputs" / "pretrain")]
    assert len(runs) == 2
    assert "latest" in runs


def test_a_mistake_is_said_once_and_ends_all_tasks(tmp_path: Path) -> None:
    first, second = srun(tmp_path, *RUN)  # trainer=default is one process
    assert first.returncode == 2
    assert first.stderr.startswith("error: srun has started 2 process(es)")
    assert "trainer=ddp" in first.stderr
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.*"))
