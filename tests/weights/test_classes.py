"""A classifier that is trained further keeps what its head has learned."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from gptlit.tokenizer import get_tokenizer
from gptlit.training.setup import build_task
from gptlit.weights.classes import reuse_class_head
from gptlit.weights.export import export_safetensors
from gptlit.weights.files import open_weights
from tests.inference.classifiers import SHAPE, make_task, save

torch.set_num_threads(1)

LABELS = ["ham", "spam", "eggs"]


def theirs(folder: Path, **config: Any) -> Tensor:
    """A classifier of transformers', saved; returns its head."""
    shape = GPT2Config(vocab_size=257, n_positions=40, n_embd=32, n_layer=2, n_head=4, **config)
    model = GPT2ForSequenceClassification(shape)
    model.save_pretrained(folder)
    head: Tensor = model.score.weight.detach()
    return head


def test_the_head_is_that_of_the_same_classes_in_any_order(tmp_path: Path) -> None:
    there = theirs(tmp_path, id2label=dict(enumerate(LABELS)))
    head = nn.Linear(32, 3, bias=False)
    names = ["eggs", "ham", "spam"]
    with open_weights(tmp_path) as file:
        assert reuse_class_head(head, names, file) == ", with its head for 3 classes"
    assert torch.equal(head.weight, there[[2, 0, 1]])


@pytest.mark.parametrize(
    "labels", [["ham", "spam"], ["ham", "spam", "bacon"], ["ham", "spam", "spam"], []], ids=str
)
def test_a_head_for_other_classes_is_left_out(tmp_path: Path, labels: list[str]) -> None:
    theirs(tmp_path, id2label=dict(enumerate(LABELS)))
    head = nn.Linear(32, len(labels), bias=False) if labels else None
    before = None if head is None else head.weight.clone()
    with open_weights(tmp_path) as file:
        assert reuse_class_head(head, labels, file) == ", without its head for 3 classes"
    assert head is None or torch.equal(head.weight, before)  # type: ignore[arg-type]


def test_a_language_model_has_no_such_head(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=257, n_positions=40, n_embd=32, n_layer=2, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "theirs")
    task = make_task()
    export_safetensors(task.model, "byte", tmp_path / "ours.safetensors")
    for path in (tmp_path / "theirs", tmp_path / "ours.safetensors"):
        with open_weights(path) as file:
            assert reuse_class_head(task.head, task.labels, file) == ""


@pytest.mark.parametrize("trainable", ["last_block", "lora"])
def test_a_new_run_begins_with_a_run_s_classifier(trainable: str, tmp_path: Path) -> None:
    before = make_task(trainable=trainable)
    path = save(before, tmp_path / "run" / "checkpoints" / "best.ckpt")
    node = {"name": "classification", **before.settings}
    facts = {name: node.pop(name) for name in ("labels", "class_weights")}
    config = {
        "task": {**node, "trainable": "last_block"},
        "model": {"name": "tiny", **{n: v for n, v in SHAPE.items() if n != "vocab_size"}},
        "weights": {"name": "checkpoint", "path": str(path.parents[1])},
        "seed": 0,
        "resume": None,
    }
    task, told = build_task(config, get_tokenizer("byte"), facts)
    assert told == f"weights: gptlit layout, {path}, with its head for 2 classes\n"
    ids, lengths = torch.randint(256, (2, 9)), torch.tensor([9, 4])
    assert task.classifier is not None and before.classifier is not None
    with torch.no_grad():
        there, here = (t.eval().classifier.logits(ids, lengths) for t in (before, task))  # type: ignore[union-attr]
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)
    _, told = build_task(config, get_tokenizer("byte"), {**facts, "labels": ["a", "b"]})
    assert told.endswith(", without its head for 2 classes\n")
