"""Seconds of fine-tuning a classifier: all epochs and their evaluations, but not the final test."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.common import Measurement, add_machine_arguments, positive, resolved
from gptlit.cli import allocator
from gptlit.cli.arguments import quoted

BASELINE = "plain"
COSTS: dict[str, tuple[str, str]] = {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shape, data and length of the run."""
    add_machine_arguments(parser, model="gpt2-small")
    parser.add_argument("--data", required=True, help="the SMS Spam Collection: file, folder, zip")
    parser.add_argument("--epochs", type=positive, default=5, help="passes over the training split")
    parser.add_argument("--seed", type=int, default=1337, help="of the run")


def check(args: argparse.Namespace) -> str:
    """The device that it is measured on.

    Raises:
        UserError: it cannot be measured with these options, or the data cannot be read.
    """
    from gptlit.data.spam import SmsSpamDataModule
    from gptlit.tokenizer import get_tokenizer

    data = SmsSpamDataModule(
        tokenizer=get_tokenizer("byte"), context_length=1, seed=0, batch_size=1
    )
    data.read(args.data, "data.path")
    return resolved(args)[0]


def gptlit(args: argparse.Namespace) -> Measurement:
    """The command as users start it, from random weights, which do the same arithmetic."""
    return _run(args)


def uncached(args: argparse.Namespace) -> Measurement:
    """The same without the feature cache."""
    return _run(args, "task.cache_features=false")


def plain(args: argparse.Namespace) -> Measurement:
    """The same without the feature cache, and with every text padded to the longest of all, as in
    the book. The batches hold the same texts, so the metrics are the same."""
    target = "data._target_=benchmarks.padded.PaddedSpam"
    return _run(args, "task.cache_features=false", target)


CONTESTANTS = {"gptlit": gptlit, "uncached": uncached, "plain": plain}


def _run(args: argparse.Namespace, *overrides: str) -> Measurement:
    allocator.restart_with_tuned_malloc()  # as the command does, but before the folder is made
    from gptlit.cli.train import main
    from gptlit.device import peak_memory_gb

    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = [
            "task=classification",
            "weights=none",
            f"model={args.model}",
            f"data.path={quoted(args.data)}",
            "data.deduplicate=false",  # 1,045 / 149 / 300 rows, as in the book
            f"data.cache_dir={quoted(folder)}",
            f"trainer.max_epochs={args.epochs}",
            f"seed={args.seed}",
            f"device={args.device}",
            f"precision={args.precision}",
            f"hydra.run.dir={quoted(folder + '/run')}",
            *overrides,
        ]
        main()
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    names = ("test/loss", "test/accuracy")
    note = ", ".join(f"{name} {summary['metrics'][name]:.4f}" for name in names)
    memory = peak_memory_gb(resolved(args)[0])
    return Measurement(summary["seconds"], "s", summary["precision"], memory, note=note)
