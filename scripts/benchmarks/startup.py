"""Seconds until a command answers, a module is imported, or a model has written its first token."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import ROOT, Contestant, Measurement

BASELINE = "python"
COSTS: dict[str, tuple[str, str]] = {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There is nothing to set."""


def check(_args: argparse.Namespace) -> str:
    """The device that it is measured on: that of the commands."""
    from gptlit.device import resolve_device

    return resolve_device("auto")


def _command(*command: str, expected: int = 0) -> Contestant:
    """Wall time of `python COMMAND...` in the checkout."""

    def measure(_args: argparse.Namespace) -> Measurement:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode != expected:
            last = done.stderr.strip().rpartition("\n")[2]
            raise RuntimeError(f"exit code {done.returncode}: {last}")
        return Measurement(seconds, "s")

    return measure


def _with_model(*command: str) -> Contestant:
    """Wall time of `python COMMAND...`, where MODEL is a folder of random weights of GPT-2 small's
    shape. It has just been written, so it need not be read from the disk."""

    def measure(args: argparse.Namespace) -> Measurement:
        from gptlit.model import GPTConfig, GPTModel
        from gptlit.tokenizer import get_tokenizer
        from gptlit.weights.export import export_huggingface

        tokenizer = get_tokenizer("gpt2")
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "model"
            export_huggingface(GPTModel(GPTConfig()), tokenizer.name, out, tokenizer.eot_id, {})
            return _command(*(part.replace("MODEL", str(out)) for part in command))(args)

    return measure


THEIR_FIRST_TOKEN = """
import torch
from transformers import GPT2LMHeadModel
device = "cuda" if torch.cuda.is_available() else "cpu"  # as generate.py takes
model = GPT2LMHeadModel.from_pretrained("MODEL", dtype=torch.bfloat16).to(device)
ids = torch.tensor([[464]], device=device)
model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=1)
"""

CONTESTANTS: dict[str, Contestant] = {
    "python": _command("-c", "pass"),
    "import gptlit": _command("-c", "import gptlit"),
    "import gptlit.model": _command("-c", "import gptlit.model"),
    "import for training": _command(
        "-c", "import gptlit.training.run, gptlit.tasks.pretrain, gptlit.data.pydocs"
    ),
    "import for using a model": _command("-c", "from gptlit import load"),
    "generate.py to its first token": _with_model(
        "generate.py", "ckpt=MODEL", "prompt=The", "max_new_tokens=1"
    ),
    "transformers to its first token": _with_model("-c", THEIR_FIRST_TOKEN),
    "train.py --help": _command("train.py", "--help"),
    "train.py modle=x": _command("train.py", "modle=x", expected=2),
    "generate.py --help": _command("generate.py", "--help"),
}
