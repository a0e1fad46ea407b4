"""The Python way in: `gptlit.load(ckpt).generate("...")`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gptlit.device import PRECISIONS, fast_bf16, resolve_device
from gptlit.errors import UserError
from gptlit.inference.checkpoint import open_task
from gptlit.inference.generation import Sampling, generate_text, stream_text
from gptlit.inference.packed import pack_linears
from gptlit.model import GPTModel
from gptlit.options import read_option
from gptlit.tasks import Task
from gptlit.tokenizer import get_tokenizer


class LanguageModel:
    """A trained model with its tokenizer, ready to write.

    Args:
        task: as loaded from a checkpoint.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "auto", "fp32", "bf16" or "fp16"; see `place`.
    """

    def __init__(self, task: Task, device: str = "auto", precision: str = "auto") -> None:
        self.task = task
        self.tokenizer = get_tokenizer(task.hparams["tokenizer"])
        self.model, self.device, self.precision = place(task.model, device, precision)

    def generate(
        self,
        prompt: str | Sequence[str],
        max_new_tokens: int = 128,
        *,
        stop: str | Sequence[str] = (),
        **sampling: Any,
    ) -> Any:
        """Continue a prompt (returns str) or several, batched (returns list of str).

        Args:
            prompt: text to continue; the result does not repeat it.
            max_new_tokens: at most this many tokens; end-of-text ends earlier.
            stop: strings that end the text, not included.
            sampling: fields of `Sampling`: temperature, top_k, top_p, seed.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            return []
        texts = generate_text(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens,
            Sampling(**sampling),
            [stop] if isinstance(stop, str) else stop,
        )
        return texts[0] if isinstance(prompt, str) else texts

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 128,
        *,
        stop: str | Sequence[str] = (),
        **sampling: Any,
    ) -> Iterator[str]:
        """Continue one prompt, yielding text as it is written."""
        for [text] in stream_text(
            self.model,
            self.tokenizer,
            [prompt],
            max_new_tokens,
            Sampling(**sampling),
            [stop] if isinstance(stop, str) else stop,
        ):
            yield text


def load(
    ckpt: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    task: str = "pretrain",
    outputs: str | Path = "outputs",
    weights: str | Mapping[str, Any] = "huggingface",
) -> LanguageModel:
    """Load a published model ("gpt2-small"), a checkpoint file, a run folder, weights of another
    kind (Hugging Face's, OpenAI's or the book's file or folder), or the newest run of a task.

    Args:
        ckpt: what to load; None for the newest finished run of `task`. A published name is that
            model, even where a file is called so; write "./gpt2-small" for the file.
        device, precision: see `place`.
        task: whose newest run is meant.
        outputs: where runs lie.
        weights: where published models come from: the name of an option of `conf/weights`
            ("huggingface", "openai", "book"), or such an option as a dict.

    Raises:
        UserError: there is none, it is damaged or of no known kind, or the device is missing.
    """
    resolve_device(device)  # a missing one is said before anything is fetched
    source = read_option("weights", weights) if isinstance(weights, str) else weights
    opened, _ = open_task(None if ckpt is None else str(ckpt), task, outputs, source)
    return LanguageModel(opened, device, precision)


def place(model: GPTModel, device: str, precision: str) -> tuple[GPTModel, str, str]:
    """Move a model to where and how it will decode.

    `auto` takes 16-bit weights where the device is fast in them: bf16 on CUDA, and on a CPU with
    bf16 instructions from the width on where it pays. On a CPU, bf16 means 16-bit weights under
    fp32 activations (`pack_linears`).

    Returns:
        the model, the device's name, the precision's name.

    Raises:
        UserError: the device, or the precision on it, is missing.
    """
    device = resolve_device(device)
    if precision not in ("auto", *PRECISIONS):
        raise UserError(f"precision={precision}: allowed are auto, {', '.join(PRECISIONS)}")
    fast = fast_bf16(device)
    if precision == "auto":
        wide = device != "cpu" or model.cfg.emb_dim >= 512
        precision = "bf16" if fast and wide else "fp16" if device == "cuda" else "fp32"
    if precision == "fp16" and device == "cpu":
        raise UserError("precision=fp16 is slow on a CPU; use precision=bf16 or fp32")
    if precision == "bf16" and device == "cpu":
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise UserError("precision=bf16 needs AVX-512 or newer, which this CPU lacks; use fp32")
        return pack_linears(model), device, precision
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return model.to(device=device, dtype=dtype).eval(), device, precision
