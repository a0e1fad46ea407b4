"""Tokens trained on per second: the command as users start it, plain loops, and transformers."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import (
    Contestant,
    Measurement,
    add_model_arguments,
    model_config,
    positive,
    resolved,
    transformers_model,
    write_text,
)
from gptlit.cli import allocator
from gptlit.cli.arguments import quoted

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

BASELINE = "transformers"
COSTS = {"Lightning's overhead over a plain step": ("gptlit", "gptlit-raw")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shape and length of the run."""
    add_model_arguments(parser)
    parser.add_argument("--batch-size", type=positive, default=4, help="windows per step")
    parser.add_argument("--context", type=positive, default=256, help="tokens per window")
    parser.add_argument("--steps", type=positive, default=8, help="steps that are timed")
    parser.add_argument("--warmup", type=positive, default=3, help="steps before them")
    parser.add_argument("--compile", action="store_true", help="compile gptlit's blocks")


def check(args: argparse.Namespace) -> str:
    """The device that it is measured on.

    Raises:
        UserError: it cannot be measured with these options.
    """
    return resolved(args)[0]


class Clock:
    """Times the steps after the warm-up, from the start of the first to the start of the one after
    the last, so that all that happens in between counts. It waits for a GPU only at both ends."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device, _ = resolved(args)
        self.ends = (args.warmup, args.warmup + args.steps)
        self.samples = 0
        """How many samples the timed steps had, if they were counted."""
        self.memory_gb = 0.0
        self._times: list[float] = []
        self._ticks = 0

    def tick(self) -> None:
        """A step starts, or the last one has ended."""
        if self._ticks in self.ends:
            import torch

            from gptlit.device import peak_memory_gb

            if self.device != "cpu":
                torch.accelerator.synchronize()
            self._times.append(time.perf_counter())
            self.memory_gb = peak_memory_gb(self.device)
        self._ticks += 1

    def count(self, samples: int) -> None:
        """Count the samples in the batch of the step that starts next."""
        if self.ends[0] <= self._ticks < self.ends[1]:
            self.samples += samples

    def seconds(self) -> float:
        """Seconds between the warm-up and the end."""
        start, stop = self._times
        return stop - start

    def measurement(self, args: argparse.Namespace) -> Measurement:
        """What the clock shows at the end of a run."""
        from gptlit.device import peak_flops

        rate = args.steps * args.batch_size * args.context / self.seconds()
        device, precision = resolved(args)
        flops = rate * model_config(args, args.context).flops_per_token(training=True)
        peak = peak_flops(device, precision)
        return Measurement(rate, "tokens/s", precision, self.memory_gb, flops, peak)


def gptlit(args: argparse.Namespace) -> Measurement:
    """The real command, in this process: its allocator, config, data, task, Trainer, callbacks. It
    runs without dropout, validation and logged steps, none of which the others have."""
    allocator.restart_with_tuned_malloc()  # as the command does, but before the folder is made
    from benchmarks.clocked import ClockedText
    from gptlit.cli.train import main

    ClockedText.clock = Clock(args)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = [
            f"model={args.model}",
            f"tokenizer={args.tokenizer}",
            "data=text",
            "data._target_=benchmarks.clocked.ClockedText",
            f"data.path={quoted(str(_corpus(args, Path(folder))))}",
            f"data.cache_dir={quoted(folder)}",
            f"data.batch_size={args.batch_size}",
            f"model.context_length={args.context}",
            "model.drop_rate=0",
            f"trainer.max_steps={args.warmup + args.steps + 1}",  # the last one stops the clock
            "trainer.limit_val_batches=0",
            "trainer.log_every_n_steps=1000000",
            "logger=csv",
            f"device={args.device}",
            f"precision={args.precision}",
            f"compile={args.compile}",
            f"hydra.run.dir={quoted(folder + '/run')}",
        ]
        main()
    return ClockedText.clock.measurement(args)


def gptlit_raw(args: argparse.Namespace) -> Measurement:
    """The same model in a plain loop under the same allocator, with PyTorch's own clipping, to show
    what Lightning costs."""
    allocator.restart_with_tuned_malloc()
    import torch

    from gptlit.device import products
    from gptlit.model import GPTModel

    device, precision = resolved(args)
    model = GPTModel(model_config(args, args.context)).to(device)
    multiplied = products(precision, device)
    model.saved_dtype = torch.bfloat16 if multiplied != precision else None
    if args.compile:
        model.compile_blocks()
    optimizer = torch.optim.AdamW(model.parameters(), fused=precision != "fp16")

    def loss(inputs: "Tensor", targets: "Tensor") -> "Tensor":
        return model.loss_sum(inputs, targets, dense=True) / targets.numel()

    return _loop(args, model, optimizer, loss, multiplied, clip=1.0)


def transformers(args: argparse.Namespace) -> Measurement:
    """GPT2LMHeadModel in a plain loop without clipping, torch's defaults for the optimiser."""
    import torch

    device, precision = resolved(args)
    model = transformers_model(model_config(args, args.context)).to(device)
    optimizer = torch.optim.AdamW(model.parameters())

    def loss(inputs: "Tensor", targets: "Tensor") -> "Tensor":
        out: Tensor = model(inputs, labels=inputs, use_cache=False).loss
        return out

    return _loop(args, model, optimizer, loss, precision, clip=None)


def transformers_bf16(args: argparse.Namespace) -> Measurement:
    """The same in bf16 autocast, also on a CPU that is faster in fp32."""
    args.precision = "bf16"
    return transformers(args)


def transformers_tuned(args: argparse.Namespace) -> Measurement:
    """transformers with gptlit's allocator settings."""
    allocator.restart_with_tuned_malloc()
    return transformers(args)


def transformers_bf16_tuned(args: argparse.Namespace) -> Measurement:
    """transformers in bf16 autocast with gptlit's allocator settings."""
    allocator.restart_with_tuned_malloc()
    return transformers_bf16(args)


CONTESTANTS: dict[str, Contestant] = {
    "gptlit": gptlit,
    "gptlit-raw": gptlit_raw,
    "transformers": transformers,
    "transformers-bf16": transformers_bf16,
    "transformers-tuned": transformers_tuned,
    "transformers-bf16-tuned": transformers_bf16_tuned,
}


def _corpus(args: argparse.Namespace, folder: Path) -> Path:
    """More text than the run reads."""
    tokens = (args.warmup + args.steps + 1) * args.batch_size * args.context
    return write_text(folder / "corpus.txt", 8 * tokens + 10_000)


def _batches(args: argparse.Namespace) -> Iterator["tuple[Tensor, Tensor]"]:
    """Inputs and targets, each (batch, time) int64, for each step, from the text that the command
    reads too."""
    import torch

    from gptlit.tokenizer import get_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        text = _corpus(args, Path(folder)).read_text()
    ids = torch.from_numpy(get_tokenizer(args.tokenizer).encode_to_numpy(text).astype("int64"))
    if resolved(args)[0] == "cuda":
        ids = ids.pin_memory()  # as the command's loader does, so that no copy is waited for
    shape = (args.warmup + args.steps, args.batch_size, args.context)
    n = shape[0] * shape[1] * shape[2]
    yield from zip(ids[:n].view(shape), ids[1 : n + 1].view(shape), strict=True)


def _loop(
    args: argparse.Namespace,
    model: "nn.Module",
    optimizer: "Optimizer",
    loss: Callable[["Tensor", "Tensor"], "Tensor"],
    precision: str,
    clip: float | None,
) -> Measurement:
    """Forward in the precision's autocast, backward, clip, step."""
    import torch

    torch.set_float32_matmul_precision("high")  # as the command has it
    device, _ = resolved(args)
    pinned = device == "cuda"
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
    clock = Clock(args)
    model.train()
    for batch in _batches(args):
        clock.tick()
        inputs, targets = (x.to(device, non_blocking=pinned) for x in batch)
        with torch.autocast(device, dtype, enabled=precision != "fp32"):
            step_loss = loss(inputs, targets)
        scaler.scale(step_loss).backward()
        if clip is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    clock.tick()
    return clock.measurement(args)
