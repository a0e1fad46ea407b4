"""Tokens, seconds and divergence, as a run reports them."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from gptlit.data.batch import TextBatch
from gptlit.errors import UserError
from gptlit.model import GPTConfig
from gptlit.tasks.pretrain import PretrainTask
from gptlit.training import monitor as monitor_module
from gptlit.training.checkpoints import AtomicCheckpointIO, Checkpoints
from gptlit.training.metrics import read_metrics
from gptlit.training.metrics_csv import MetricsCSV
from gptlit.training.monitor import StepMonitor

torch.set_num_threads(1)

SHAPE = {"vocab_size": 30, "context_length": 4, "emb_dim": 8, "n_heads": 1, "n_layers": 1}
TARGETS = 8
"""In each batch."""


@pytest.fixture(autouse=True)
def known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the measurement of this machine's peak rate."""
    monkeypatch.setattr(monitor_module, "peak_flops", lambda device, precision: 1e12)


class Troubled(PretrainTask):
    """Its loss or gradient is no number at some step; steps and validations take their time."""

    bad_from = overflow_at = broken_at = math.inf
    broken_to = 0.0
    step_s = val_s = 0.0

    def loss_sum(self, batch: TextBatch) -> tuple[torch.Tensor, int]:
        loss, count = super().loss_sum(batch)
        time.sleep(self.step_s)
        return (loss * math.nan if self.global_step + 1 >= self.bad_from else loss), count

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        super().configure_gradient_clipping(*args, **kwargs)
        if self.global_step + 1 == self.overflow_at:
            assert self.stats is not None
            self.stats.grad_norm = torch.tensor(math.inf)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.global_step + 1 == self.broken_at:  # counted once it is done
            with torch.no_grad():
                next(self.parameters()).view(-1)[-1] = self.broken_to

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        time.sleep(self.val_s)
        super().validation_step(batch, batch_idx)


def fit(
    folder: Path,
    steps: int,
    *,
    log_every: int = 1,
    val_every: int = 100,
    save_every: int = 0,
    resume: bool = False,
    n_batches: int = 1000,
    precision: str = "fp32",
    **trouble: float,
) -> StepMonitor:
    torch.manual_seed(0)
    task = Troubled(model=SHAPE, tokenizer="byte")
    for name, value in trouble.items():
        setattr(task, name, value)
    task.optimizer_factory = lambda task: torch.optim.SGD(task.parameters(), lr=0.1)
    monitor = StepMonitor("cpu", precision, log_every)
    monitor.flops_per_token, monitor.total_steps = task.model.cfg.flops_per_token(), steps
    last = folder / "last.ckpt"
    csv = MetricsCSV(folder / "metrics.csv", keep_until=step_of(last) if resume else None)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        val_check_interval=val_every,
        check_val_every_n_epoch=None,
        log_every_n_steps=log_every,
        plugins=[AtomicCheckpointIO()],
        callbacks=[monitor, Checkpoints(folder, every_n_steps=save_every)],
        logger=csv,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    ids = torch.arange(5).repeat(2, 1)
    batches: Any = [TextBatch(ids[:, :-1], ids[:, 1:])] * n_batches
    data, val_data = (DataLoader(part, batch_size=None) for part in (batches, batches[:1]))
    trainer.fit(task, data, val_data, ckpt_path=last if resume else None, weights_only=True)
    return monitor


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


def test_a_run_that_diverges_ends_with_the_step_and_the_cure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loss is nan at step 3: .*optimizer.lr"):
        fit(tmp_path, 10, bad_from=3)


def test_a_model_that_diverged_between_two_logged_steps_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at step 5"):
        fit(tmp_path, 20, log_every=10, save_every=3, bad_from=5)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["global_step"] == 3
    assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_an_update_has_broken_are_not_saved(tmp_path: Path, bad: float) -> None:
    """The step's own loss and gradient were numbers still."""
    with pytest.raises(UserError, match="weights that are no numbers at step 6"):
        fit(tmp_path, 20, log_every=10, save_every=3, broken_at=6, broken_to=bad)
    assert step_of(tmp_path / "last.ckpt") == 3


def test_a_validation_that_gives_no_number_ends_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="validation loss is nan at step 8"):
        fit(tmp_path, 20, log_every=10, val_every=4, broken_at=7, broken_to=math.nan)
    assert step_of(tmp_path / "last.ckpt") == 4


def test_a_step_is_in_the_metrics_before_it_is_saved(tmp_path: Path) -> None:
    """A kill after the checkpoint would lose a row: the resumed run does not measure it again."""

    class KilledError(Exception):
        pass

    def save_and_die(io: Any, checkpoint: Any, path: Path, storage_options: Any = None) -> None:
        rows = read_metrics(tmp_path / "metrics.csv")[1]
        assert rows[-1]["step"] == "4" and float(rows[-1]["train/loss"]) > 0
        raise KilledError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_die)
        fit(tmp_path, 20, log_every=2, save_every=4)


def test_a_gradient_that_overflows_ends_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gradient's norm is inf at step 2"):
        fit(tmp_path, 4, overflow_at=2)


def test_in_fp16_the_loss_scaler_deals_with_overflows(tmp_path: Path) -> None:
    assert fit(tmp_path, 4, overflow_at=2, precision="fp16").tokens == 4 * TARGETS


@pytest.mark.parametrize(("log_every", "save_every"), [(1, 2), (3, 2), (5, 3), (100, 4)])
def test_tokens_are_counted_over_a_resume_and_to_the_end(
    tmp_path: Path, log_every: int, save_every: int
) -> None:
    fit(tmp_path, 5, log_every=log_every, save_every=save_every)
    first = step_of(tmp_path / "last.ckpt")
    assert first == 5
    monitor = fit(tmp_path, 11, log_every=log_every, save_every=save_every, resume=True)
    assert monitor.tokens == 11 * TARGETS
    assert monitor.seconds > 0


def test_the_last_step_is_logged_validated_and_saved(tmp_path: Path) -> None:
    fit(tmp_path, 7, log_every=3, val_every=5)
    _, rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows if row["train/loss"]] == ["3", "6", "7"]
    assert [row["step"] for row in rows if row["val/loss"]] == ["5", "7"]
    assert step_of(tmp_path / "last.ckpt") == 7


def test_rates_and_norms_are_positive_numbers(tmp_path: Path) -> None:
    fit(tmp_path, 3)
    _, rows = read_metrics(tmp_path / "metrics.csv")
    for name in ("tokens_per_second", "mfu", "grad_norm", "memory_gb", "lr", "loss"):
        values = [float(row[f"train/{name}"]) for row in rows]
        assert all(0 < value < math.inf for value in values), name


def test_mfu_is_the_rate_times_the_operations_of_a_token_over_the_peak(tmp_path: Path) -> None:
    fit(tmp_path, 3)
    _, rows = read_metrics(tmp_path / "metrics.csv")
    needed = GPTConfig(**SHAPE).flops_per_token() / 1e12
    rates = [float(row["train/tokens_per_second"]) for row in rows if row["train/mfu"]]
    found = [float(row["train/mfu"]) for row in rows if row["train/mfu"]]
    assert found == pytest.approx([rate * needed for rate in rates])


def test_training_time_is_all_steps_and_no_validation(tmp_path: Path) -> None:
    monitor = fit(tmp_path, 6, log_every=4, val_every=3, step_s=0.05, val_s=0.5)
    assert 6 * 0.05 <= monitor.seconds < 0.8
    _, rows = read_metrics(tmp_path / "metrics.csv")
    rates = [float(row["train/tokens_per_second"]) for row in rows if row["train/loss"]]
    assert len(rates) == 2
    assert all(rate <= TARGETS / 0.05 for rate in rates)


def test_the_clock_stands_still_in_a_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the next step, as a sample and a checkpoint follow it; also for a run that is saved and
    stopped in the middle of one. Nor does it run before the first step, when a task computes what
    is frozen."""
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    task, trainer = (
        Troubled(model=SHAPE, tokenizer="byte"),
        Trainer(accelerator="cpu", logger=False),
    )
    monitor = StepMonitor("cpu", "fp32", 1)
    monitor.on_train_start(trainer, task)
    now += 20
    monitor.on_train_batch_start(trainer, task, None, 0)
    now += 7
    monitor.on_validation_start(trainer, task)
    now += 50
    assert monitor.state_dict()["seconds"] == 7
    monitor.on_validation_end(trainer, task)
    now += 30
    assert monitor.state_dict()["seconds"] == 7
    monitor.on_train_batch_start(trainer, task, None, 0)
    now += 2
    assert monitor.state_dict()["seconds"] == 9
