"""New tokens per second of answering a test split, prompts of all lengths."""

import argparse
import time

from benchmarks.common import (
    Contestant,
    Measurement,
    add_model_arguments,
    model_config,
    positive,
    resolved_for_decoding,
    transformers_model,
)

BASELINE = "transformers"
COSTS: dict[str, tuple[str, str]] = {}
CONTEXT = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shape, data and lengths."""
    add_model_arguments(parser)
    parser.set_defaults(model="gpt2-medium")
    parser.add_argument("--data", required=True, help="JSON file of instructions")
    parser.add_argument("--new-tokens", type=positive, default=64, help="per answer")
    parser.add_argument("--batch-size", type=positive, help="gptlit's; the task's if not given")
    parser.add_argument(
        "--sample", type=positive, default=10, help="prompts that are answered one by one"
    )


def gptlit(args: argparse.Namespace) -> Measurement:
    """All of them, in batches, by what answers them after training."""
    import tempfile
    from pathlib import Path

    from gptlit.evaluation.answers import write_answers
    from gptlit.inference.placement import place
    from gptlit.model import GPTModel
    from gptlit.options import read_option
    from gptlit.tokenizer import get_tokenizer

    model = GPTModel(model_config(args, CONTEXT))
    model, device, precision = place(model, args.device, args.precision)
    prompts = _prompts(args)
    settings = read_option("task", "instruction")["task"]["answers"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_answers(
            model,
            get_tokenizer(args.tokenizer),
            prompts,
            [{} for _ in prompts],
            Path(folder) / "answers.json",
            fingerprint="",
            batch_size=args.batch_size or settings["batch_size"],
            max_new_tokens=args.new_tokens,
        )
        return _measurement(args, device, precision, start, len(prompts))


def transformers(args: argparse.Namespace) -> Measurement:
    """Some of them, spread over all lengths, one by one: `generate` of a GPT2LMHeadModel whose
    weights are all in the precision."""
    import torch

    from gptlit.tokenizer import get_tokenizer

    cfg = model_config(args, CONTEXT)
    device, precision = resolved_for_decoding(args, cfg.emb_dim)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    model = transformers_model(cfg).to(device, dtype).eval()
    tokenizer = get_tokenizer(args.tokenizer)
    prompts = sorted(_prompts(args), key=len)
    sample = [prompts[i * len(prompts) // args.sample] for i in range(args.sample)]
    start = time.perf_counter()
    for prompt in sample:
        ids = torch.tensor([tokenizer.encode(prompt)], device=device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=args.new_tokens,
            min_new_tokens=args.new_tokens,
            pad_token_id=model.config.eos_token_id,
        )
        tokenizer.decode(out[0, ids.shape[1] :].tolist())
    return _measurement(args, device, precision, start, len(sample))


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
    """Those of the test split, in the task's own form."""
    from gptlit.data.instruction_files import read_entries, split_entries
    from gptlit.options import read_option
    from gptlit.prompts import PromptFormat

    form = PromptFormat.from_dict(read_option("prompt_format", "alpaca"))
    shares = read_option("data", "instructions")
    entries, _ = read_entries(args.data)
    test = split_entries(entries, shares["val_fraction"], shares["test_fraction"], None)["test"]
    return [form.format_prompt(entry.instruction, entry.input) for entry in test]


def _measurement(
    args: argparse.Namespace, device: str, precision: str, start: float, n_prompts: int
) -> Measurement:
    """Random weights hardly ever end an answer, so that each has all its tokens."""
    from gptlit.device import peak_memory_gb

    seconds = time.perf_counter() - start
    rate = n_prompts * args.new_tokens / seconds
    note = f"{n_prompts} answers in {seconds:.1f} s"
    return Measurement(rate, "tokens/s", precision, peak_memory_gb(device), note=note)
