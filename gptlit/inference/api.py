"""The Python interface: `gptlit.load(ckpt).generate("...")`, or, of a classifier, `.predict`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptlit.device import resolve_device
from gptlit.errors import UserError
from gptlit.inference.checkpoint import open_trained
from gptlit.inference.classifier import Classifier
from gptlit.inference.generation import (
    Prompt,
    Sampling,
    encode_prompt,
    generate_text,
    stop_strings,
    stream_text,
)
from gptlit.inference.placement import place
from gptlit.inference.trained import Trained
from gptlit.options import read_option
from gptlit.prompts import with_system
from gptlit.tokenizer import get_tokenizer


class LanguageModel:
    """A trained model with its tokenizer, ready to generate text.

    Args:
        trained: a model, which is changed in place (LoRA is merged), and its prompt format. In fp32
            the model can still be trained, saved and placed again; in 16 bits it cannot.
        device: "auto", "cpu", "cuda" or "mps", or such a `torch.device`.
        precision: "auto", "fp32", "bf16" or "fp16"; see `place`.

    Raises:
        ValueError: the model is a classifier.
    """

    def __init__(
        self, trained: Trained, device: str | torch.device = "auto", precision: str = "auto"
    ) -> None:
        if trained.classifier is not None:
            raise ValueError("the model is a classifier, which writes no text: use Classifier")
        self.trained = trained
        self.tokenizer = get_tokenizer(trained.hparams["tokenizer"])
        self.model, self.device, self.precision = place(trained.model, device, precision)

    def wrap_prompt(
        self,
        text: str,
        input: str,
        history: Sequence[tuple[str, ...]] = (),
        max_new_tokens: int = 0,
        system: str = "",
    ) -> Prompt:
        """The prompt after which the model answers `text`; the arguments are those of `generate`.

        Raises:
            UserError: a turn in `history` has the wrong form; or there is a `history` or `system`,
                but the model only continues text.
            TypeError: an argument that should be text is not.
        """
        for name, given in (("prompt", text), ("input", input), ("system", system)):
            if not isinstance(given, str):
                raise TypeError(f"{name}: expected text, got {type(given).__name__}: {given!r:.80}")
        form, context = self.trained.prompt_format, self.model.cfg.context_length
        if form is None and (history or system):
            raise UserError(
                f"{'history' if history else 'system'}: this model continues text and answers no"
                " instructions; give all of the text as the prompt"
            )
        prompt = self.trained.wrap_prompt(with_system(system, text), input)
        if form is None or not history:
            return prompt
        ids = encode_prompt(self.tokenizer, prompt)
        # The system message is kept, whichever turn comes first.
        behind = encode_prompt(self.tokenizer, self.trained.wrap_prompt(text, input))
        room = context - min(max_new_tokens, context // 2)
        for turn in reversed(history):
            if isinstance(turn, str) or len(turn) not in (2, 3) or set(map(type, turn)) != {str}:
                raise UserError(
                    f"history: {turn!r:.80} is no turn; expected (instruction, answer), or"
                    " (instruction, answer, input)"
                )
            first, later = (
                np.concatenate(form.encode_turn(self.tokenizer, asked, *turn[1:])).tolist()
                for asked in (with_system(system, turn[0]), turn[0])
            )
            if len(first) + len(behind) > room:
                break
            ids, behind = first + behind, later + behind
        return ids

    def told_of_cut(self, prompts: Sequence[Prompt]) -> list[str]:
        """A line for the user if the model sees only the end of some wrapped prompts; else none."""
        window = self.model.cfg.context_length
        cut = sum(len(encode_prompt(self.tokenizer, prompt)) > window for prompt in prompts)
        which = "the prompt is" if len(prompts) == 1 else f"{cut} of {len(prompts)} prompts are"
        seen = f"longer than the model's context: only the last {window:,} tokens are read"
        return [f"{which} {seen}"] if cut else []

    def generate(
        self,
        prompt: str | Sequence[str],
        max_new_tokens: int = 128,
        *,
        input: str = "",
        history: Sequence[tuple[str, ...]] = (),
        system: str = "",
        stop: str | Sequence[str] = (),
        **sampling: Any,
    ) -> Any:
        """Continue a prompt (returns str) or several, batched (returns list of str).

        Args:
            prompt: text to continue, or, for an instruction-tuned model, the instruction to answer;
                the result does not repeat it. For several draws, give it several times in a list.
                If it is longer than the model's context, only its end counts, see `told_of_cut`.
            input: what the instruction, or each of several, is about; without effect on other
                models.
            history: for an instruction-tuned model, the earlier turns of the chat: tuples
                (instruction, answer) or (instruction, answer, input). The oldest are left out if
                the context has no room for them and `max_new_tokens`, for which at most half of
                the context is reserved.
            system: for an instruction-tuned model, what is put before the first instruction that
                is not left out.
            max_new_tokens: at most this many tokens; end-of-text stops earlier.
            stop: strings that end the text, not included.
            sampling: fields of `Sampling`: temperature, top_k, top_p, seed.

        Raises:
            UserError, TypeError: as in `wrap_prompt`; or `Sampling` has no such field, or a stop
                string is not a string.
            ValueError: a number is out of its range.
        """
        several = isinstance(prompt, Iterable) and not isinstance(prompt, str)
        # What is no text is refused by `wrap_prompt`.
        prompts: list[str] = list(prompt) if several else [prompt]  # type: ignore[list-item]
        if not prompts:
            return []
        texts = generate_text(
            self.model,
            self.tokenizer,
            [self.wrap_prompt(text, input, history, max_new_tokens, system) for text in prompts],
            max_new_tokens,
            Sampling(**sampling),
            self._stop(stop),
        )
        return texts if several else texts[0]

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 128,
        *,
        input: str = "",
        history: Sequence[tuple[str, ...]] = (),
        system: str = "",
        stop: str | Sequence[str] = (),
        **sampling: Any,
    ) -> Iterator[str]:
        """`generate` for one prompt, yielding text as it is written."""
        parts = stream_text(
            self.model,
            self.tokenizer,
            [self.wrap_prompt(prompt, input, history, max_new_tokens, system)],
            max_new_tokens,
            Sampling(**sampling),
            self._stop(stop),
        )
        return (text for [text] in parts)

    def _stop(self, stop: str | Sequence[str]) -> list[str]:
        return [*stop_strings(stop), *self.trained.stop]


def load(
    ckpt: str | Path | None = None,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    task: str = "pretrain",
    outputs: str | Path = "outputs",
    weights: str | Mapping[str, Any] = "huggingface",
) -> LanguageModel | Classifier:
    """Load a published model ("gpt2-small"), a checkpoint file, a run folder, weights of another
    kind (Hugging Face's, OpenAI's or the book's file or folder), or the newest run of a task.

    A checkpoint of a classification becomes a `Classifier`, any other a `LanguageModel`.

    Args:
        ckpt: what to load; None for the newest finished run of `task`. A published name means
            that model, even if a file has the same name; write "./gpt2-small" for the file.
        device, precision: see `place`.
        task: whose newest run is meant.
        outputs: the folder of runs.
        weights: where published models come from: the name of an option of `conf/weights`
            ("huggingface", "openai", "book"), or such an option as a dict.

    Raises:
        UserError: there is none, it is damaged or of no known kind, or the device is missing.
    """
    resolve_device(device)  # so that a missing one is reported before anything is fetched
    source = read_option("weights", weights) if isinstance(weights, str) else weights
    trained, _ = open_trained(None if ckpt is None else str(ckpt), task, outputs, source)
    if trained.classifier is not None:
        return Classifier(trained, device, precision)
    return LanguageModel(trained, device, precision)
