"""What a checkpoint holds for those who use it: a model, and what it was trained for."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from gptlit.model import GPTConfig, GPTModel, LoRAConfig, TextClassifier, add_lora
from gptlit.prompts import PromptFormat


class Trained(Protocol):
    """What others use of a trained model. A task that Lightning has trained offers the same."""

    name: str
    """The name of the task."""
    settings: dict[str, Any]
    """The task's own options."""
    model: GPTModel

    @property
    def classifier(self) -> TextClassifier | None:
        """The classifier, if the model is one."""

    @property
    def prompt_format(self) -> PromptFormat | None:
        """The form of prompts, if the model answers instructions."""

    @property
    def hparams(self) -> Mapping[str, Any]:
        """`task`, `model`, `tokenizer`, `seed` and `settings`, as in a checkpoint."""

    @property
    def stop(self) -> list[str]:
        """Strings that end an answer, besides end-of-text."""

    def wrap_prompt(self, text: str, input: str = "") -> str:
        """The prompt after which the model answers `text`."""


class TrainedModel(nn.Module):
    """A trained model without what trains it: no Lightning, whose import takes seconds.

    Its settings say what it is for: with `pool`, `labels` and `causal` it is a classifier; with the
    fields of a `PromptFormat` as `prompt` it answers instructions; otherwise it continues text.

    Args:
        task: the name of its task.
        model: the fields of `GPTConfig`.
        tokenizer: name of the tokenizer that made the ids.
        seed: of the training; kept for the record.
        settings: the task's own options.
    """

    def __init__(
        self,
        *,
        task: str,
        model: dict[str, Any],
        tokenizer: str,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.settings = task, settings or {}
        self.hparams: Mapping[str, Any] = {
            "task": task,
            "model": model,
            "tokenizer": tokenizer,
            "seed": seed,
            "settings": self.settings,
        }
        self.model = GPTModel(GPTConfig(**model))
        if self.settings.get("trainable") == "lora":
            add_lora(self.model, LoRAConfig.from_dict(self.settings["lora"]))
        self.prompt_format: PromptFormat | None = None
        self.classifier: TextClassifier | None = None
        if "pool" in self.settings:
            labels, pool, causal = (self.settings[key] for key in ("labels", "pool", "causal"))
            if not all(isinstance(label, str) for label in labels):
                raise ValueError("settings.labels are not all text")
            self.head = nn.Linear(self.model.cfg.emb_dim, len(labels), bias=False)
            self.classifier = TextClassifier(self.model, self.head, pool, causal)
        elif "prompt" in self.settings:
            self.prompt_format = PromptFormat.from_dict(self.settings["prompt"])

    def wrap_prompt(self, text: str, input: str = "") -> str:
        """An instruction in the form that the model was trained on; any other text as it is."""
        return self.prompt_format.format_prompt(text, input) if self.prompt_format else text

    @property
    def stop(self) -> list[str]:
        """Strings that end an answer, besides end-of-text."""
        return self.prompt_format.stop if self.prompt_format else []
