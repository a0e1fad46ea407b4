"""From texts to classes: `gptlit.load(ckpt).predict("...")`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from gptlit.errors import visible_line
from gptlit.inference.placement import place
from gptlit.inference.trained import Trained
from gptlit.tokenizer import get_tokenizer


@dataclass(frozen=True)
class Prediction:
    """The predicted class of a text."""

    label: str
    """The likeliest class."""
    probability: float
    """The probability of that class."""
    probabilities: dict[str, float]
    """That of every class, in the order of the classifier's labels; they sum to 1."""
    cut: bool
    """Whether only the beginning was read, as the text has more tokens than the model's context."""

    def __str__(self) -> str:
        """The classes in one line, likeliest first: "spam 0.9731, ham 0.0269"."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        parts = [f"{visible_line(label)} {probability:.4f}" for label, probability in ranked[:5]]
        more = [f"{len(ranked) - 5} more"] if len(ranked) > 5 else []
        return ", ".join([*parts, *more])


class Classifier:
    """A trained classifier with its tokenizer.

    Args:
        trained: a model with a classifier; it is changed in place, and LoRA is merged.
        device: "auto", "cpu", "cuda" or "mps", or such a `torch.device`.
        precision: "auto", "fp32", "bf16" or "fp16"; see `placement.place`. The head stays in fp32.

    Raises:
        ValueError: the model is not a classifier.
    """

    def __init__(
        self, trained: Trained, device: str | torch.device = "auto", precision: str = "auto"
    ) -> None:
        if trained.classifier is None:
            raise ValueError(f"a model of task={trained.name} is no classifier: use LanguageModel")
        self.trained, self._classifier = trained, trained.classifier
        self.labels: list[str] = list(trained.settings["labels"])
        self.tokenizer = get_tokenizer(trained.hparams["tokenizer"])
        self.model, self.device, self.precision = place(trained.model, device, precision)
        self._classifier.head.to(self.device).register_forward_pre_hook(_to_fp32)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
        self, text: str, batch_size: int = ..., *, show_progress: bool = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self, text: Sequence[str], batch_size: int = ..., *, show_progress: bool = ...
    ) -> list[Prediction]: ...

    def predict(
        self, text: str | Sequence[str], batch_size: int = 32, *, show_progress: bool = False
    ) -> Prediction | list[Prediction]:
        """Predict the class of a text, or of each of several, batched by similar length.

        A text's prediction is the same alone and in any batch, up to the precision's rounding. Only
        the beginning of a text longer than the model's context is read, as in training. Control
        tokens in a text are ordinary text.

        Args:
            text: one text (returns `Prediction`) or several (returns a list in their order).
            batch_size: texts at once.
            show_progress: draw a bar on a terminal.

        Raises:
            TypeError: a text is not a string.
            ValueError: the batch size is less than 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        texts = [text] if isinstance(text, str) else list(text)
        context = self.model.cfg.context_length
        ids, cut = [], []
        for one in texts:
            if not isinstance(one, str):
                raise TypeError(f"expected text, got {type(one).__name__}: {one!r}")
            tokens = self.tokenizer.encode_nonempty(one)
            cut.append(len(tokens) > context)
            ids.append(tokens[:context].copy())  # so that the rest is freed
        rows = zip(self._probabilities(ids, batch_size, show_progress), cut, strict=True)
        found = [self._prediction(probabilities, was_cut) for probabilities, was_cut in rows]
        return found[0] if isinstance(text, str) else found

    @torch.inference_mode()
    def _probabilities(
        self, ids: Sequence[np.ndarray], batch_size: int, show_progress: bool
    ) -> list[list[float]]:
        """The classes' probabilities for each text; the longest texts go first."""
        from rich.progress import track

        # The caller may have set another default type and device.
        lengths = torch.tensor([len(text) for text in ids], dtype=torch.int64, device="cpu")
        found = torch.zeros(len(ids), len(self.labels), dtype=torch.float32, device="cpu")
        batches = lengths.argsort(descending=True, stable=True).split(batch_size) if ids else ()
        hidden = not (show_progress and sys.stdout.isatty())
        for rows in track(batches, "classifying", disable=hidden):
            shape = (len(rows), int(lengths[rows].max()))
            padded = torch.full(shape, self.tokenizer.eot_id, dtype=torch.int64, device="cpu")
            for line, row in zip(padded, rows.tolist(), strict=True):
                line[: len(ids[row])] = torch.from_numpy(ids[row].astype(np.int64))
            logits = self._classifier.logits(padded.to(self.device), lengths[rows].to(self.device))
            found[rows] = logits.cpu().softmax(dim=-1)
        table: list[list[float]] = found.tolist()
        return table

    def _prediction(self, probabilities: list[float], cut: bool) -> Prediction:
        named = dict(zip(self.labels, probabilities, strict=True))
        label = max(named, key=lambda name: named[name])
        return Prediction(label, named[label], named, cut)


def _to_fp32(_head: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """The final norm of a model with 16-bit weights may give 16 bits."""
    return (inputs[0].float(),)
