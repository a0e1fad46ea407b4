"""Seconds of fine-tuning a classifier: all epochs, their evaluations and the final test."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.common import MODELS, Measurement, positive
from gptlit.cli import allocator

BASELINE = "plain"
COSTS: dict[str, tuple[str, str]] = {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shape, data and length of the run."""
    names = sorted(path.stem for path in MODELS.glob("*.yaml"))
    parser.add_argument("--model", default="gpt2-small", choices=names)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--data", required=True, help="the SMS Spam Collection: file, folder, zip")
    parser.add_argument("--epochs", type=positive, default=5, help="passes over the training split")
    parser.add_argument("--seed", type=int, default=1337, help="of the run")


def gptlit(args: argparse.Namespace) -> Measurement:
    """The command as users start it, from random weights, which do the same arithmetic."""
    return _run(args)


def uncached(args: argparse.Namespace) -> Measurement:
    """The same without the feature cache."""
    return _run(args, "task.cache_features=false")


def plain(args: argparse.Namespace) -> Measurement:
    """The same without the feature cache, every text padded to the longest of all, as in the book.
    The batches hold the same texts, and so the metrics are the same."""
    target = "data._target_=benchmarks.padded.PaddedSpam"
    return _run(args, "task.cache_features=false", target)


CONTESTANTS = {"gptlit": gptlit, "uncached": uncached, "plain": plain}


def _run(args: argparse.Namespace, *overrides: str) -> Measurement:
    allocator.restart_with_tuned_malloc()  # as the command does, but before there is a folder
    from gptlit.cli.train import main
    from gptlit.device import peak_memory_gb, resolve_device

    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = [
            "task=classification",
            "weights=none",
            f"model={args.model}",
            f"data.path={args.data}",
            "data.deduplicate=false",  # 1,045 / 149 / 300 rows, as in the book
            f"data.cache_dir={folder}",
            f"trainer.max_epochs={args.epochs}",
            f"seed={args.seed}",
            f"device={args.device}",
            f"precision={args.precision}",
            f"hydra.run.dir={folder}/run",
            *overrides,
        ]
        main()
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    names = ("test/loss", "test/accuracy")
    note = ", ".join(f"{name} {summary['metrics'][name]:.4f}" for name in names)
    memory = peak_memory_gb(resolve_device(args.device))
    return Measurement(summary["seconds"], "s", summary["precision"], memory, note=note)
