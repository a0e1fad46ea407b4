"""Checkpoints and published weights, read without executing anything in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gptlit.errors import UserError
from gptlit.inference.lookup import find_checkpoint
from gptlit.inference.trained import TrainedModel
from gptlit.model import GPTConfig, blank_parameters
from gptlit.options import model_shape
from gptlit.tokenizer import get_tokenizer
from gptlit.weights.adapter import load_base
from gptlit.weights.classes import load_class_head
from gptlit.weights.fetch import fetch
from gptlit.weights.files import kind, open_weights
from gptlit.weights.formats import check_size, is_plain_tensor, read_torch
from gptlit.weights.load import TOKENIZERS, inspect, load_weights

LONGEST_TOLD = 200


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of one of our checkpoints; tensors are mapped from the file, not copied.

    Raises:
        UserError: the file is not one of our checkpoints, or is damaged.
    """
    content = _checkpoint_in(path)
    if content is None:
        raise UserError(
            f"{path} is not a gptlit checkpoint, which says its task and model, or was cut short"
        )
    return content


def load_trained(path: Path, base: str | None = None) -> TrainedModel:
    """The trained model in a checkpoint, or a model around weights of another kind; on the CPU, in
    evaluation mode.

    Tensors of a checkpoint are mapped from the file, not copied; only what is used is read.

    Args:
        path: the file.
        base: where the weights are that a checkpoint of only an adapter needs; None: where they
            were in training.

    Raises:
        UserError: the file is of no known kind, or is damaged; or what it refers to is not there.
    """
    content = _checkpoint_in(path)
    if content is None:
        return _around_weights(path)
    try:
        hparams = content["hyper_parameters"]
        check_size(hparams, most_blocks=len(content["state_dict"]))
        get_tokenizer(hparams["tokenizer"])
        with blank_parameters():
            trained = TrainedModel(**hparams)
        parts = [f"{name}." for name, _ in trained.named_children()]
        state = {
            name: _as_float(name, tensor)
            for name, tensor in content["state_dict"].items()
            if name.startswith(tuple(parts))
        }
        if "base" in content:
            load_base(trained.model, content["base"], path, base)
            state = trained.state_dict() | state
        trained.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} does not fit the model it describes: {_told(error)}") from error
    return trained.eval()


def _as_float(name: str, tensor: Any) -> Tensor:
    """A tensor of a checkpoint in fp32, in which this program saves them."""
    if not is_plain_tensor(tensor):
        raise ValueError(f"{name} is no tensor of floats")
    return tensor.float()


def _told(error: Exception) -> str:
    """The first line of an error, or the first item if PyTorch lists what does not fit; cut if
    long."""
    heading, *items = (line.strip() for line in str(error).splitlines() or [repr(error)])
    told = items[0] if items else heading
    return told if len(told) <= LONGEST_TOLD else f"{told[:LONGEST_TOLD]}..."


def _checkpoint_in(path: Path) -> dict[str, Any] | None:
    """The contents of a file, or None if it is not a checkpoint of a task."""
    content = read_torch(path) if path.is_file() and kind(path) == "torch" else None
    nodes = ("hyper_parameters", "state_dict")
    if not isinstance(content, dict) or not all(isinstance(content.get(n), dict) for n in nodes):
        return None
    return content if isinstance(content["hyper_parameters"].get("task"), str) else None


def open_trained(
    ckpt: str | None, task: str, outputs: str | Path, source: Mapping[str, Any]
) -> tuple[TrainedModel, str]:
    """The model that `ckpt` means, published or found by `find_checkpoint`, and its name.

    Args:
        ckpt, task, outputs: as in `find_checkpoint`.
        source: an option of `conf/weights`, for published models. Their names have precedence over
            files. Its `path`, if there is one, is that of the weights that an adapter needs.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    published = source.get("models", {})
    if ckpt in published:
        return load_published(str(ckpt), source), str(ckpt)
    path = find_checkpoint(ckpt, task, outputs, published)
    return load_trained(path, source.get("path")), str(path)


def load_published(name: str, source: Mapping[str, Any]) -> TrainedModel:
    """A published model by its name; fetched first, if it is not on this machine.

    Args:
        name: "gpt2-small" and so on, an option of `conf/model`.
        source: an option of `conf/weights`.

    Raises:
        UserError: it cannot be fetched or read.
    """
    path = fetch(source, name, instead="give ckpt=PATH")
    return _language_model(model_shape(name), "gpt2", path)


def _around_weights(path: Path) -> TrainedModel:
    """A language model or a classifier, with the shape of the weights in a file."""
    found = inspect(path)
    padded = {GPTConfig(n).padded_vocab_size: name for n, name in TOKENIZERS.items()}
    likely = padded.get(found.config.vocab_size)
    if likely and found.layout == "gptlit" and not found.tokenizer:
        raise UserError(
            f"{path} is the state_dict of a GPTModel, which says neither its heads nor its"
            " tokenizer: save the model with gptlit.weights.export.export_safetensors(model,"
            f" {likely!r}, 'FILE.safetensors'), and give that file"
        )
    if not found.tokenizer:
        raise UserError(
            f"the weights in {path} are for {found.config.vocab_size:,} token ids, which no"
            " tokenizer of gptlit has; they cannot write text here"
        )
    shape = found.config.to_dict()
    if not found.labels:
        return _language_model(shape, found.tokenizer, path, found.prompt)
    settings = {"labels": list(found.labels), "pool": "last", "causal": True}
    with blank_parameters():
        trained = TrainedModel(
            task="classification", model=shape, tokenizer=found.tokenizer, settings=settings
        )
    with open_weights(path) as file:
        load_weights(trained.model, file)
        load_class_head(trained.head, file)
    return trained.eval()


def _language_model(
    shape: dict[str, Any], tokenizer: str, path: Path, prompt: Mapping[str, Any] | None = None
) -> TrainedModel:
    """A model that continues text or, with a prompt format, answers instructions."""
    try:
        shape = {**shape, "vocab_size": get_tokenizer(tokenizer).vocab_size}
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    name, settings = ("instruction", {"prompt": dict(prompt)}) if prompt else ("pretrain", {})
    with blank_parameters():
        trained = TrainedModel(task=name, model=shape, tokenizer=tokenizer, settings=settings)
    load_weights(trained.model, path)
    return trained.eval()
