"""New tokens per second of greedy decoding, the prompt's pass included."""

import argparse
import statistics
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
    transformers_model,
)

if TYPE_CHECKING:
    from torch import Tensor

    from gptlit.model import GPTModel

BASELINE = "transformers"
COSTS: dict[str, tuple[str, str]] = {}
CALLS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shape and length of the prompts."""
    add_model_arguments(parser)
    parser.add_argument("--batch-size", type=positive, default=1, help="prompts at once")
    parser.add_argument("--prompt-tokens", type=positive, default=32, help="per prompt")
    parser.add_argument("--new-tokens", type=positive, default=128, help="per prompt")
    parser.add_argument(
        "--text",
        metavar="FILE",
        help="what gptlit-prompt-lookup has to write; by default a chapter of the Python reference",
    )


def gptlit(args: argparse.Namespace) -> Measurement:
    """The way of generate.py, `place`, then `stream_ids`, but a pass for each token: random
    weights repeat themselves, and every guess would come true."""
    from gptlit.inference.generation import Sampling, stream_ids
    from gptlit.inference.placement import place
    from gptlit.model import GPTModel

    model = GPTModel(model_config(args, _length(args)))
    model, device, precision = place(model, args.device, args.precision)
    prompts = _prompts(args)
    return _measure(
        args,
        device,
        precision,
        lambda: list(stream_ids(model, prompts, args.new_tokens, Sampling(), prompt_lookup=False)),
    )


def gptlit_prompt_lookup(args: argparse.Namespace) -> Measurement:
    """The same with guesses, while it writes a text that somebody has written; always for one
    prompt, as several have no guesses."""
    args.batch_size = 1
    from gptlit.inference.generation import Sampling, stream_ids
    from gptlit.inference.placement import place
    from gptlit.model import GPTModel

    ids = _text(args)
    prompt, text = ids[: args.prompt_tokens], ids[args.prompt_tokens :]
    model = GPTModel(model_config(args, _length(args)))
    model, device, precision = place(model, args.device, args.precision)
    passes = _dictate(model, ids)

    def decode() -> list[list[int]]:
        passes.clear()
        tokens = list(stream_ids(model, [prompt], len(text), Sampling()))
        assert tokens == [[token] for token in text]
        return tokens

    measurement = _measure(args, device, precision, decode)
    return replace(measurement, note=f"{len(text) / len(passes):.2f} tokens a pass")


def _text(args: argparse.Namespace) -> list[int]:
    """Ids of the text, prompt and new tokens."""
    from gptlit.tokenizer import get_tokenizer

    if args.text:
        text = Path(args.text).read_text(encoding="utf-8")
    else:
        from pydoc_data.topics import topics

        text = max(topics.values(), key=len)
    ids: list[int] = get_tokenizer(args.tokenizer).encode_to_numpy(text).tolist()
    if len(ids) < (needed := args.prompt_tokens + args.new_tokens):
        raise SystemExit(f"error: the text has {len(ids)} tokens, {needed} are needed")
    return ids[:needed]


def _dictate(model: "GPTModel", ids: list[int]) -> list[int]:
    """Make a model find the next token of a text the likeliest, whatever its weights say.

    Returns:
        a list to which each pass adds the number of tokens that the cache then holds.
    """
    import torch

    text = torch.tensor(ids, device=model.tok_emb.weight.device)
    hidden, logits = model.hidden, model.logits
    seen: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> "Tensor":
        out: Tensor = hidden(*args, **kwargs)
        seen.append(kwargs["cache"].length)
        return out

    def dictated(h: "Tensor") -> "Tensor":
        n = h.shape[1]
        wanted = text[seen[-1] - n + 1 : seen[-1] + 1]
        return logits(h).scatter(-1, wanted[None, :, None], torch.inf)

    model.hidden = counted  # type: ignore[method-assign]
    model.logits = dictated  # type: ignore[method-assign, assignment]
    return seen


def transformers(args: argparse.Namespace) -> Measurement:
    """`generate` of a GPT2LMHeadModel whose weights are all in the precision."""
    import torch

    device, precision = resolved_for_decoding(args)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    model = transformers_model(model_config(args, _length(args))).to(device, dtype).eval()
    prompts = torch.tensor(_prompts(args), device=device)

    def decode() -> list[list[int]]:
        out: list[list[int]] = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            max_new_tokens=args.new_tokens,
            min_new_tokens=args.new_tokens,
            pad_token_id=model.config.eos_token_id,
        ).tolist()
        return out

    return _measure(args, device, precision, decode)


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


def _prompts(args: argparse.Namespace) -> list[list[int]]:
    """Random ids that both tokenizers have, (batch, prompt tokens)."""
    import numpy as np

    shape = (args.batch_size, args.prompt_tokens)
    prompts: list[list[int]] = np.random.default_rng(0).integers(256, size=shape).tolist()
    return prompts


def _measure(
    args: argparse.Namespace, device: str, precision: str, decode: Callable[[], list[list[int]]]
) -> Measurement:
    """The median of some calls after a first one; `decode` ends when its tokens are there."""
    from gptlit.device import peak_memory_gb

    decode()
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        decode()
        seconds.append(time.perf_counter() - start)
    rate = args.batch_size * args.new_tokens / statistics.median(seconds)
    return Measurement(rate, "tokens/s", precision, peak_memory_gb(device))
