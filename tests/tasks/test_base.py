"""What a task promises about one optimiser step, seen through a real Trainer."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from gptlit.data.batch import TextBatch
from gptlit.model import IGNORE_INDEX
from gptlit.tasks import StepStats, Task, base, task_class

torch.set_num_threads(1)  # threads cost such a small model more than they give

SHAPE = {"vocab_size": 30, "context_length": 12, "emb_dim": 16, "n_heads": 2, "n_layers": 2}


class RaggedTask(Task):
    """Batches with any number of targets, as fine-tuning has them."""

    name = "ragged"

    def loss_sum(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        loss = self.model.loss_sum(batch.input_ids, batch.targets)
        return loss, (batch.targets != IGNORE_INDEX).sum()


def make_task(seed: int = 0, lr: float = 1.0, drop_rate: float = 0.0, **options: Any) -> RaggedTask:
    """The same weights every time; plain SGD, so that lr=1 makes the step the gradient."""
    torch.manual_seed(7)
    shape = {**SHAPE, "drop_rate": drop_rate}
    task = RaggedTask(model=shape, tokenizer="byte", seed=seed, **options)
    task.optimizer_factory = lambda task: torch.optim.SGD(task.parameters(), lr=lr)
    return task


def make_batch(seed: int, n_targets: int, rows: int = 2) -> TextBatch:
    """A micro-batch of which only the first `n_targets` targets count."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(30, (rows, 13), generator=generator)
    targets = ids[:, 1:].clone()
    targets.view(-1)[n_targets:] = IGNORE_INDEX
    return TextBatch(ids[:, :-1], targets)


def fit(task: Task, batches: list[TextBatch], steps: int = 1, **options: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    data: Any = batches
    trainer.fit(task, DataLoader(data, batch_size=None))
    return trainer


def change(task: Task) -> Tensor:
    """How far the step moved the weights."""
    before = dict(make_task(drop_rate=task.model.cfg.drop_rate).named_parameters())
    return torch.cat([(before[n] - p).detach().flatten() for n, p in task.named_parameters()])


@pytest.mark.parametrize("counts", [(1, 20, 7), (0, 5, 9), (4, 4, 4), (3, 8)])
def test_accumulated_micro_batches_are_one_big_batch(counts: tuple[int, ...]) -> None:
    batches = [make_batch(i, count) for i, count in enumerate(counts)]
    whole = TextBatch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    accumulated, big = make_task(), make_task()
    fit(accumulated, batches, accumulate_grad_batches=len(counts))
    fit(big, [whole])
    assert accumulated.stats is not None and big.stats is not None
    assert float(accumulated.stats.targets) == sum(counts)
    assert float(accumulated.stats.loss) == pytest.approx(float(big.stats.loss), rel=1e-5)
    norm = change(big).norm()
    assert norm > 0.1
    assert (change(accumulated) - change(big)).norm() < 1e-5 * norm


def test_the_loss_is_the_mean_over_targets() -> None:
    task, batch = make_task(), make_batch(0, 5)
    logits = task.model(batch.input_ids).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch.targets.flatten())
    gradient = torch.autograd.grad(expected, list(task.parameters()))
    fit(task, [batch])
    assert task.stats is not None
    assert float(task.stats.loss) == pytest.approx(expected.item(), rel=1e-5)
    flat = torch.cat([g.flatten() for g in gradient])
    assert torch.allclose(change(task), flat, atol=1e-6)


def test_a_step_without_any_target_changes_nothing() -> None:
    task = make_task()
    fit(task, [make_batch(0, 0)])
    assert change(task).norm() == 0


class Gambler(Callback):
    """Draws random numbers of its own between the steps."""

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        torch.rand(5)


def test_dropout_depends_on_seed_and_step_only() -> None:
    batches = [make_batch(i, 20) for i in range(4)]

    def trained(seed: int, *callbacks: Callback) -> Tensor:
        task = make_task(seed, lr=0.1, drop_rate=0.5)
        fit(task, batches, 2, accumulate_grad_batches=2, callbacks=list(callbacks))
        return change(task)

    plain = trained(3)
    assert torch.equal(plain, trained(3, Gambler()))
    assert not torch.equal(plain, trained(4))


def test_each_micro_batch_has_its_own_dropout() -> None:
    batch = make_batch(0, 20)
    losses = []

    class Record(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            losses.append(float(outputs["loss"]))

    task = make_task(lr=0.0, drop_rate=0.5)
    fit(task, [batch] * 6, 3, accumulate_grad_batches=2, callbacks=[Record()])
    assert len(set(losses)) == 6


@pytest.mark.parametrize(("limit", "moved"), [(0.01, 0.01), (1e6, None)])
def test_clipping_bounds_the_step_and_records_the_norm_before_it(
    limit: float, moved: float | None
) -> None:
    batches = [make_batch(i, 4 + i) for i in range(2)]
    free, clipped = make_task(), make_task()
    fit(free, batches, accumulate_grad_batches=2)
    fit(clipped, batches, accumulate_grad_batches=2, gradient_clip_val=limit)
    norm = float(change(free).norm())
    assert free.stats is not None and clipped.stats is not None
    assert free.stats.grad_norm is not None and clipped.stats.grad_norm is not None
    assert float(free.stats.grad_norm) == pytest.approx(norm, rel=1e-4)
    assert float(clipped.stats.grad_norm) == pytest.approx(norm, rel=1e-4)
    assert float(change(clipped).norm()) == pytest.approx(moved or norm, rel=1e-3)


@pytest.mark.parametrize("norm", [0.01, 1e6])
def test_a_fused_step_clips_as_any_other(norm: float) -> None:
    """Adam's step depends on the size of a gradient only beside those of other steps."""
    tasks = {fused: make_task() for fused in (False, True)}
    scales = []
    for fused, task in tasks.items():
        optimizer = torch.optim.AdamW(task.parameters(), lr=0.1, eps=1e-3, fused=fused)
        task.optimizer_factory = lambda _, optimizer=optimizer: optimizer
        fit(task, [make_batch(i, 9) for i in range(3)], 3, gradient_clip_val=norm)
        scales.append(getattr(optimizer, "grad_scale", None))
        # A step that is not clipped forgets the factor of the one before.
        task.configure_gradient_clipping(optimizer, 1e6)
        assert getattr(optimizer, "grad_scale", None) is None
    assert [scale is not None for scale in scales] == [False, norm < 1]
    moved = [change(task) for task in tasks.values()]
    assert moved[0].norm() > 0.1
    torch.testing.assert_close(*moved, rtol=1e-3, atol=1e-5)


def test_the_norm_counts_many_small_gradients() -> None:
    """Those of the rare tokens in an embedding, after a few frequent ones."""
    task = RaggedTask(model={**SHAPE, "vocab_size": 2**15, "emb_dim": 64}, tokenizer="byte")
    weight = task.model.tok_emb.weight
    weight.grad = 1e-5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.grad[:16] *= 3000
    task.stats = StepStats(*torch.zeros(3))
    task.configure_gradient_clipping(torch.optim.SGD([weight]), None)
    assert task.stats.grad_norm is not None
    expected = float(weight.grad.double().square().sum().sqrt())
    assert float(task.stats.grad_norm) == pytest.approx(expected, rel=5e-5)


def test_clipping_by_value_bounds_each_number() -> None:
    free, clipped = make_task(), make_task()
    fit(free, [make_batch(0, 9)])
    options: Any = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
    fit(clipped, [make_batch(0, 9)], **options)
    torch.testing.assert_close(
        change(clipped), change(free).clamp(-0.01, 0.01), rtol=1e-3, atol=1e-6
    )


class Interrupted(Callback):
    """Ends the fit in the middle of a step."""

    def on_after_backward(self, *args: Any) -> None:
        raise InterruptedError


def test_a_fit_after_an_interrupted_one_is_as_the_first() -> None:
    again, fresh = make_task(), make_task()
    with pytest.raises(InterruptedError):
        fit(again, [make_batch(1, 20)], callbacks=[Interrupted()])
    for task in (again, fresh):
        fit(task, [make_batch(0, 5)])
    assert again.stats is not None and float(again.stats.targets) == 5
    assert torch.equal(change(again), change(fresh))


def test_a_tokenizer_in_the_place_of_its_name_is_refused() -> None:
    with pytest.raises(TypeError, match="tokenizer: expected a name, such as 'gpt2', got 5"):
        RaggedTask(model=SHAPE, tokenizer=5)  # type: ignore[arg-type]


def test_a_checkpoint_holds_plain_data_that_rebuilds_the_task(tmp_path: Path) -> None:
    settings = {"labels": ["ham", "spam"], "share": 0.5}
    task = make_task(seed=5, settings=settings, token_bytes=torch.arange(30))
    fit(task, [make_batch(0, 5)]).save_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    hparams = content["hyper_parameters"]

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return type(value) is dict and all(map(plain, [*value, *value.values()]))
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool)

    assert all(plain(value) for value in hparams.values())
    assert hparams["task"] == "ragged" and hparams["seed"] == 5
    rebuilt = RaggedTask(**{name: value for name, value in hparams.items() if name != "task"})
    rebuilt.load_state_dict(content["state_dict"])
    assert rebuilt.settings == settings


@pytest.mark.parametrize("name", ["os.system", "../x", "nothing", "base", ""])
def test_a_name_that_is_no_task_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"task|Task"):
        task_class(name)


def test_a_task_that_misses_a_package_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there\n")
    import gptlit.tasks

    monkeypatch.setattr(gptlit.tasks, "__path__", [*gptlit.tasks.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        task_class("needy")


def test_a_task_may_be_in_a_module_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_tasks.py").write_text(
        "from gptlit.tasks.pretrain import PretrainTask\n"
        "class LateTask(PretrainTask):\n    name = 'late'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = task_class("late", "their_tasks.LateTask")
    assert issubclass(found, Task) and found.name == "late"
    for target in ("their_tasks.Other", "their_tasks.PretrainTask", "their_task.LateTask"):
        with pytest.raises(ValueError, match=target):
            task_class("late", target)
    with pytest.raises(ValueError, match=r"no task 'late' in gptlit.tasks: give task._target_="):
        task_class("late")


class WeightedTask(RaggedTask):
    """Targets that count a tenth each."""

    name = "weighted"

    def loss_sum(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        loss, count = super().loss_sum(batch)
        return loss * 0.1, count * 0.1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_that_all_targets_share_change_nothing(accumulate: int) -> None:
    batches = [make_batch(i, 3) for i in range(accumulate)]
    plain = make_task()
    weighted = WeightedTask(model={**SHAPE, "drop_rate": 0.0}, tokenizer="byte", seed=0)
    weighted.load_state_dict(plain.state_dict())
    weighted.optimizer_factory = lambda task: torch.optim.SGD(task.parameters(), lr=1.0)
    for task in (plain, weighted):
        fit(task, batches, accumulate_grad_batches=accumulate)
    assert plain.stats is not None and weighted.stats is not None
    assert float(weighted.stats.loss) == pytest.approx(float(plain.stats.loss), rel=1e-5)
    torch.testing.assert_close(change(weighted), change(plain), rtol=1e-4, atol=1e-6)


class WordyTask(RaggedTask):
    """Nine tokens for each target."""

    name = "wordy"

    def count_tokens(self, batch: TextBatch, targets: Tensor) -> Tensor:
        return targets * 9


def test_how_many_tokens_a_target_takes_changes_no_step() -> None:
    plain = make_task()
    wordy = WordyTask(model={**SHAPE, "drop_rate": 0.0}, tokenizer="byte", seed=0)
    wordy.load_state_dict(plain.state_dict())
    wordy.optimizer_factory = plain.optimizer_factory
    for task in (plain, wordy):
        fit(task, [make_batch(0, 5)])
    assert plain.stats is not None and wordy.stats is not None
    assert (float(plain.stats.tokens), float(wordy.stats.tokens)) == (5, 45)
    assert torch.equal(change(wordy), change(plain))


def test_each_process_has_its_own_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank in (0, 1, 0):
        task = make_task(drop_rate=0.5)
        monkeypatch.setattr(RaggedTask, "global_rank", rank)
        fit(task, [make_batch(0, 20)])
        drawn.append(change(task))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.allclose(drawn[0], drawn[1])


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_the_device_that_computes_is_seeded_and_no_other(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded = []
    for name in ("cuda", "mps"):
        note = partial(lambda name, seed: seeded.append((name, seed)), name)
        monkeypatch.setattr(getattr(torch, name), "manual_seed", note)
    base._seed(5, torch.device(kind))
    assert seeded == [(kind, 5)] * (kind != "cpu")
    assert torch.initial_seed() == 5
