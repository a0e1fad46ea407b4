"""Loss, perplexity and bits per byte of a text, with a window that slides over it.

A model sees at most `context_length` tokens. Windows that follow one another without overlap
leave their first tokens almost without context; windows that overlap score only what the windows
before have not, so that every token is predicted from a long context.

Source: "Perplexity of fixed-length models" in the documentation of Hugging Face's transformers.
Windows here have `context_length` inputs and score the token after each, as in validation. That is
one token more than in the source, so that none is left out if windows do not overlap.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from gptlit.data.corpus import Source
from gptlit.errors import UserError
from gptlit.model import IGNORE_INDEX, GPTModel
from gptlit.tokenizer import Tokenizer


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text."""

    loss: float
    """Mean cross entropy, nats per token."""
    perplexity: float
    """exp(loss)."""
    bits_per_byte: float | None
    """Cross entropy in bits per UTF-8 byte of the scored text, which does not depend on the
    tokenizer; None if the bytes are not known."""
    tokens: int
    """Tokens scored: all of the text but the first."""
    bytes: int
    """UTF-8 bytes of the tokens scored; 0 if they are not known."""
    context_length: int
    """Most tokens that the model sees."""
    stride: int
    """Tokens between the starts of two windows."""
    seconds: float
    """How long the evaluation took."""
    tokens_per_second: float
    """Tokens scored per second."""


class Window(NamedTuple):
    """Tokens `start` to `stop` of a text are read, those from `first` on are scored."""

    start: int
    first: int
    stop: int


def windows(n_tokens: int, context_length: int, stride: int) -> Iterator[Window]:
    """Windows over a text that score each token but the first exactly once.

    Each reads at most `context_length` + 1 tokens, as the last is a target only. A scored token
    has more than `context_length` - `stride` tokens before it in its window, or all there are.

    Args:
        n_tokens: length of the text.
        context_length: inputs of a window.
        stride: from 1 to `context_length`.
    """
    first = 1
    for start in range(0, n_tokens - 1, stride):
        stop = min(start + context_length + 1, n_tokens)
        yield Window(start, first, stop)
        if stop == n_tokens:
            return
        first = stop


def resolve_stride(stride: int | None, context_length: int) -> int:
    """The stride to take; None is half the context.

    Raises:
        UserError: windows with that stride would skip tokens, or never move.
    """
    if stride is None:
        return max(1, context_length // 2)
    if not 1 <= stride <= context_length:
        raise UserError(
            f"stride={stride}: must be from 1 to {context_length}, the model's context length;"
            f" stride={context_length} is no overlap, stride=null is half of it"
        )
    return stride


@torch.inference_mode()
def perplexity(
    model: GPTModel,
    tokens: np.ndarray,
    stride: int | None = None,
    batch_size: int = 8,
    token_bytes: np.ndarray | None = None,
    *,
    show_progress: bool = False,
) -> Perplexity:
    """Score every token of a text but the first, once.

    Runs on the model's device, in its number format or in that of an enclosing autocast, as
    validation does; softmax and sums are in fp32 and above. Memory does not grow with the text,
    whose `tokens` may be mapped from a file.

    Args:
        model: in any mode; it is left in the mode it came in. Not with packed weights, which are
            only for decoding.
        tokens: (n,) of an integer type, the ids of the text.
        stride: tokens between the starts of two windows, from 1 (each token sees all that the
            model can see) to the context length (no overlap, fastest); None: half the context.
        batch_size: windows at once.
        token_bytes: (vocab_size,) UTF-8 bytes of each id, for `bits_per_byte`.
        show_progress: draw a bar on a terminal.

    Raises:
        UserError: `stride` is out of range, or the text has fewer than 2 tokens.
        ValueError: `batch_size` is less than 1.
    """
    context_length = model.cfg.context_length
    stride = resolve_stride(stride, context_length)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    n_targets = len(tokens) - 1
    if n_targets < 1:
        raise UserError(f"the text has {len(tokens)} tokens, but needs 2: give a longer one")
    device = model.tok_emb.weight.device
    loss_sum, n_bytes = 0.0, 0
    todo = windows(len(tokens), context_length, stride)
    training = model.training
    model.eval()
    begin = time.perf_counter()
    try:
        with _progress(show_progress) as progress:
            bar = progress.add_task("evaluating", total=n_targets)
            while batch := list(islice(todo, batch_size)):
                ids, targets = _cut(tokens, batch)
                if token_bytes is not None:
                    n_bytes += int(token_bytes[targets[targets != IGNORE_INDEX]].sum())
                # As a Python number, in 64 bits: sums over a long text outgrow fp32.
                loss_sum += model.loss_sum(
                    torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device)
                ).item()
                progress.update(bar, completed=batch[-1].stop - 1)
    finally:
        model.train(training)
    seconds = time.perf_counter() - begin
    loss = loss_sum / n_targets
    return Perplexity(
        loss=loss,
        perplexity=math.exp(loss) if loss < 700 else math.inf,
        bits_per_byte=loss_sum / math.log(2) / n_bytes if n_bytes else None,
        tokens=n_targets,
        bytes=n_bytes,
        context_length=context_length,
        stride=stride,
        seconds=seconds,
        tokens_per_second=n_targets / seconds,
    )


def _cut(tokens: np.ndarray, batch: list[Window]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of windows, both (batch, time) int64; time is that of the longest."""
    time_steps = max(stop - start for start, _, stop in batch) - 1
    # Shorter rows end in zeros, to which no scored position attends.
    ids = np.zeros((len(batch), time_steps), np.int64)
    targets = np.full((len(batch), time_steps), IGNORE_INDEX, np.int64)
    for row, (start, first, stop) in enumerate(batch):
        ids[row, : stop - start - 1] = tokens[start : stop - 1]
        targets[row, first - start - 1 : stop - start - 1] = tokens[first:stop]
    return ids, targets


def tokenize_text(
    source: Source, tokenizer: Tokenizer, *, show_progress: bool = False
) -> np.ndarray:
    """Ids of all documents, with an end-of-text id after each, as in training.

    They are in a temporary file without a name, which is deleted along with the array.

    Returns:
        (tokens,) uint16, or uint32 for a large vocabulary.

    Raises:
        UserError: a file cannot be read, there is no text, or no room for the ids.
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    end = np.array([tokenizer.eot_id], dtype).tobytes()
    empty = True
    try:
        with _progress(show_progress) as progress, tempfile.TemporaryFile() as file:
            bar = progress.add_task("tokenizing", total=source.size)
            for document in source.documents():
                piece = None
                for piece in document:
                    file.write(tokenizer.encode_to_numpy(piece).astype(dtype).tobytes())
                    progress.update(bar, completed=source.done)
                if piece is not None:
                    file.write(end)
                    empty = False
            if empty:
                raise UserError(f"{source.name} holds no text; give a text with some")
            file.flush()
            # A plain array: np.memmap's own indexing costs several times as much.
            return np.asarray(np.memmap(file, dtype, mode="r"))
    except OSError as error:
        raise UserError(
            f"cannot keep the tokens in {tempfile.gettempdir()}: {error.strerror or error};"
            " set the variable TMPDIR to a folder with room"
        ) from error


def _progress(show: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not (show and console.is_terminal))
