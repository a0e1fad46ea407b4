"""Seconds of instruction tuning per --batch-size entries, over real batches of a file of
instructions."""

import argparse
import sys
import tempfile

from benchmarks.common import (
    Measurement,
    add_machine_arguments,
    instruction_splits,
    positive,
    resolved,
)
from benchmarks.train import Clock
from gptlit.cli import allocator
from gptlit.cli.arguments import quoted
from gptlit.errors import UserError

BASELINE = "gptlit"
COSTS: dict[str, tuple[str, str]] = {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shape, data and number of batches."""
    add_machine_arguments(parser, model="gpt2-medium")
    parser.add_argument("--data", required=True, help="JSON file of instructions")
    parser.add_argument("--batch-size", type=positive, default=8, help="entries per step")
    parser.add_argument("--steps", type=positive, default=20, help="steps that are timed")
    parser.add_argument("--warmup", type=positive, default=3, help="steps before them")


def check(args: argparse.Namespace) -> str:
    """The device that it is measured on.

    Raises:
        UserError: it cannot be measured with these options, or not on this file.
    """
    there = len(instruction_splits(args)["train"])
    if there < args.batch_size:
        raise UserError(
            f"--data {args.data} has {there} entries to train on, fewer than --batch-size"
            f" {args.batch_size}: give more of them, or a smaller batch"
        )
    return resolved(args)[0]


def gptlit(args: argparse.Namespace) -> Measurement:
    """The command as users start it, from random weights: the sample is the first batches of an
    epoch, whose order is random."""
    return _run(args)


def padded(args: argparse.Namespace) -> Measurement:
    """Each entry is a row, padded to the longest of its batch."""
    return _run(args, "data.join_tokens=0")


def packed(args: argparse.Namespace) -> Measurement:
    """One row of 256 tokens for every 8 entries of the batch size, with as many entries as it has
    room for: seven of the book's. Longer entries are cut."""
    rows = f"data.batch_size={max(1, args.batch_size // 8)}"
    return _run(args, "data.pack=true", rows, context_length=256)


CONTESTANTS = {"gptlit": gptlit, "padded": padded, "packed": packed}


def _run(args: argparse.Namespace, *overrides: str, context_length: int = 1024) -> Measurement:
    allocator.restart_with_tuned_malloc()
    from benchmarks.clocked import ClockedInstructions
    from gptlit.cli.train import main

    clock = ClockedInstructions.clock = Clock(args)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = [
            "task=instruction",
            "weights=none",
            f"model={args.model}",
            "data._target_=benchmarks.clocked.ClockedInstructions",
            f"data.path={quoted(args.data)}",
            f"data.batch_size={args.batch_size}",
            f"model.context_length={context_length}",
            "trainer.max_epochs=null",
            f"trainer.max_steps={args.warmup + args.steps + 1}",  # the last one stops the clock
            "trainer.limit_val_batches=0",
            "trainer.log_every_n_steps=1000000",
            "task.answers.max_new_tokens=0",
            "task.sample.every_n_validations=0",
            "logger=csv",
            f"device={args.device}",
            f"precision={args.precision}",
            f"hydra.run.dir={quoted(folder + '/run')}",
            *overrides,
        ]
        main()
    # Counted by entries, not by steps: a packed step has about as many entries, but not exactly.
    seconds = clock.seconds() / clock.samples * args.batch_size
    note = f"{clock.samples / args.steps:.2f} entries a step"
    return Measurement(seconds, "s", resolved(args)[1], clock.memory_gb, note=note)
