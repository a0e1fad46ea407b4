"""Classifications of random numbers, and their checkpoints."""

from pathlib import Path
from typing import Any

import torch

from gptlit.tasks import Task
from gptlit.tasks.classification import ClassificationTask

SHAPE: dict[str, Any] = {
    "vocab_size": 257,
    "context_length": 40,
    "emb_dim": 32,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.0,
}
LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.1, "targets": ["q", "v", "fc"]}


def make_task(
    model: dict[str, Any] | None = None, tokenizer: str = "byte", **given: Any
) -> ClassificationTask:
    """A task far from its initial values, where every choice shows."""
    torch.manual_seed(3)
    options = {
        "labels": ["ham", "spam"],
        "trainable": "last_block",
        "pool": "last",
        "causal": True,
        "label_smoothing": 0.0,
        "class_weights": None,
        "cache_features": "auto",
        "lora": LORA,
    }
    task = ClassificationTask(
        model=SHAPE | (model or {}), tokenizer=tokenizer, seed=0, settings=options | given
    )
    with torch.no_grad():
        for p in task.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return task.eval()


def save(task: Task, path: Path) -> Path:
    """A checkpoint with what Lightning's have that is looked at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "hyper_parameters": dict(task.hparams),
        "state_dict": task.state_dict(),
        "global_step": 0,
    }
    torch.save(content, path)
    return path
