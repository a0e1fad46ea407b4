"""What goes wrong while a run trains, in one line that names the cure."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptlit.errors import UserError, in_one_line

_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|STATUS_ALLOC_FAILED", re.IGNORECASE
)
_IN_A_WORKER = re.compile(r"Caught UserError in DataLoader worker .*UserError: (.*)", re.DOTALL)
"""What PyTorch makes of the line: it puts the worker's traceback before it."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DivergedError(UserError):
    """A loss, a gradient or a weight is not a finite number.

    Args:
        what: which of them, and its value, such as "loss is nan".
        step: the optimiser step at which it was found.
        precision: the number format that the run computes in.
        lr: the learning rate of that step, if it is known to be the first bad one.
        saved_step: the step of the last good checkpoint, if there is one.
    """

    def __init__(
        self,
        what: str,
        step: int,
        precision: str,
        lr: float | None = None,
        saved_step: int | None = None,
    ) -> None:
        rate = "" if lr is None else f" (it was {lr:.3g})"
        causes = [f"too high a learning rate: try a tenth as optimizer.lr=...{rate}"]
        causes += ["too short a warm-up: scheduler.warmup_steps=..."]
        causes += [f"precision={precision}: try fp32"] if precision != "fp32" else []
        causes += ["bad data: look at those of that step"]
        kept = "nothing" if saved_step is None else f"the checkpoint of step {saved_step:,}"
        super().__init__(
            f"the {what} at step {step:,}: training has diverged; {kept} is kept."
            f" Likely causes: {'; '.join(causes)}"
        )


@contextmanager
def explained(config: dict[str, Any], folder: Path) -> Iterator[None]:
    """Turn the errors of a full disk, of a folder that cannot be written to, of too little memory
    and of processes that load batches into one line that says what helps.

    Args:
        config: the run's.
        folder: the run's.

    Raises:
        UserError: instead of what was raised.
    """
    try:
        yield
    except UserError as error:
        told = _IN_A_WORKER.fullmatch(str(error))
        if told is None:
            raise
        raise UserError(told[1].strip()) from error
    except OSError as error:
        line = about_the_disk(error, folder)
        if line is None:
            raise
        raise UserError(line) from error
    except (RuntimeError, MemoryError) as error:
        if not _is_of_memory(error):
            raise
        raise UserError(_about_memory(config, error)) from error


@contextmanager
def enough_memory(config: dict[str, Any]) -> Iterator[None]:
    """As `explained`, but for memory only: for commands that use a trained model.

    Args:
        config: the command's.

    Raises:
        UserError: instead of what was raised.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_of_memory(error):
            raise
        batch, helps = config.get("batch_size", 1), []
        if batch > 1 and config.get("prompts", "") is not None:  # a single prompt is not batched
            helps.append(f"batch_size={batch // 2}")
        if re.search("CUDA|HIP|MPS", str(error)):
            helps.append("device=cpu")
        cure = " or ".join([*helps, "a smaller model"])
        raise UserError(f"out of memory ({_amount(error)}); try {cure}") from error


def about_the_disk(error: OSError, folder: Path | str, *, trains: bool = True) -> str | None:
    """The line for a disk that is full or cannot be written to; None for other errors.

    Args:
        error: what was raised.
        folder: where it was writing, if the error does not say.
        trains: whether the command was a training, which can be resumed.
    """
    where = error.filename or folder
    again, cure = "go on with resume=auto", "choose output_root=FOLDER"
    if not trains:
        again, cure = "run the command again", "choose another place"
    if error.errno in _NO_SPACE:
        return (
            f"cannot write to {where}: {os.strerror(error.errno)}; what was saved before is whole."
            f" Make space, then {again}"
        )
    if error.errno == errno.EROFS:
        return f"cannot write to {where}: {os.strerror(error.errno)}; {cure}"
    return None


def _is_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def _about_memory(config: dict[str, Any], error: BaseException) -> str:
    """Up to three remedies, those that change the result least first."""
    from gptlit.device import fast_bf16, resolve_device, resolve_precision

    data, model, trainer = config["data"], config["model"], config["trainer"]
    batch, length = data.get("batch_size", 1), model["context_length"]
    helps = []
    if batch > 1:
        smaller = max(n for n in range(1, batch // 2 + 1) if batch % n == 0)
        accumulate = trainer["accumulate_grad_batches"] * batch // smaller
        helps.append(
            f"data.batch_size={smaller} trainer.accumulate_grad_batches={accumulate}"
            " (the same steps)"
        )
    if length > 1:
        helps.append(f"model.context_length={length // 2}")
    if not model["activation_checkpointing"]:
        helps.append("model.activation_checkpointing=true (the same steps, slower)")
    device = resolve_device(config["device"]["name"])
    if resolve_precision(config["precision"]["name"], device) == "fp32":
        half = "fp16" if device == "cuda" and not fast_bf16(device) else "bf16"
        helps.append(f"precision={half}")
    helps.append("a smaller model=...")
    order = "; ".join(f"{number}. {what}" for number, what in enumerate(helps[:3], 1))
    return f"out of memory ({_amount(error)}); what takes less, in this order: {order}"


def _amount(error: BaseException) -> str:
    """How much memory was asked for, in the allocator's words."""
    asked = re.search(r"[Tt]ried\s+to\s+allocate\s+([\d.]+)\s?(\w+)", str(error))
    if asked is None:
        return in_one_line(error, 100)
    amount, unit = asked.groups()
    if unit == "bytes":
        return f"it tried to allocate {float(amount) / 1e9:.2g} GB"
    return f"it tried to allocate {amount} {unit}"
