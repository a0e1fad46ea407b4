"""What the kinds of benchmark share: a measurement, the shape of a model, a text to read."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlit.options import model_shape, option_names, read_option

if TYPE_CHECKING:
    from torch import Tensor

    from gptlit.data.entry import Entry
    from gptlit.model import GPTConfig

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Measurement:
    """What one process measured."""

    value: float
    unit: str
    """"s", where less is better, or something per second."""
    precision: str | None = None
    memory_gb: float | None = None
    """Peak, 10^9 bytes: allocated on the GPU, or resident on a CPU."""
    flops: float | None = None
    """Operations per second that the model needs for it (Chowdhery et al. 2022, PaLM, appendix B).
    """
    peak_flops: float | None = None
    """Operations per second that the device can do."""
    note: str = ""
    """What else was measured, to be shown with the round."""
    others_cores: float = 0.0
    """How many cores other processes kept busy meanwhile; 0 if the system does not tell."""


Contestant = Callable[[argparse.Namespace], Measurement]
"""A function that measures, alone in its process, with the command line's options."""


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def positive_float(text: str) -> float:
    """A finite number above 0, for argparse."""
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def add_machine_arguments(parser: argparse.ArgumentParser, model: str) -> None:
    """Shape, device, precision."""
    names = option_names("model")
    parser.add_argument("--model", default=model, choices=names, help="its shape")
    devices, precisions = ("auto", "cpu", "cuda"), ("auto", "fp32", "bf16", "fp16")
    parser.add_argument("--device", default="auto", choices=devices, help="as device=...")
    parser.add_argument("--precision", default="auto", choices=precisions, help="as precision=...")


def add_model_arguments(parser: argparse.ArgumentParser, model: str = "gpt2-small") -> None:
    """Shape, device, precision, tokenizer."""
    add_machine_arguments(parser, model)
    tokenizers = ("gpt2", "byte")
    parser.add_argument("--tokenizer", default="gpt2", choices=tokenizers, help="its vocabulary")


def resolved(args: argparse.Namespace) -> tuple[str, str]:
    """The device and the precision that "auto" means here.

    Raises:
        UserError: the machine lacks one of them.
    """
    from gptlit.device import resolve_device, resolve_precision

    device = resolve_device(args.device)
    return device, resolve_precision(args.precision, device)


def resolved_for_decoding(args: argparse.Namespace, emb_dim: int) -> tuple[str, str]:
    """The device and the number format of weights that "auto" means here for a model's width.

    Raises:
        UserError: the machine lacks the device.
    """
    from gptlit.device import resolve_device
    from gptlit.inference.placement import decoding_precision

    device = resolve_device(args.device)
    return device, decoding_precision(args.precision, device, emb_dim)


def model_config(args: argparse.Namespace, context_length: int) -> "GPTConfig":
    """The shape in conf/model, with the tokenizer's vocabulary and without dropout."""
    from gptlit.model import GPTConfig
    from gptlit.tokenizer import get_tokenizer

    shape = model_shape(args.model) | {"context_length": context_length, "drop_rate": 0.0}
    return GPTConfig(vocab_size=get_tokenizer(args.tokenizer).vocab_size, **shape)


def instruction_splits(args: argparse.Namespace) -> "dict[str, list[Entry]]":
    """The entries of --data, split as data=instructions does.

    Raises:
        UserError: the file cannot be read, or has too few entries.
    """
    from gptlit.data.instruction_files import read_entries, split_entries

    shares = read_option("data", "instructions")
    entries, _ = read_entries(args.data)
    return split_entries(entries, shares["val_fraction"], shares["test_fraction"], None)


def transformers_model(cfg: "GPTConfig") -> Any:
    """The same shape in transformers, with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=cfg.vocab_size,
            n_positions=cfg.context_length,
            n_embd=cfg.emb_dim,
            n_layer=cfg.n_layers,
            n_head=cfg.n_heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=cfg.vocab_size - 1,
            eos_token_id=cfg.vocab_size - 1,
        )
    )


def write_text(path: Path, characters: int) -> Path:
    """Write lines of made-up words, some far more frequent than others; the same each time."""
    rng = np.random.default_rng(0)
    letters = np.array(list("eeetttaaoinshrdlucmfwyp"))
    words = np.array(["".join(rng.choice(letters, n)) for n in rng.integers(1, 10, 5000)], object)
    n_lines = characters // 30 + 1  # of ten words: 30 characters, if all have two letters
    lines = words[rng.zipf(1.3, (n_lines, 10)) % len(words)]
    path.write_text("\n".join(" ".join(line) for line in lines)[:characters])
    return path


def transformers_greedy(model: Any, ids: "Tensor", new_tokens: int) -> "Tensor":
    """Exactly `new_tokens` tokens by transformers' greedy `generate`: (B, T) -> (B, T + new)."""
    import torch

    written: Tensor = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        pad_token_id=model.config.eos_token_id,
    )
    return written
