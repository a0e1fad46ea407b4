"""A look at what the model writes while it trains."""

import textwrap
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.text import Text

from gptlit.errors import visible
from gptlit.inference.generation import Sampling, generate_text
from gptlit.tasks import Task
from gptlit.tokenizer import Tokenizer


class TextSamples(Callback):
    """After every `every_n_validations`-th validation, continues the prompt and shows the text in
    the console and in TensorBoard.

    Args:
        tokenizer: the run's.
        prompt: text to continue or, depending on the task, to answer; empty starts from
            end-of-text.
        max_new_tokens: length of the sample in tokens.
        temperature, top_k: as in `Sampling`.
        every_n_validations: 0 shows none.
        seed: of the draws, the same each time, so that samples can be compared.
        console: where to print.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: str,
        max_new_tokens: int,
        temperature: float,
        top_k: int,
        every_n_validations: int,
        seed: int,
        console: Console,
    ) -> None:
        self.tokenizer, self.prompt, self.max_new_tokens = tokenizer, prompt, max_new_tokens
        self.sampling = Sampling(temperature=temperature, top_k=top_k, seed=seed)
        self.every_n_validations, self.console = every_n_validations, console
        self._validations = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a sample, if one is due: the first process does, the others wait."""
        if trainer.state.fn != "fit":
            return
        self._validations += 1
        if not self.every_n_validations or self._validations % self.every_n_validations:
            return
        assert isinstance(pl_module, Task)
        task = pl_module.whole_on_first()
        if trainer.is_global_zero and task is not None:
            self._write(trainer, task)

    def state_dict(self) -> dict[str, Any]:
        """How many validations there have been; `Checkpoints` saves once this one is counted."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._validations = state_dict["validations"]

    def _write(self, trainer: Trainer, task: Task) -> None:
        prompt = task.wrap_prompt(self.prompt)
        # Blocks compiled for training would be compiled again for each layer of the cache and each
        # number of tokens, up to PyTorch's limit, beyond which nothing new is compiled at all.
        with torch.compiler.set_stance("force_eager"):
            [text] = generate_text(
                task.model, self.tokenizer, [prompt], self.max_new_tokens, self.sampling, task.stop
            )
        self.console.print(Text(f"sample: {visible(prompt + text)}", style="dim"))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("sample", _as_it_is(prompt + text), trainer.global_step)
                logger.save()  # before the step's checkpoint


def _as_it_is(text: str) -> str:
    """For TensorBoard, which reads text as Markdown: indented, it keeps its lines and symbols."""
    return textwrap.indent(text, "    ")
