"""Samples of what the model writes while it trains."""

import io
from typing import Any

import torch
from lightning.pytorch import Trainer
from rich.console import Console
from torch.utils.data import DataLoader

from gptlit.data.batch import TextBatch
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
    for block in task.model.trf_blocks:
        block.compile(backend=backend)
    out = io.StringIO()
    samples = TextSamples(
        get_tokenizer("byte"),
        prompt="to be to be",
        max_new_tokens=20,
        temperature=0.0,
        top_k=0,
        every_n_validations=1,
        seed=0,
        console=Console(file=out),
    )
    ids = torch.randint(256, (2, 33), generator=torch.Generator().manual_seed(0))
    batches: Any = 3 * [TextBatch(ids[:, :-1], ids[:, 1:])]
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        val_check_interval=1,
        callbacks=[samples],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(task, loader, loader)
    assert out.getvalue().count("sample: to be to be") >= 3
    assert sorted(compiled) == ["training", "validation"]
