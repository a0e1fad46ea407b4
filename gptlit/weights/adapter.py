"""LoRA checkpoints without the weights that they change: where those are, and whether they are
still the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptlit.errors import UserError
from gptlit.model import GPTModel, base_fingerprint
from gptlit.options import read_option
from gptlit.weights.fetch import fetch
from gptlit.weights.load import load_weights


def describe_base(model: GPTModel, source: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a checkpoint says about the weights that it leaves out.

    Args:
        model: the model that has these weights.
        source: the option of `conf/weights` that they came from.
        name: of the published model, if the weights are one.
    """
    path = source["path"] and str(Path(source["path"]).expanduser().resolve())
    return {
        "source": {"name": source["name"], "path": path},
        "model": name,
        "fingerprint": base_fingerprint(model),
    }


def load_base(
    model: GPTModel, base: Mapping[str, Any], ckpt: Path, elsewhere: str | None = None
) -> None:
    """Load the weights that an adapter was trained on; published ones are fetched, if need be.
    A checkpoint may come from anybody, so it has no say in what is downloaded from where.

    Args:
        model: with LoRA; its own parameters stay as they are.
        base: as returned by `describe_base`.
        ckpt: the adapter's checkpoint, for messages.
        elsewhere: a file or folder to take them from, instead of where they were.

    Raises:
        UserError: they are missing, or are not those that it was trained on.
    """
    said = base["source"]
    source = {**read_option("weights", said["name"]), "path": elsewhere or said["path"]}
    cure = "give weights.path=PATH of the weights that it was trained on"
    if source["path"] and not Path(source["path"]).expanduser().exists():
        raise UserError(
            f"{ckpt} holds a LoRA adapter alone, and the weights that it changes are not at"
            f" {source['path']}: {cure}"
        )
    path = fetch(source, base["model"], cure)
    load_weights(model, path)
    check_base(model, base, ckpt, path)


def check_base(model: GPTModel, base: Mapping[str, Any], ckpt: Path, path: Path | str) -> None:
    """Compare the weights in a model with those that an adapter was trained on.

    Raises:
        UserError: they differ.
    """
    if base_fingerprint(model) != base["fingerprint"]:
        raise UserError(
            f"{ckpt} holds a LoRA adapter to other weights than those in {path}: give"
            " weights.path=PATH of the weights that it was trained on"
        )
