"""Check a composed config against dataclasses that say what each key means and may be."""

import json
import types
import typing
from collections.abc import Collection
from dataclasses import field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from gptlit.errors import UserError

MOST_MEANT = 3
"""A message lists the keys that end in a name only if there are no more than this."""


def key(
    meaning: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: tuple[str, ...] | None = None,
    may_be_empty: bool = False,
) -> Any:
    """A field with its meaning (and unit), its bounds or choices, and whether text may be empty."""
    bounds = {">=": ge, ">": gt, "<=": le, "<": lt}
    more = {"choices": choices, "may_be_empty": may_be_empty}
    return field(metadata={"meaning": meaning, "bounds": bounds, **more})


def check(config: dict[str, Any], schema: type, path: str = "") -> None:
    """Check a composed config against a schema.

    Raises:
        UserError: a key is unknown or missing, or a value has a wrong type or is out of range;
            the line names the key, the value, what is allowed and the nearest name.
    """
    known = {f.name: f for f in fields(schema)}
    hints = typing.get_type_hints(schema)
    for name in config:
        if name not in known:
            raise UserError(unknown_key(f"{path}{name}", [f"{path}{k}" for k in known]))
    for name, spec in known.items():
        if name not in config:
            raise UserError(f"{path}{name} is missing ({spec.metadata['meaning']})")
        _check_value(f"{path}{name}", config[name], hints[name], spec.metadata)


ELSEWHERE = {
    "ckpt": "ckpt_path init_from model_name_or_path",
    "cuda": "gpu",
    "data.batch_size": "micro_batch_size per_device_train_batch_size train_batch_size",
    "data.eval_batch_size": "per_device_eval_batch_size",
    "data.path": "json_path train_data_path train_file",
    "data.test_path": "test_file",
    "data.val_fraction": "val_split_fraction",
    "data.val_path": "val_data_path validation_file",
    "debug": "fast_dev_run",
    "default": "tensorboard",
    "device": "accelerator no_cuda use_cpu",
    "logger": "loggers report_to wandb_log",
    "max_new_tokens": "max_length",
    "model.activation_checkpointing": "gradient_checkpointing",
    "model.context_length": "block_size max_seq_len max_seq_length n_ctx n_positions",
    "model.drop_rate": "dropout",
    "model.emb_dim": "d_model hidden_size n_embd",
    "model.n_heads": "n_head num_attention_heads num_heads",
    "model.n_layers": "n_layer num_hidden_layers num_layers",
    "model.qkv_bias": "bias",
    "optimizer.betas": "adam_beta1 adam_beta2 beta1 beta2",
    "optimizer.eps": "adam_epsilon",
    "optimizer.lr": "learning_rate max_lr",
    "output_root": "out_dir output_dir",
    "precision": "bf16 dtype fp16",
    "prompt": "start",
    "prompt_format": "prompt_style",
    "resume": "ckpt_path resume_from_checkpoint",
    "scheduler": "decay_lr lr_scheduler_type",
    "scheduler.min_lr_ratio": "min_lr",
    "scheduler.total_steps": "lr_decay_iters",
    "scheduler.warmup_steps": "lr_warmup_steps warmup_iters warmup_ratio",
    "task.label_smoothing": "label_smoothing_factor",
    "task.lora.alpha": "lora_alpha",
    "task.lora.dropout": "lora_dropout",
    "task.lora.rank": "lora_r r",
    "trainer.accumulate_grad_batches": "gradient_accumulation_steps",
    "trainer.checkpoint_interval": "save_interval save_steps",
    "trainer.early_stopping": "early_stopping_patience patience",
    "trainer.gradient_clip_val": "grad_clip max_grad_norm max_norm",
    "trainer.limit_val_batches": "eval_iters",
    "trainer.log_every_n_steps": "log_interval logging_steps",
    "trainer.max_epochs": "epochs num_epochs num_train_epochs",
    "trainer.max_steps": "max_iters",
    "trainer.monitor": "metric_for_best_model optimized_metric",
    "trainer.monitor_mode": "greater_is_better",
    "trainer.val_interval": "check_val_every_n_epoch eval_interval eval_steps val_check_interval",
    "weights": "init_from model_name_or_path",
}
"""Our names, and what nanoGPT, LitGPT, transformers' Trainer and others call the same things."""


def nearest(name: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """The name that was most likely meant; None if none is near."""
    names = _also_called(name)
    name = next((ours for ours in names if ours in known), names[0] if names else name)
    near = get_close_matches(name.lower(), {k.lower(): k for k in known}, n=1, cutoff=cutoff)
    return next((k for k in known if k.lower() == near[0]), None) if near else None


def meant(name: str, known: Collection[str]) -> list[str]:
    """The keys that end in a name, and the key for what is called so elsewhere; none if there are
    too many to list."""
    ours = _also_called(name.rpartition(".")[2])
    keys = sorted(key for key in known if key.endswith(f".{name}") or key in ours)
    return keys if len(keys) <= MOST_MEANT else []


def _also_called(name: str) -> list[str]:
    return [ours for ours, names in ELSEWHERE.items() if name.lower() in names.split()]


def unknown_key(name: str, known: Collection[str]) -> str:
    """The line for a key that does not exist; it names the keys that may be meant, or a near
    one."""
    if keys := meant(name, known):
        return f"unknown key '{name}': did you mean {' or '.join(map(repr, keys))}?"
    if near := nearest(name, [key for key in known if key != name]):
        return f"unknown key '{name}': did you mean '{near}'?"
    depth = min((key.count(".") for key in known), default=0)
    names = sorted(key for key in known if key.count(".") == depth)
    return f"unknown key '{name}'; known are {', '.join(names)}"


def empty(name: str, meaning: str) -> str:
    """The line for a key that is given no value, as in `name=`."""
    return f"{name} is empty: give a value ({meaning})"


def _check_value(name: str, value: Any, hint: Any, metadata: typing.Mapping[str, Any]) -> None:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    nodes = [option for option in options if is_dataclass(option) and isinstance(option, type)]
    if nodes and not (value is None and types.NoneType in options):
        if not isinstance(value, dict):
            raise UserError(_no_node(name, value, nodes[0]))
        return check(value, nodes[0], f"{name}.")
    if not any(_is(value, option) for option in options):
        wanted = " or ".join(_type_name(option) for option in options)
        raise UserError(f"{name}={_show(value)}: expected {wanted} ({metadata['meaning']})")
    if isinstance(value, str) and metadata["choices"] and value not in metadata["choices"]:
        near = nearest(value, metadata["choices"], cutoff=0.5)
        hint_text = f"; did you mean {near}?" if near else ""
        allowed = ", ".join(metadata["choices"])
        raise UserError(f"{name}={value}: allowed are {allowed}{hint_text}")
    for item in value if isinstance(value, list) else [value]:
        if item == "" and not metadata["may_be_empty"]:
            raise UserError(empty(name, metadata["meaning"]))
        if isinstance(item, int | float) and not isinstance(item, bool):
            _check_bounds(name, item, metadata)
    return None


def _no_node(name: str, value: Any, schema: type) -> str:
    """The line for a value where keys are expected: for a group, or for a node inside an option."""
    if "." not in name:
        return f"{name}={_show(value)} is a group: choose one of its options by name"
    keys = ", ".join(f"{name}.{inner.name}=..." for inner in fields(schema))
    return f"{name}={_show(value)}: it has keys of its own, which are given instead: {keys}"


def _check_bounds(name: str, number: float, metadata: typing.Mapping[str, Any]) -> None:
    tests = {">=": float.__ge__, ">": float.__gt__, "<=": float.__le__, "<": float.__lt__}
    bounds = {sign: bound for sign, bound in metadata["bounds"].items() if bound is not None}
    if not all(tests[sign](float(number), float(bound)) for sign, bound in bounds.items()):
        allowed = " and ".join(f"{sign} {bound}" for sign, bound in bounds.items())
        raise UserError(f"{name}={number}: must be {allowed} ({metadata['meaning']})")


def _is(value: Any, hint: Any) -> bool:
    """Whether a value fits a type, as users see types: 1 is a float, true is not a number."""
    if hint is Any:
        return True
    if hint is types.NoneType:
        return value is None
    origin = typing.get_origin(hint) or hint
    if origin is list:
        [item] = typing.get_args(hint)
        return isinstance(value, list) and all(_is(v, item) for v in value)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin)


def _type_name(hint: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        types.NoneType: "null",
    }
    if hint in names:
        return names[hint]
    if typing.get_origin(hint) is list:
        return f"a list of {_type_name(typing.get_args(hint)[0]).removeprefix('a ')}s"
    return "a group of keys"


def _show(value: Any) -> str:
    if isinstance(value, str | float):
        return str(value)
    return json.dumps(value, default=str)
