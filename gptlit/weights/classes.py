"""The parts of a classifier besides its body: its classes and its head, in the form of
transformers' `GPT2ForSequenceClassification` or our own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptlit.errors import UserError
from gptlit.weights.formats import WeightFile

ARCHITECTURE = "GPT2ForSequenceClassification"
HEAD = "score.weight"
OUR_HEAD = "head.weight"
"""Name of the head in a checkpoint of `gptlit.tasks.classification`."""


@dataclass(frozen=True)
class Classes:
    """What makes a model a classifier."""

    labels: list[str]
    """Names of the classes."""
    head: Tensor
    """(classes, C), without bias; applied to the last hidden state of a text's last token."""


def classifier_config(labels: list[str], eot_id: int) -> dict[str, Any]:
    """The entries of `config.json` for a classifier. transformers takes the last id that is not
    the pad id for a text's last token, so end-of-text, which is in no text, can be the pad id."""
    return {
        "architectures": [ARCHITECTURE],
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": "single_label_classification",
        "pad_token_id": eot_id,
        "use_cache": False,
    }


@torch.no_grad()
def load_class_head(head: nn.Linear, file: WeightFile) -> None:
    """Copy the head of transformers' `GPT2ForSequenceClassification` into ours.

    Raises:
        UserError: the file has no head for these classes.
    """
    have, want = file.shapes.get(HEAD), tuple(head.weight.shape)
    if have != want:
        found = "not there" if have is None else f"of shape {have}"
        raise UserError(f"{file.path} has {want[0]} labels, but its {HEAD} is {found}, not {want}")
    if head.weight.is_meta:
        head.to_empty(device="cpu")
    head.weight.copy_(file.read(HEAD))


@torch.no_grad()
def reuse_class_head(head: nn.Linear | None, labels: Sequence[str], file: WeightFile) -> str:
    """If a file is a classifier's, and has the classes of ours, copy its head into ours.

    Args:
        head: C -> classes; None if our model has none.
        labels: names of its classes, in any order.
        file: of any kind.

    Returns:
        what was done with the file's head, to go on a line about its other weights: empty if it has
        none.
    """
    theirs = file.hints.labels
    name = next((name for name in (HEAD, OUR_HEAD) if name in file.shapes), None)
    if not theirs or name is None:
        return ""
    same = sorted(theirs) == sorted(labels) and len(set(theirs)) == len(theirs)
    if head is None or not same or file.shapes[name] != tuple(head.weight.shape):
        return f", without its head for {len(theirs)} classes"
    head.weight.copy_(file.read(name)[[theirs.index(label) for label in labels]])
    return f", with its head for {len(theirs)} classes"
