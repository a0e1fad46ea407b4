"""docs/cluster.md keeps its word, as far as one machine without GPUs and Slurm can tell.

Blocks that are marked ("```sh small") run one after another in one folder, with a tiny model, two
processes where the page says more, and a stand-in for Slurm, which meets its time limit once.
"""

import csv
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from commands import ROOT, environment, starter, write_corpus
from slurm_stub import wait_for_job, with_slurm

from gptlit.cli.launchers import PLUGINS

PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh small\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SMALL = (
    "model.emb_dim=32",
    "model.n_heads=2",
    "model.n_layers=2",
    "model.context_length=32",
    "data.batch_size=2",
    "device=cpu",
    "trainer.max_steps=4",
    "trainer.limit_val_batches=2",
    "task.sample.every_n_validations=0",
    "logger=csv",
)
"""What makes a command of the page one for this machine."""
JOB = (*SMALL, "trainer.max_steps=200", "trainer.checkpoint_interval=10")
"""Long enough to be interrupted."""


@pytest.mark.slow
def test_the_commands_run_here(tmp_path: Path) -> None:
    for name in ("train.py", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "books").mkdir()
    write_corpus(tmp_path / "books" / "one.txt")
    write_corpus(tmp_path / "books" / "two.txt")
    last = tmp_path / "outputs" / "pretrain" / "big" / "checkpoints" / "last.ckpt"
    env = with_slurm(tmp_path, starter().python, SLURM_STUB_LIMIT=str(last))
    for block in filter(installed, BLOCKS):
        done = subprocess.run(
            ["bash", "-ec", as_far_as_here(block)],
            cwd=tmp_path,
            env=environment(GPTLIT_CACHE=str(tmp_path / "cache"), **env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    wait_for_job(tmp_path)
    output = (tmp_path / "slurm-100.out").read_text()
    assert re.search(r"stopped by SIGUSR1 after step \d+", output), output
    assert re.search(r"resumed at step \d+", output) and "step 200/200" in output, output
    with (tmp_path / "outputs" / "sweep" / "results.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 4 and not any(run["error"] for run in runs)
    assert (tmp_path / "curves.png").is_file()


def installed(block: str) -> bool:
    """Whether the plugins that a block needs are there."""
    needed = [plugin for option, (plugin, _) in PLUGINS.items() if option in block]
    return all(importlib.util.find_spec(f"hydra_plugins.{plugin}") for plugin in needed)


def as_far_as_here(block: str) -> str:
    """The commands of a block, made small."""
    block = block.replace("resume=auto\ncode", f"resume=auto {' '.join(JOB)}\ncode")
    block = re.sub(r"trainer\.devices=\d+", "trainer.devices=2", block)
    alone = "hydra.launcher.n_jobs=1"  # no workers, which would import all that this one has
    block = block.replace("hydra.launcher.n_jobs=2", alone)
    block = block.replace("hydra.sweeper.n_jobs=2", f"hydra.sweeper.n_jobs=2 {alone}")
    block = re.sub(r"--nnodes \d+ --nproc-per-node \d+", "--nnodes 1 --nproc-per-node 2", block)
    block = re.sub(r"--rdzv-endpoint \S+", "--rdzv-endpoint localhost:0", block)
    block = re.sub(r"^torchrun", "python -m torch.distributed.run", block, flags=re.MULTILINE)
    small = " ".join(SMALL)
    return re.sub(r"^(python .*train\.py.*)$", rf"\1 {small}", block, flags=re.MULTILINE)


def test_the_learning_rate_is_one_for_the_model() -> None:
    """The default is for small ones; a search has its own."""
    lines = "".join(BLOCKS).replace("\\\n", "").splitlines()
    trained = [line for line in lines if "model=gpt2-small" in line and "optuna" not in line]
    rates = [re.findall(r"optimizer\.lr=(\S+)", line) for line in trained]
    assert rates and all(set(rate[0].split(",")) <= {"3e-4", "6e-4"} for rate in rates)


def test_the_extras_are_there() -> None:
    from importlib.metadata import metadata

    extras = set(re.findall(r"gptlit\[(\w+)\]", PAGE))
    assert {extra for _, extra in PLUGINS.values()} == extras
    assert extras <= set(metadata("gptlit").get_all("Provides-Extra") or ())
