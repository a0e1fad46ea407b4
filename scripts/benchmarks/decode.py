"""New tokens per second of greedy decoding, the prompt's pass included."""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import (
    Contestant,
    Measurement,
    add_model_arguments,
    model_config,
    positive,
    resolved_for_decoding,
    transformers_greedy,
    transformers_model,
)
from gptlit.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from gptlit.model import GPTModel

BASELINE = "transformers"
COSTS: dict[str, tuple[str, str]] = {}
CALLS = 4
"""How many calls are timed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shape and length of the prompts."""
    add_model_arguments(parser)
    parser.add_argument("--batch-size", type=positive, default=1, help="prompts at once")
    parser.add_argument("--prompt-tokens", type=positive, default=32, help="per prompt")
    parser.add_argument("--new-tokens", type=positive, default=128, help="per prompt")
    parser.add_argument(
        "--weights",
        metavar="FOLDER",
        help="of a trained model, from scripts/export.py, with its own shape and tokenizer; by"
        " default random weights of --model",
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        help="what prompts are taken from, and what gptlit-prompt-lookup has to write where weights"
        " are random; by default a chapter of the Python reference",
    )


def check(args: argparse.Namespace) -> str:
    """The device that it is measured on. If there are trained weights, --model and --tokenizer,
    which then have no effect, are taken out of the options.

    Raises:
        UserError: it cannot be measured with these options, or not with these weights or this text.
    """
    from gptlit.weights.load import inspect

    if args.weights or "gptlit-prompt-lookup" in args.contestants:
        _text(args)
    if not args.weights:
        return resolved_for_decoding(args, model_config(args, _length(args)).emb_dim)[0]
    cfg = inspect(Path(args.weights)).config
    if (asked := args.prompt_tokens + args.new_tokens) > cfg.context_length:
        raise UserError(
            f"--prompt-tokens and --new-tokens are {asked}, but the context of {args.weights} has"
            f" {cfg.context_length}: give fewer"
        )
    args.model = args.tokenizer = None
    return resolved_for_decoding(args, cfg.emb_dim)[0]


def gptlit(args: argparse.Namespace) -> Measurement:
    """As generate.py does it, with `place` and then `stream_ids`, but with a pass for each token:
    random weights repeat themselves, so that every guess would come true."""
    from gptlit.inference.generation import Sampling, stream_ids

    model, device, precision = _placed(args)

    def decode(ids: list[list[int]]) -> None:
        list(stream_ids(model, ids, args.new_tokens, Sampling(), prompt_lookup=False))

    return _measure(args, device, precision, _prompts(args), decode)


def gptlit_prompt_lookup(args: argparse.Namespace) -> Measurement:
    """The same with guesses, as generate.py does it; always for one prompt, as there are none
    for several. Random weights are made to write a text that a person has written."""
    unit = "tokens/s" if args.batch_size == 1 else "tokens/s of one prompt"  # not to be compared
    args.batch_size = 1
    from gptlit.inference.generation import Sampling, stream_ids

    model, device, precision = _placed(args)
    passes = _count_passes(model)
    text: list[int] = []  # what random weights have to write
    if args.weights:
        prompts = _prompts(args)
    else:
        text = _text(args)[: args.prompt_tokens + args.new_tokens]
        prompts = [[text[: args.prompt_tokens]]] * CALLS
        _dictate(model, text, passes)

    def decode(ids: list[list[int]]) -> None:
        written = [token for [token] in stream_ids(model, ids, args.new_tokens, Sampling())]
        assert not text or ids[0] + written == text

    measurement = _measure(args, device, precision, prompts, decode)
    tokens = (CALLS + 1) * args.new_tokens
    return replace(measurement, unit=unit, note=f"{tokens / len(passes):.2f} tokens a pass")


def _placed(args: argparse.Namespace) -> "tuple[GPTModel, str, str]":
    """The model, its device and its precision."""
    from gptlit.inference.checkpoint import open_trained
    from gptlit.inference.placement import place
    from gptlit.model import GPTModel

    if args.weights:
        model = open_trained(args.weights, "pretrain", "outputs", {})[0].model
    else:
        model = GPTModel(model_config(args, _length(args)))
    return place(model, args.device, args.precision)


def _count_passes(model: "GPTModel") -> list[int]:
    """A list to which each pass of the model adds the number of tokens that the cache then
    holds."""
    hidden = model.hidden
    seen: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> "Tensor":
        out: Tensor = hidden(*args, **kwargs)
        seen.append(kwargs["cache"].length)
        return out

    model.hidden = counted  # type: ignore[method-assign]
    return seen


def _dictate(model: "GPTModel", ids: list[int], seen: list[int]) -> None:
    """Make the next token of a text the likeliest for a model, whatever its weights say."""
    import torch

    text = torch.tensor(ids, device=model.tok_emb.weight.device)
    logits = model.logits

    def dictated(h: "Tensor") -> "Tensor":
        n = h.shape[1]
        wanted = text[seen[-1] - n + 1 : seen[-1] + 1]
        return logits(h).scatter(-1, wanted[None, :, None], torch.inf)

    model.logits = dictated  # type: ignore[method-assign, assignment]


def transformers(args: argparse.Namespace) -> Measurement:
    """`generate` of a GPT2LMHeadModel whose weights are all in the precision."""
    import torch

    from gptlit.device import DTYPES

    if args.weights:
        from transformers import GPT2LMHeadModel

        model: Any = GPT2LMHeadModel.from_pretrained(args.weights)
    else:
        model = transformers_model(model_config(args, _length(args)))
    device, precision = resolved_for_decoding(args, model.config.n_embd)
    model = model.to(device, DTYPES[precision]).eval()

    def decode(ids: list[list[int]]) -> None:
        transformers_greedy(model, torch.tensor(ids, device=device), args.new_tokens).tolist()

    return _measure(args, device, precision, _prompts(args), decode)


def gptlit_fp32(args: argparse.Namespace) -> Measurement:
    """gptlit in fp32."""
    args.precision = "fp32"
    return gptlit(args)


def transformers_fp32(args: argparse.Namespace) -> Measurement:
    """transformers in fp32."""
    args.precision = "fp32"
    return transformers(args)


CONTESTANTS: dict[str, Contestant] = {
    "gptlit": gptlit,
    "gptlit-prompt-lookup": gptlit_prompt_lookup,
    "gptlit-fp32": gptlit_fp32,
    "transformers": transformers,
    "transformers-fp32": transformers_fp32,
}


def _length(args: argparse.Namespace) -> int:
    """A context that holds prompt and answer, and GPT-2's at least."""
    return max(1024, args.prompt_tokens + args.new_tokens)


def _prompts(args: argparse.Namespace) -> list[list[list[int]]]:
    """The prompts of each call, (batch, prompt tokens): from all over the text if there are trained
    weights to continue it; otherwise the same random ids, which both tokenizers have."""
    n = CALLS * args.batch_size
    if args.weights:
        ids = _text(args)
        starts = [i * (len(ids) - args.prompt_tokens) // n for i in range(n)]
        prompts = [ids[start : start + args.prompt_tokens] for start in starts]
        return [prompts[call::CALLS] for call in range(CALLS)]
    import numpy as np

    shape = (args.batch_size, args.prompt_tokens)
    return [np.random.default_rng(0).integers(256, size=shape).tolist()] * CALLS


def _text(args: argparse.Namespace) -> list[int]:
    """The text's ids, enough for a prompt and its new tokens.

    Raises:
        UserError: weights or text cannot be read, or there is too little text.
    """
    from gptlit.tokenizer import get_tokenizer
    from gptlit.weights.load import inspect

    if args.weights and not (Path(args.weights) / "config.json").is_file():
        raise UserError(f"--weights {args.weights}: give a folder that scripts/export.py has made")
    if args.text:
        try:
            text = Path(args.text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"--text {args.text}: {why}; give a file of UTF-8 text") from error
    else:
        from pydoc_data.topics import topics

        text = max(topics.values(), key=len)
    name = inspect(Path(args.weights)).tokenizer if args.weights else args.tokenizer
    ids: list[int] = get_tokenizer(name).encode_to_numpy(text).tolist()
    if len(ids) < (needed := args.prompt_tokens + args.new_tokens):
        raise UserError(
            f"--text has {len(ids)} tokens, but {needed} are needed: give more text, or ask for"
            " fewer"
        )
    return ids


def _measure(
    args: argparse.Namespace,
    device: str,
    precision: str,
    prompts: list[list[list[int]]],
    decode: Callable[[list[list[int]]], Any],
) -> Measurement:
    """The rate over all calls, after one that is not timed; `decode` must not return before its
    tokens are there."""
    from gptlit.device import peak_memory_gb

    decode(prompts[0])
    start = time.perf_counter()
    for ids in prompts:
        decode(ids)
    rate = len(prompts) * args.batch_size * args.new_tokens / (time.perf_counter() - start)
    return Measurement(rate, "tokens/s", precision, peak_memory_gb(device))
