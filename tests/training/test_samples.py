"""Samples of what the model writes while it trains."""

import io
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from torch.utils.data import DataLoader

from gptlit.data.batch import TextBatch
from gptlit.errors import visible
from gptlit.inference.generation import Sampling, generate_text
from gptlit.tasks.pretrain import PretrainTask
from gptlit.tokenizer import get_tokenizer
from gptlit.training.samples import TextSamples

SHAPE = {"vocab_size": 257, "context_length": 32, "emb_dim": 16, "n_heads": 2, "n_layers": 3}


def test_a_compiled_model_is_not_compiled_again_for_them() -> None:
    torch.compiler.reset()  # of what other tests have compiled
    compiled: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        compiled.append(f"{'training' if torch.is_grad_enabled() else 'validation'}")
        return graph.forward

    task = PretrainTask(model=SHAPE, tokenizer="byte")
    task.optimizer_factory = lambda task: torch.optim.SGD(task.parameters(), lr=0.1)
    task.model.compile_blocks(backend=backend)
    out = fit(task, "to be to be")
    assert out.count("sample: to be to be") >= 3
    assert sorted(compiled) == ["training", "validation"]


def test_they_are_no_commands_to_the_terminal() -> None:
    task = PretrainTask(model=SHAPE, tokenizer="byte")
    task.optimizer_factory = lambda task: torch.optim.SGD(task.parameters(), lr=0.1)
    out = fit(task, "\x1b[2J")
    assert out.count("sample: ␛[2J") == 3 and "\x1b" not in out


def test_they_are_drawn_as_the_config_says_and_in_the_same_way_each_time() -> None:
    torch.manual_seed(0)
    task = PretrainTask(model=SHAPE, tokenizer="byte")
    task.optimizer_factory = lambda task: torch.optim.SGD(task.parameters(), lr=0.0)
    options: dict[str, Any] = {"temperature": 2.0, "top_k": 5, "seed": 3}
    sampling = Sampling(**options)
    [text] = generate_text(task.model, get_tokenizer("byte"), ["to"], 20, sampling, [])
    shown = fit(task, "to", measured=True, **options)
    assert shown.count(visible(f"sample: to{text}")) == shown.count("sample: ") == 3


def test_only_the_first_process_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    task = PretrainTask(model=SHAPE, tokenizer="byte")
    task.optimizer_factory = lambda task: torch.optim.SGD(task.parameters(), lr=0.1)
    assert fit(task, "to be") == ""


def test_tensorboard_shows_the_text_line_by_line_before_the_run_ends(tmp_path: Path) -> None:
    """As it is, not as Markdown."""
    task = PretrainTask(model=SHAPE, tokenizer="byte")
    task.optimizer_factory = lambda task: torch.optim.SGD(task.parameters(), lr=0.1)
    prompt = "# KING\n  *you* <b>\n\n1. go\n"
    logger = TensorBoardLogger(tmp_path, name="", version="")
    shown = []

    class Reader(Callback):
        """Looks where the checkpoint is saved: a kill may come right after it."""

        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            events = EventAccumulator(str(tmp_path)).Reload()
            [text] = events.Tensors("sample/text_summary")[-1].tensor_proto.string_val
            shown.append(markdown_to_safe_html(text))

    fit(task, prompt, Reader(), logger=logger)
    for page in shown:
        assert page.startswith("<pre><code>") and page.count("<pre>") == 1
        assert unescape(page).removeprefix("<pre><code>").startswith(prompt)
    assert len(shown) == 3


def fit(
    task: PretrainTask,
    prompt: str,
    *callbacks: Callback,
    logger: Any = False,
    measured: bool = False,
    **sampling: Any,
) -> str:
    """Three steps, each with a validation and its sample, after a validation alone if `measured`;
    what the console shows."""
    out = io.StringIO()
    samples = TextSamples(
        get_tokenizer("byte"),
        prompt=prompt,
        max_new_tokens=20,
        every_n_validations=1,
        console=Console(file=out),
        **{"temperature": 0.0, "top_k": 0, "seed": 0, **sampling},
    )
    ids = torch.randint(256, (2, 33), generator=torch.Generator().manual_seed(0))
    batches: Any = 3 * [TextBatch(ids[:, :-1], ids[:, 1:])]
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        val_check_interval=1,
        callbacks=[samples, *callbacks],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    loader = DataLoader(batches, batch_size=None)
    if measured:
        trainer.validate(task, loader, verbose=False)
    trainer.fit(task, loader, loader)
    return out.getvalue()
