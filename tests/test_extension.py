"""Adding a model size, a data set or a task takes the files that it says, and no edit elsewhere."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import environment, write_corpus

from gptlit.inference.checkpoint import load_trained

ROOT = Path(__file__).parents[1]

MODEL = """\
# Smaller than small.
name: My-Size.1
context_length: 16
emb_dim: 24
n_heads: 3
n_layers: 1
drop_rate: 0.0
qkv_bias: false
tied_head: false
emb_init_std: 0.1
activation_checkpointing: false
"""

DATA = """\
# Notes on neighbours.
defaults:
  - text

name: my-notes
path: corpus.txt
batch_size: 3
"""

TASK = '''\
"""Denoising: predict the tokens that were replaced."""

from typing import Any

import torch

from gptlit.tasks.base import Task


class DenoiseTask(Task):
    """Every n-th input is blanked out; what stood there is the target."""

    name = "denoise"

    def loss_sum(self, batch: Any) -> tuple[torch.Tensor, int]:
        blank = torch.arange(batch.input_ids.shape[1]) % self.settings["every"] == 0
        targets = torch.where(blank, batch.input_ids, -100)
        loss = self.model.loss_sum(batch.input_ids.masked_fill(blank, 0), targets)
        return loss, int((targets != -100).sum())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, count = self.loss_sum(batch)
        self.log("val/loss", loss / count)
'''

TASK_OPTION = """\
# @package _global_
# Fill in what was blanked out.
task:
  name: denoise
  every: 4

trainer:
  max_steps: 2
  val_interval: 2
"""


def train(script: Path, cwd: Path, *args: str) -> dict[str, Any]:
    """Two steps of train.py; returns the run's summary."""
    common = ("device=cpu", "precision=fp32", "trainer.max_steps=2", "logger.tensorboard=false")
    done = subprocess.run(
        [sys.executable, str(script), *args, *common, "hydra.run.dir=run"],
        cwd=cwd,
        env=environment(GPTLIT_CACHE=str(cwd / "cache"), GPTLIT_ALLOCATOR="system"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads((cwd / "run" / "summary.json").read_text())
    return facts


@pytest.fixture(scope="module")
def own_options(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model and data stand in the user's own folder of options."""
    folder = tmp_path_factory.mktemp("options")
    write_corpus(folder / "corpus.txt")
    for group, name, text in (("model", "My-Size.1", MODEL), ("data", "my-notes", DATA)):
        (folder / "mine" / group).mkdir(parents=True)
        (folder / "mine" / group / f"{name}.yaml").write_text(text)
    options = ("--config-dir=mine", "model=My-Size.1", "data=my-notes", "tokenizer=byte")
    train(ROOT / "train.py", folder, *options)
    return folder


def test_a_model_size_is_one_yaml_file(own_options: Path) -> None:
    trained = load_trained(own_options / "run" / "checkpoints" / "last.ckpt")
    cfg = trained.model.cfg
    assert (cfg.emb_dim, cfg.n_heads, cfg.n_layers, cfg.context_length) == (24, 3, 1, 16)
    assert "trf_blocks.0.att.qkv.bias" not in trained.model.state_dict()


def test_a_data_set_is_one_yaml_file(own_options: Path) -> None:
    facts = json.loads((own_options / "run" / "summary.json").read_text())
    assert facts["tokens"] == 2 * 3 * 16


def test_a_task_is_one_file_and_one_yaml_file(tmp_path: Path) -> None:
    for folder in ("gptlit", "conf"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    shutil.copy(ROOT / "train.py", tmp_path)
    (tmp_path / "gptlit" / "tasks" / "denoise.py").write_text(TASK)
    (tmp_path / "conf" / "task" / "denoise.yaml").write_text(TASK_OPTION)
    write_corpus(tmp_path / "corpus.txt")
    tiny = ("model.emb_dim=16", "model.n_layers=1", "model.context_length=16")
    data = ("data=text", "data.path=corpus.txt", "data.batch_size=3")
    facts = train(tmp_path / "train.py", tmp_path, "task=denoise", "task.every=8", *tiny, *data)
    assert (facts["task"], facts["tokens"]) == ("denoise", 2 * 3 * 2)
    assert facts["metrics"]["val/loss"] > 0

    # Its checkpoint can be used where the task's file is not.
    trained = load_trained(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert (trained.name, trained.settings) == ("denoise", {"every": 8})
    with torch.no_grad():
        assert trained.model(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 4, 257)
