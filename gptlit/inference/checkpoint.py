"""Checkpoints and published weights, read without executing what stands in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gptlit.errors import UserError
from gptlit.inference.lookup import find_checkpoint
from gptlit.options import read_option
from gptlit.tokenizer import get_tokenizer
from gptlit.weights.adapter import load_base
from gptlit.weights.classes import load_class_head
from gptlit.weights.fetch import fetch
from gptlit.weights.files import kind
from gptlit.weights.formats import read_torch
from gptlit.weights.load import inspect, load_weights

if TYPE_CHECKING:
    from gptlit.tasks import Task  # imports Lightning, which takes seconds


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What one of our checkpoints holds; tensors are mapped from the file, not copied.

    Raises:
        UserError: the file is not one of our checkpoints, or is damaged.
    """
    content = _checkpoint_in(path)
    if content is None:
        raise UserError(
            f"{path} is not a gptlit checkpoint, which says its task and model, or was cut short"
        )
    return content


def load_task(path: Path, base: str | None = None) -> "Task":
    """A task as its checkpoint has it, or one around weights of another kind; on the CPU, in
    evaluation mode.

    Tensors of a checkpoint are mapped from the file, not copied; only what is used is read.

    Args:
        path: the file.
        base: where the weights are that an adapter without them belongs to; None: where they were.

    Raises:
        UserError: the file is of no known kind, or is damaged; or what it refers to is not there.
    """
    content = _checkpoint_in(path)
    if content is None:
        return _task_around(path)
    from gptlit.tasks import task_class

    hparams = content["hyper_parameters"]
    arguments = {name: value for name, value in hparams.items() if name != "task"}
    try:
        get_tokenizer(hparams["tokenizer"])
        with torch.device("meta"):  # no weights are drawn just to be replaced
            task = task_class(hparams["task"])(**arguments)
        state = content["state_dict"]
        if "base" in content:
            load_base(task.model, content["base"], path, base)
            state = task.state_dict() | state
        task.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(f"{path} does not fit the model it describes: {first_line}") from error
    return task.eval()


def task_of(
    ckpt: str | None, task: str, outputs: str | Path, source: Mapping[str, Any]
) -> str | None:
    """The name of the task of what `open_task` would open, without loading it; None where no
    checkpoint says it. Arguments and errors are those of `open_task`."""
    published = source.get("models", {})
    if ckpt in published:
        return None
    content = _checkpoint_in(find_checkpoint(ckpt, task, outputs, published))
    return str(content["hyper_parameters"]["task"]) if content else None


def _checkpoint_in(path: Path) -> dict[str, Any] | None:
    """What a file holds, if that is a checkpoint of a task."""
    content = read_torch(path) if path.is_file() and kind(path) == "torch" else None
    nodes = ("hyper_parameters", "state_dict")
    if not isinstance(content, dict) or not all(isinstance(content.get(n), dict) for n in nodes):
        return None
    return content if isinstance(content["hyper_parameters"].get("task"), str) else None


def open_task(
    ckpt: str | None, task: str, outputs: str | Path, source: Mapping[str, Any]
) -> tuple["Task", str]:
    """What `ckpt` means: a published model, or what `find_checkpoint` finds; and its name.

    Args:
        ckpt, task, outputs: as in `find_checkpoint`.
        source: an option of `conf/weights`, for published models. Their names win over files. Its
            path, if there is one, is that of the weights to an adapter without them.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    published = source.get("models", {})
    if ckpt in published:
        return load_published(str(ckpt), source), str(ckpt)
    path = find_checkpoint(ckpt, task, outputs, published)
    return load_task(path, source.get("path")), str(path)


def load_published(name: str, source: Mapping[str, Any]) -> "Task":
    """A published model by its name; fetched first, if it is not on this machine.

    Args:
        name: "gpt2-small" and so on, an option of `conf/model`.
        source: an option of `conf/weights`.

    Raises:
        UserError: it cannot be had.
    """
    path = fetch(source, name, instead="give ckpt=PATH")
    shape = {key: value for key, value in read_option("model", name).items() if key != "name"}
    return _language_model(shape, "gpt2", path)


def _task_around(path: Path) -> "Task":
    """A language model, or a classifier, of the shape that its weights have."""
    found = inspect(path)
    if not found.tokenizer:
        raise UserError(
            f"the weights in {path} are for {found.config.vocab_size:,} token ids, which no"
            " tokenizer of gptlit has; they cannot write text here"
        )
    shape = found.config.to_dict()
    if not found.labels:
        return _language_model(shape, found.tokenizer, path, found.prompt)
    settings = {
        "labels": list(found.labels),
        "trainable": "head",
        "pool": "last",
        "causal": True,
        "cache_features": False,
    }
    from gptlit.tasks import task_class

    with torch.device("meta"):
        task = task_class("classification")(
            model=shape, tokenizer=found.tokenizer, settings=settings
        )
    load_weights(task.model, path)
    head = task.get_submodule("head")
    assert isinstance(head, nn.Linear)
    load_class_head(head, path)
    return task.eval()


def _language_model(
    shape: dict[str, Any], tokenizer: str, path: Path, prompt: Mapping[str, Any] | None = None
) -> "Task":
    """One that continues text, or, with a prompt format, answers instructions."""
    name, settings = "pretrain", {}
    if prompt is not None:
        name, settings = "instruction", {"prompt": dict(prompt), "trainable": "all"}
    try:
        shape = {**shape, "vocab_size": get_tokenizer(tokenizer).vocab_size}
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    from gptlit.tasks import task_class

    with torch.device("meta"):
        task = task_class(name)(model=shape, tokenizer=tokenizer, settings=settings)
    load_weights(task.model, path)
    return task.eval()
