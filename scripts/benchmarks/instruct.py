"""Seconds per step of instruction tuning, over real batches of a file of instructions."""

import argparse
import sys
import tempfile

from benchmarks.common import MODELS, Measurement, positive
from benchmarks.train import Clock
from gptlit.cli import allocator

BASELINE = "gptlit"
COSTS: dict[str, tuple[str, str]] = {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shape, data and number of batches."""
    names = sorted(path.stem for path in MODELS.glob("*.yaml"))
    parser.add_argument("--model", default="gpt2-medium", choices=names)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--data", required=True, help="JSON file of instructions")
    parser.add_argument("--batch-size", type=positive, default=8, help="entries per step")
    parser.add_argument("--steps", type=positive, default=20, help="steps that are timed")
    parser.add_argument("--warmup", type=positive, default=3, help="steps before them")


def gptlit(args: argparse.Namespace) -> Measurement:
    """The command as users start it, from random weights: the sample is the first batches of an
    epoch, whose order is random."""
    return _run(args)


def padded(args: argparse.Namespace) -> Measurement:
    """Each entry a row, padded to the longest of its batch."""
    return _run(args, "data.join_tokens=0")


def packed(args: argparse.Namespace) -> Measurement:
    """As many entries as one row of 256 tokens has room for, in place of 8: seven of the book's."""
    args.batch_size = max(1, args.batch_size // 8)
    return _run(args, "data.pack=true", "model.context_length=256")


CONTESTANTS = {"gptlit": gptlit, "padded": padded, "packed": packed}


def _run(args: argparse.Namespace, *overrides: str) -> Measurement:
    allocator.restart_with_tuned_malloc()
    from benchmarks.clocked import ClockedInstructions
    from gptlit.cli.train import main
    from gptlit.device import resolve_precision

    args.context = 1  # the clock counts steps, not tokens
    clock = ClockedInstructions.clock = Clock(args)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = [
            "task=instruction",
            "weights=none",
            f"model={args.model}",
            "data._target_=benchmarks.clocked.ClockedInstructions",
            f"data.path={args.data}",
            f"data.batch_size={args.batch_size}",
            f"trainer.max_steps={args.warmup + args.steps + 1}",  # the last one ends the clock's
            "trainer.limit_val_batches=0",
            "trainer.log_every_n_steps=1000000",
            "task.answers.max_new_tokens=0",
            "task.sample.every_n_validations=0",
            "logger=csv",
            f"device={args.device}",
            f"precision={args.precision}",
            f"hydra.run.dir={folder}/run",
            *overrides,
        ]
        main()
    seconds, memory = clock.seconds(), clock.memory_gb
    return Measurement(
        seconds / args.steps, "s", resolve_precision(args.precision, clock.device), memory
    )
