"""Trained models for other programs: plain safetensors, and folders that `transformers` opens."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlit.errors import UserError
from gptlit.files import replacing
from gptlit.model import GPTConfig, GPTModel, is_lora_parameter
from gptlit.weights.classes import HEAD, Classes, classifier_config
from gptlit.weights.names import Layout, layout, rows

PREFIX = "transformer."
"""What `GPT2LMHeadModel` puts before the names of its body."""


def named_tensors(model: GPTModel, target: Layout, prefix: str = "") -> dict[str, Tensor]:
    """The weights by a layout's names, in the form in which it stores them, without padding rows.

    A query, key and value bias that the model does not have is written as zeros.

    Raises:
        ValueError: the model has LoRA, or its weights are packed for decoding.
    """
    cfg, state = model.cfg, model.state_dict()
    if any(map(is_lora_parameter, state)):
        raise ValueError("the model has LoRA, which has no name there: merge_lora it first")
    tensors = {}
    for row, block in rows(cfg.n_layers):
        name = row.ours.replace("{i}", str(block))
        tensor = state.get(name)
        if tensor is None and (cfg.qkv_bias or not name.endswith("qkv.bias")):
            raise ValueError(
                f"the model has no {name}: its weights are packed for decoding; load it with"
                ' precision="fp32"'
            )
        if tensor is None:
            tensor = torch.zeros(3 * cfg.emb_dim)
        if row.ours == "tok_emb.weight":
            tensor = tensor[: cfg.vocab_size]
        if row.linear and target.in_out:
            tensor = tensor.T
        [name] = target.names(row, block)
        tensors[prefix + name] = tensor.contiguous()
    if not cfg.tied_head:
        assert target.head is not None
        tensors[target.head] = state["out_head.weight"][: cfg.vocab_size].contiguous()
    return tensors


def export_safetensors(
    model: GPTModel, tokenizer: str, out: Path | str, prompt: Mapping[str, Any] | None = None
) -> None:
    """Write one file with our own names. Its header has the model's shape, its tokenizer and, for a
    model that answers instructions, the fields of its `PromptFormat`.

    Raises:
        UserError: `out` exists, or cannot be written.
        ValueError: as in `named_tensors`.
    """
    tensors = named_tensors(model, layout("ours"))
    if not model.cfg.qkv_bias:
        tensors = {n: t for n, t in tensors.items() if not n.endswith("qkv.bias")}
    more = {"prompt": dict(prompt)} if prompt else {}
    _write_new(out, lambda path: _save(tensors, path, model.cfg, tokenizer, more))


def export_huggingface(
    model: GPTModel,
    tokenizer: str,
    out: Path | str,
    eot_id: int,
    texts: Mapping[str, str],
    classes: Classes | None = None,
    prompt: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that `transformers` opens as `GPT2LMHeadModel` or, for a classifier, as
    `GPT2ForSequenceClassification`.

    Args:
        model: a language model, or the body of a classifier.
        tokenizer: its name, for the header.
        out: the folder to make.
        eot_id: the token that ends a text, and with which texts are padded.
        texts: more files, by name: those of the tokenizer, a README.
        classes: for a classifier.
        prompt: the fields of the `PromptFormat` of a model that answers instructions, for the
            header.

    Raises:
        UserError: `out` exists, or cannot be written.
        ValueError: as in `named_tensors`.
    """
    names = layout("huggingface")
    tensors, config = named_tensors(model, names, PREFIX), huggingface_config(model.cfg)
    contents = dict(texts)
    more: dict[str, Any] = {"prompt": dict(prompt)} if prompt else {}
    ends = {"bos_token_id": eot_id, "eos_token_id": eot_id}
    if classes is None:
        contents["generation_config.json"] = _json({**ends, "pad_token_id": eot_id})
    else:
        assert names.head is not None
        tensors.pop(names.head, None)  # the language model's, which class scores do not use
        tensors[HEAD] = classes.head.float().contiguous()
        config |= classifier_config(classes.labels, eot_id)
        more["labels"] = classes.labels
    contents["config.json"] = _json(config | ends)

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        _save(tensors, folder / "model.safetensors", model.cfg, tokenizer, more)
        for name, text in contents.items():
            (folder / name).write_text(text, encoding="utf-8")

    _write_new(out, write)


def huggingface_config(cfg: GPTConfig) -> dict[str, Any]:
    """`config.json` without the ids of special tokens."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": cfg.vocab_size,
        "n_positions": cfg.context_length,
        "n_embd": cfg.emb_dim,
        "n_head": cfg.n_heads,
        "n_layer": cfg.n_layers,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "embd_pdrop": cfg.drop_rate,
        "attn_pdrop": cfg.drop_rate,
        "resid_pdrop": cfg.drop_rate,
        "scale_attn_weights": True,
        "tie_word_embeddings": cfg.tied_head,
        "use_cache": True,
        "dtype": "float32",
        "torch_dtype": "float32",  # what transformers before 5 calls it
    }


def _save(
    tensors: dict[str, Tensor], path: Path, cfg: GPTConfig, tokenizer: str, more: dict[str, Any]
) -> None:
    from safetensors.torch import save_file

    ours = {"model": cfg.to_dict(), "tokenizer": tokenizer, **more}
    save_file(tensors, path, {"format": "pt", "gptlit": json.dumps(ours)})
    path.chmod(path.parent.stat().st_mode & 0o666)  # the library lets only its owner read it


def _write_new(out: Path | str, write: Callable[[Path], None]) -> None:
    """Let `write` make a file or folder under a temporary name, then give it its own."""
    from safetensors import SafetensorError

    out = Path(out).expanduser()
    if out.exists():
        raise UserError(f"out={out} exists: delete it, or choose another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as draft:
            write(draft)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write out={out}: {why}; choose another place") from error


def _json(node: dict[str, Any]) -> str:
    return json.dumps(node, indent=2) + "\n"
