"""The figures that pretraining reports."""

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from gptlit.data.batch import TextBatch
from gptlit.model import IGNORE_INDEX
from gptlit.tasks.pretrain import PretrainTask

torch.set_num_threads(1)  # threads cost such a small model more than they give

SHAPE = {"vocab_size": 30, "context_length": 8, "emb_dim": 16, "n_heads": 2, "n_layers": 1}
BYTES = torch.arange(30)


def make_task(token_bytes: torch.Tensor | None = BYTES) -> PretrainTask:
    torch.manual_seed(0)
    return PretrainTask(
        model={**SHAPE, "drop_rate": 0.5}, tokenizer="byte", token_bytes=token_bytes
    )


def make_batches() -> list[TextBatch]:
    """As the data module deals them: the last window is cut short, the last batch smaller."""
    ids = torch.randint(30, (5, 9), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].clone()
    targets[4, 3:] = IGNORE_INDEX
    return [
        TextBatch(ids[rows, :-1], targets[rows]) for rows in (slice(0, 3), slice(3, 4), slice(4, 5))
    ]


def validate(task: PretrainTask) -> dict[str, float]:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    batches: Any = make_batches()
    trainer.validate(task, DataLoader(batches, batch_size=None), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_validation_is_the_mean_over_all_tokens_of_uneven_batches() -> None:
    task, batches = make_task(), make_batches()
    ids, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        logits = task.eval().model(ids).flatten(0, 1)
    expected = float(cross_entropy(logits, targets.flatten()))
    metrics = validate(task)
    assert metrics["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["val/perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)


def test_bits_per_byte_count_the_bytes_of_the_targets() -> None:
    targets = torch.cat([batch.targets.flatten() for batch in make_batches()])
    targets = targets[targets != IGNORE_INDEX]
    metrics = validate(make_task())
    nats = metrics["val/loss"] * len(targets)
    expected = nats / math.log(2) / float(BYTES[targets].sum())
    assert metrics["val/bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert "val/bits_per_byte" not in validate(make_task(token_bytes=None))


def test_the_bytes_of_a_long_text_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = torch.full((30,), 32)
    sizes[1] = 2**29  # bytes of the text so far; fp32 would count on in steps of 64 or more
    task = make_task(sizes)
    monkeypatch.setattr(task.model, "loss_sum", lambda *_: torch.tensor(1.0))
    monkeypatch.setattr(task, "log_dict", (logged := {}).update)
    monkeypatch.setattr(task, "reduce_sum", lambda sums: sums)
    task._trainer = SimpleNamespace(global_step=0)  # type: ignore[assignment]
    one = torch.ones(1, 1, dtype=torch.int64)
    task.on_validation_epoch_start()
    task.validation_step(TextBatch(one, one), 0)
    for _ in range(1024):
        task.validation_step(TextBatch(one, 0 * one), 0)
    task.on_validation_epoch_end()
    n_bytes = 2**29 + 1024 * 32
    assert logged["val/bits_per_byte"] == pytest.approx(1025 / math.log(2) / n_bytes, rel=1e-5)


def test_a_loss_beyond_measure_is_reported_not_raised() -> None:
    task = make_task()
    with torch.no_grad():
        task.model.final_norm.weight.mul_(1e6)
    metrics = validate(task)
    assert metrics["val/loss"] > 80
    assert math.isfinite(metrics["val/perplexity"])


def test_training_trusts_that_windows_are_full() -> None:
    batch = make_batches()[0]
    loss, count = make_task().loss_sum(batch)
    assert count == batch.targets.numel()
    assert float(loss.detach()) > 0


class NoCopies(TorchFunctionMode):
    """Lets no number be copied to a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy)
        return func(*args, **(kwargs or {}))


def test_a_step_on_a_gpu_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, where there are no numbers that could be looked at."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)  # it knows no autocast
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    task, [batch, *_] = make_task().to("meta"), make_batches()
    batch = TextBatch(*(part.to("meta") for part in batch))
    task.trainer = SimpleNamespace(world_size=1, accumulate_grad_batches=2)  # type: ignore[assignment]
    optimizer = torch.optim.SGD(task.parameters())
    with NoCopies():
        for _ in range(2):
            task.training_step(batch, 0).backward()
        task.on_before_optimizer_step(optimizer)
        task.configure_gradient_clipping(optimizer, 1.0)
    assert task.stats is not None and task.stats.grad_norm is not None
