"""New tokens per second when a test split, with prompts of all lengths, is answered."""

import argparse
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import (
    Contestant,
    Measurement,
    add_model_arguments,
    instruction_splits,
    model_config,
    positive,
    resolved_for_decoding,
    transformers_greedy,
    transformers_model,
)
from gptlit.errors import UserError
from gptlit.options import read_option

BASELINE = "transformers"
COSTS: dict[str, tuple[str, str]] = {}
CONTEXT = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shape, data and lengths."""
    add_model_arguments(parser, model="gpt2-medium")
    parser.add_argument("--data", required=True, help="JSON file of instructions")
    parser.add_argument("--new-tokens", type=positive, default=64, help="per answer")
    parser.add_argument("--batch-size", type=positive, help="gptlit's; the task's if not given")
    parser.add_argument(
        "--sample", type=positive, default=10, help="prompts that are answered one by one"
    )


def check(args: argparse.Namespace) -> str:
    """The device that it is measured on.

    Raises:
        UserError: it cannot be measured with these options, or not on this file.
    """
    from gptlit.tokenizer import get_tokenizer

    prompts = _prompts(args)
    if not prompts:
        raise UserError(f"--data {args.data} has no entry for the test split: give 10 or more")
    tokenizer = get_tokenizer(args.tokenizer)
    longest = max(len(tokenizer.encode(prompt)) for prompt in prompts)
    if longest + args.new_tokens > CONTEXT:
        raise UserError(
            f"the longest prompt has {longest} tokens: with --new-tokens {args.new_tokens} it"
            f" exceeds the context of {CONTEXT}; give fewer, or shorter instructions"
        )
    return resolved_for_decoding(args, model_config(args, CONTEXT).emb_dim)[0]


def gptlit(args: argparse.Namespace) -> Measurement:
    """All prompts, in batches, with the code that answers them after training."""
    import tempfile
    from pathlib import Path

    from gptlit.evaluation.answers import write_answers
    from gptlit.inference.placement import place
    from gptlit.model import GPTModel
    from gptlit.tokenizer import get_tokenizer

    model = GPTModel(model_config(args, CONTEXT))
    model, device, precision = place(model, args.device, args.precision)
    prompts = _prompts(args)
    settings = read_option("task", "instruction")["task"]["answers"]

    def answer(asked: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_answers(
                model,
                get_tokenizer(args.tokenizer),
                asked,
                [{} for _ in asked],
                Path(folder) / "answers.json",
                fingerprint="",
                batch_size=args.batch_size or settings["batch_size"],
                max_new_tokens=args.new_tokens,
            )

    return _measure(args, device, precision, prompts, answer)


def transformers(args: argparse.Namespace) -> Measurement:
    """Some of the prompts, spread over all lengths, one by one: `generate` of a GPT2LMHeadModel
    whose weights are all in the precision."""
    import torch

    from gptlit.device import DTYPES
    from gptlit.tokenizer import get_tokenizer

    cfg = model_config(args, CONTEXT)
    device, precision = resolved_for_decoding(args, cfg.emb_dim)
    model = transformers_model(cfg).to(device, DTYPES[precision]).eval()
    tokenizer = get_tokenizer(args.tokenizer)
    prompts = sorted(_prompts(args), key=len)
    n = min(args.sample, len(prompts))
    sample = [prompts[i * len(prompts) // n] for i in range(n)]

    def answer(asked: list[str]) -> None:
        for prompt in asked:
            ids = torch.tensor([tokenizer.encode(prompt)], device=device)
            out = transformers_greedy(model, ids, args.new_tokens)
            tokenizer.decode(out[0, ids.shape[1] :].tolist())

    return _measure(args, device, precision, sample, answer)


def transformers_fp32(args: argparse.Namespace) -> Measurement:
    """transformers in fp32."""
    args.precision = "fp32"
    return transformers(args)


CONTESTANTS: dict[str, Contestant] = {
    "gptlit": gptlit,
    "transformers": transformers,
    "transformers-fp32": transformers_fp32,
}


def _prompts(args: argparse.Namespace) -> list[str]:
    """The prompts of the test split, in the task's own format."""
    from gptlit.prompts import PromptFormat

    form = PromptFormat.from_dict(read_option("prompt_format", "alpaca"))
    test = instruction_splits(args)["test"]
    return [form.format_prompt(entry.instruction, entry.input) for entry in test]


def _measure(
    args: argparse.Namespace,
    device: str,
    precision: str,
    prompts: list[str],
    answer: Callable[[list[str]], Any],
) -> Measurement:
    """The rate over all prompts, after a first answer that is not timed: its set-up would matter
    little among a hundred answers, but not among ten. Random weights hardly ever end an answer, so
    each answer has all its tokens."""
    from gptlit.device import peak_memory_gb

    answer(prompts[:1])
    start = time.perf_counter()
    answer(prompts)
    seconds = time.perf_counter() - start
    rate = len(prompts) * args.new_tokens / seconds
    note = f"{len(prompts)} answers in {seconds:.1f} s"
    return Measurement(rate, "tokens/s", precision, peak_memory_gb(device), note=note)
