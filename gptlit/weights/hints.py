"""What a file of weights, or a file beside it, says about a model besides its tensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlit.errors import UserError
from gptlit.files import read_object

TWO_LABELS = {"0": "LABEL_0", "1": "LABEL_1"}
"""transformers' names for two classes without names of their own, which its config.json leaves
out."""

ONE_OF_SEVERAL = "single_label_classification"
"""transformers' name for the kind of problem that a `Classifier` solves: one class of several."""

GPT2_VOCABULARY = 50257, {"\u0120the": 262, "\u0120gazed": 50255}
"""How many ids GPT-2's vocabulary has, and two of them, an early and the last merge. Published
models of other languages have as many ids, for other tokens."""

NANOGPT_ROWS = 50304
"""Rows of nanoGPT's token embedding if it is trained from scratch on GPT-2's ids: a multiple of
64, and the rows past the vocabulary stand for no token."""


@dataclass(frozen=True)
class Hints:
    """What a file, or a file beside it, says that the tensors' shapes do not."""

    n_heads: int | None = None
    vocab_size: int | None = None
    tokenizer: str | None = None
    labels: tuple[str, ...] = ()
    """Names of the classes of a classifier."""
    prompt: Mapping[str, Any] | None = None
    """The prompt format of a model that answers instructions."""

    @staticmethod
    def of(
        heads: Any, vocab_size: Any, tokenizer: Any = None, labels: Any = (), prompt: Any = None
    ) -> "Hints":
        """Hints from what is in a file; a value that is not of the right kind counts as missing."""
        named = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
        return Hints(
            heads if type(heads) is int and heads > 0 else None,
            vocab_size if type(vocab_size) is int and vocab_size > 0 else None,
            tokenizer if isinstance(tokenizer, str) else None,
            tuple(labels) if named else (),
            prompt if isinstance(prompt, dict) else None,
        )


def hints_from_hparams(content: Any) -> Hints | None:
    """What a checkpoint says: one of ours, or of nanoGPT. None if it says nothing."""
    if not isinstance(content, dict):
        return None
    hparams, args = content.get("hyper_parameters"), content.get("model_args")
    if isinstance(hparams, dict) and isinstance(hparams.get("model"), dict):
        shape, settings = hparams["model"], hparams.get("settings")
        labels = settings.get("labels") if isinstance(settings, dict) else None
        sizes = shape.get("n_heads"), shape.get("vocab_size")
        return Hints.of(*sizes, hparams.get("tokenizer"), labels)
    if isinstance(args, dict):
        size = args.get("vocab_size")
        # nanoGPT pads GPT-2's vocabulary as we do.
        size = GPT2_VOCABULARY[0] if size == NANOGPT_ROWS else size
        return Hints.of(args.get("n_head"), size)
    return None


def hints_from_metadata(metadata: Mapping[str, str]) -> Hints | None:
    """What `export_safetensors` wrote into the header."""
    try:
        ours = json.loads(metadata["gptlit"])
        shape, more = ours["model"], (ours.get("labels"), ours.get("prompt"))
        return Hints.of(shape["n_heads"], shape["vocab_size"], ours["tokenizer"], *more)
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def hints_from_openai(folder: Path) -> Hints:
    """What OpenAI's hparams.json says, if there is one in the folder."""
    hparams = _read_json(folder / "hparams.json")
    return Hints.of(hparams.get("n_head"), hparams.get("n_vocab"))


def hints_from_config(folder: Path) -> Hints:
    """What Hugging Face's config.json says, if there is one in the folder.

    Raises:
        UserError: it describes a network that computes something else than GPT-2, or a vocabulary
            beside it has other tokens.
    """
    config = _read_json(folder / "config.json")
    if "model_type" not in config:
        return Hints()
    expected = {
        "model_type": ("gpt2",),
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
    }
    for key, allowed in expected.items():
        if config.get(key, allowed[0]) not in allowed:
            raise UserError(
                f"{folder / 'config.json'} says {key}={config[key]}, but GPT-2 has"
                f" {' or '.join(map(str, allowed))}: this model computes something else"
            )
    _check_vocabulary(folder, config.get("vocab_size"))
    labels = None
    if config.get("architectures") == ["GPT2ForSequenceClassification"]:
        named = config.get("id2label", TWO_LABELS)
        labels = [named.get(str(i)) for i in range(len(named))] if isinstance(named, dict) else None
        problem = config.get("problem_type") or ONE_OF_SEVERAL
        if problem != ONE_OF_SEVERAL or (labels is not None and len(labels) < 2):
            raise UserError(
                f"{folder / 'config.json'} describes a model of {len(labels or ())} labels for"
                f" {problem}: a classifier of gptlit says which one of two or more a text is of"
            )
    return Hints.of(config.get("n_head"), config.get("vocab_size"), labels=labels)


def _check_vocabulary(folder: Path, size: Any) -> None:
    """If the folder has a vocabulary as large as GPT-2's, make sure that its tokens are the same.

    Raises:
        UserError: they are not.
    """
    same_size, known = GPT2_VOCABULARY
    if size != same_size:
        return
    file = folder / "vocab.json"
    vocabulary: Any = _read_json(file)
    if not vocabulary:
        file = folder / "tokenizer.json"
        model = _read_json(file).get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not vocabulary:
        return
    if not isinstance(vocabulary, dict) or any(vocabulary.get(t) != i for t, i in known.items()):
        raise UserError(
            f"{file} has as many tokens as GPT-2, but others, which no tokenizer of gptlit has:"
            " what this model reads and writes would be taken for other words"
        )


def _read_json(path: Path) -> dict[str, Any]:
    return read_object(path) or {}
