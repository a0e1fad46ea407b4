"""Classification: what is frozen, what is pooled, and savings that change nothing."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer

from gptlit.data.batch import LabelledBatch
from gptlit.data.labelled import LabelledDataModule
from gptlit.model import GPTConfig
from gptlit.tasks.classification import ClassificationTask
from gptlit.tasks.pretrain import PretrainTask
from gptlit.tokenizer import get_tokenizer
from gptlit.training.optim import OptimizerFactory, Schedule

SHAPE = {
    "vocab_size": 257,
    "context_length": 40,
    "emb_dim": 32,
    "n_heads": 4,
    "n_layers": 3,
    "drop_rate": 0.0,
}
LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q", "v"]}


def make_task(model: dict[str, Any] | None = None, **given: Any) -> ClassificationTask:
    torch.manual_seed(3)
    options = {
        "labels": ["ham", "spam"],
        "trainable": "last_block",
        "pool": "last",
        "causal": True,
        "label_smoothing": 0.0,
        "class_weights": None,
        "cache_features": "auto",
        "lora": LORA,
    }
    task = ClassificationTask(
        model=SHAPE | (model or {}), tokenizer="byte", seed=0, settings=options | given
    )
    with torch.no_grad():  # far from the initial values, where every choice shows
        for p in task.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return task.eval()


def batch_of(texts: list[list[int]], time: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = [len(text) for text in texts]
    ids = torch.full((len(texts), time or max(lengths)), 256)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    return ids, torch.tensor(lengths)


CHOICES = [
    {"trainable": trainable, "pool": pool, "causal": causal}
    for trainable in ("head", "last_block", "last_2_blocks", "all", "lora")
    for pool in ("last", "first", "mean")
    for causal in (True, False)
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: " ".join(map(str, c.values())))
def test_the_short_way_is_the_plain_equation(choice: dict[str, Any]) -> None:
    task = make_task(**choice)
    texts = [[5, 6, 7, 8], [9] * 11, [70]]
    ids, lengths = batch_of(texts)
    with torch.no_grad():
        got = task.classifier.logits(ids, lengths)
        for row, text in enumerate(texts):  # one by one, without padding or a short way
            alone, T = torch.tensor([text]), len(text)  # noqa: N806
            mask = None if choice["causal"] else torch.ones(T, T, dtype=torch.bool)
            h = task.model.hidden(alone, mask=mask)[0]
            pooled = {"last": h[-1], "first": h[0], "mean": h.mean(dim=0)}[choice["pool"]]
            torch.testing.assert_close(got[row], task.head(pooled), atol=1e-5, rtol=1e-5)


TASKS = {
    (pool, causal): make_task(pool=pool, causal=causal)
    for pool in ("last", "first", "mean")
    for causal in (True, False)
}


@settings(max_examples=60)
@given(
    texts=st.lists(st.lists(st.integers(0, 256), min_size=1, max_size=20), min_size=1, max_size=5),
    padding=st.integers(0, 12),
    choice=st.sampled_from(sorted(TASKS)),
)
def test_a_prediction_depends_on_nothing_else_in_the_batch(
    texts: list[list[int]], padding: int, choice: tuple[str, bool]
) -> None:
    task = TASKS[choice]
    with torch.no_grad():
        together = task.classifier.logits(*batch_of(texts, max(map(len, texts)) + padding))
        for row, text in enumerate(texts):
            alone = task.classifier.logits(*batch_of([text]))[0]
            torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


TRAINABLE = {
    "head": (3, {"head"}),
    "last_block": (2, {"head", "model.final_norm", "model.trf_blocks.2"}),
    "last_1_blocks": (2, {"head", "model.final_norm", "model.trf_blocks.2"}),
    "last_2_blocks": (1, {"head", "model.final_norm", "model.trf_blocks.2", "model.trf_blocks.1"}),
    "all": (0, {"head", "model"}),
}


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_what_trains(trainable: str) -> None:
    first, prefixes = TRAINABLE[trainable]
    task = make_task(trainable=trainable)
    assert task.first_trainable == first
    for name, parameter in task.named_parameters():
        assert parameter.requires_grad == name.startswith(tuple(p + "." for p in prefixes)), name


def test_a_head_that_only_language_models_use_does_not_train() -> None:
    """With several processes, DDP would wait for its gradient."""
    task = make_task({"tied_head": False}, trainable="all")
    frozen = [name for name, p in task.named_parameters() if not p.requires_grad]
    assert frozen == ["model.out_head.weight"]


def test_lora_trains_its_own_and_the_head() -> None:
    task = make_task(trainable="lora")
    names = {name for name, p in task.named_parameters() if p.requires_grad}
    assert names and all("lora" in name or name == "head.weight" for name in names)
    assert task.first_trainable == 0 and task.why_not_cached


@pytest.mark.parametrize("trainable", ["last_4_blocks", "last_0_blocks", "first_block", "", "Head"])
def test_an_unknown_choice_names_the_known_ones(trainable: str) -> None:
    with pytest.raises(ValueError, match=r"task.trainable=.*head, last_block.*last_3_blocks, all"):
        make_task(trainable=trainable)


def test_settings_that_cannot_be_are_told_with_those_that_can() -> None:
    with pytest.raises(ValueError, match=r"lacks the settings trainable, causal.*: .*/classif"):
        ClassificationTask(model=SHAPE, tokenizer="byte", settings={"labels": ["a"], "pool": "x"})
    with pytest.raises(ValueError, match=r"task.pool=max: allowed are last, first, mean"):
        make_task(pool="max")
    with pytest.raises(ValueError, match=r"task.trainable=None: allowed are head"):
        make_task(trainable=None)


def test_a_cache_that_would_change_the_result_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cache_features=true.*drop_rate=0.1"):
        make_task({"drop_rate": 0.1}, cache_features=True)
    with pytest.raises(ValueError, match=r"cache_features=true.*trains the first block"):
        make_task(trainable="all", cache_features=True)
    assert make_task({"drop_rate": 0.1}).why_not_cached


# ---- whole runs ----


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "messages.csv"
    words = ["win", "cash", "now", "lunch", "home", "see", "you", "prize"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(120):
            some = [words[(i * k + k) % 8] for k in range(1, 2 + i % 7)]
            writer.writerow([f"{i} " + " ".join(some), "spam" if i % 3 == 0 else "ham"])
    return path


class Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, task: Any, *args: Any) -> None:
        self.losses.append(float(task.stats.loss))


def data_of(table: Path, folder: Path, seed: int = 0, **options: Any) -> LabelledDataModule:
    data = LabelledDataModule(
        tokenizer=get_tokenizer("byte"),
        context_length=40,
        seed=seed,
        batch_size=8,
        path=str(table),
        cache_dir=folder / "cache",
        **options,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def quiet_trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **options,
    )


def run(table: Path, folder: Path, **given: Any) -> tuple[ClassificationTask, list[float]]:
    data_options = {k: given.pop(k) for k in ("bucket", "balance") if k in given}
    data = data_of(table, folder, **data_options)
    task = make_task(**data.for_task(), **given)
    task.optimizer_factory = OptimizerFactory(
        lr=1e-3, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-8, schedule=Schedule("constant", 100)
    )
    losses = Losses()
    trainer = quiet_trainer(folder, callbacks=[losses])
    trainer.fit(task, datamodule=data)
    loaders = data.final_loaders()
    task.final_splits = list(loaders)
    trainer.test(task, dataloaders=list(loaders.values()), verbose=False)
    return task, losses.losses


@pytest.mark.parametrize("trainable", ["head", "last_block", "last_2_blocks"])
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_the_feature_cache_changes_no_loss(
    table: Path, tmp_path: Path, trainable: str, pool: str
) -> None:
    options = {"trainable": trainable, "pool": pool}
    cached, with_cache = run(table, tmp_path, cache_features=True, **options)
    plain, without = run(table, tmp_path, cache_features=False, **options)
    assert cached._features is not None and plain._features is None
    assert len(with_cache) == len(without) == 2 * 11
    assert with_cache == pytest.approx(without, abs=1e-4)
    assert cached.final_metrics == pytest.approx(plain.final_metrics, abs=1e-4)


def test_features_and_class_weights_go_with_weights_of_another_format(
    table: Path, tmp_path: Path
) -> None:
    expected, found = (
        quiet_trainer(tmp_path, precision=precision).validate(
            make_task(cache_features=True, class_weights=[1, 2]),
            datamodule=data_of(table, tmp_path),
            verbose=False,
        )[0]["val/loss"]
        for precision in ("32-true", "64-true")
    )
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_cache_on_disk_is_as_good(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, in_memory = run(table, tmp_path)
    monkeypatch.setattr("gptlit.tasks.features.IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")  # the file is in the run folder
    task, on_disk = run(table, tmp_path)
    assert task._features is not None and isinstance(task._features.store, np.memmap)
    assert on_disk == in_memory


def test_features_are_of_the_texts_that_the_trainer_has(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, plain = make_task(), make_task(cache_features=False)
    first, other = (data_of(table, tmp_path, seed) for seed in (0, 1))
    trainer = quiet_trainer(tmp_path)
    trainer.validate(task, datamodule=first, verbose=False)
    kept = task._features
    with monkeypatch.context() as patch:
        patch.setattr(task.classifier, "lower", None)  # the frozen blocks are not run again
        trainer.validate(task, datamodule=first, verbose=False)
    assert task._features is kept is not None
    expected = quiet_trainer(tmp_path).validate(plain, datamodule=other, verbose=False)
    found = quiet_trainer(tmp_path).validate(task, datamodule=other, verbose=False)
    assert found[0] == pytest.approx(expected[0], abs=1e-4)
    bare = quiet_trainer(tmp_path).validate(task, first.eval_loader("validation"), verbose=False)
    expected = trainer.validate(plain, datamodule=first, verbose=False)
    assert bare[0] == pytest.approx(expected[0], abs=1e-4)


def test_a_trainer_tests_on_the_test_split(table: Path, tmp_path: Path) -> None:
    task, data = make_task(), data_of(table, tmp_path)
    quiet_trainer(tmp_path).validate(task, datamodule=data, verbose=False)
    for source in ({"datamodule": data}, {"dataloaders": data.test_dataloader()}):
        [found] = quiet_trainer(tmp_path).test(task, **source, verbose=False)
        assert len(task.predictions["test"].rows) == len(data.splits["test"].texts)
        assert found["test/loss"] == pytest.approx(task.final_metrics["test/loss"])


def test_speed_counts_the_tokens_of_the_texts_without_padding() -> None:
    ids, lengths = batch_of([[5, 6, 7, 8], [9] * 11, [70]], time=20)
    batch = LabelledBatch(ids, lengths, torch.tensor([0, 1, 0]), torch.arange(3))
    assert float(make_task().count_tokens(batch, torch.tensor(3.0))) == 16


def test_class_weights_weigh_the_texts(table: Path, tmp_path: Path) -> None:
    task, _ = run(table, tmp_path, balance="weights")
    found = task.predictions["validation"]
    assert task.class_weights is not None
    weights = task.class_weights[found.labels]
    nats = -found.probabilities.gather(1, found.labels[:, None])[:, 0].log()
    mean = float((weights * nats).sum() / weights.sum())
    assert task.final_metrics["val/loss"] == pytest.approx(mean, rel=1e-4)


def test_every_text_is_predicted_once_and_all_metrics_are_there(
    table: Path, tmp_path: Path
) -> None:
    task, _ = run(table, tmp_path)
    sizes = {split: len(found.rows) for split, found in task.predictions.items()}
    assert sizes == {"train": 84, "validation": 12, "test": 24}
    for found in task.predictions.values():
        assert found.rows.tolist() == list(range(len(found.rows)))
    for split in ("train", "val", "test"):
        for metric in ("loss", "accuracy", "precision", "recall", "f1", "auroc", "f1/spam"):
            assert f"{split}/{metric}" in task.final_metrics
    assert {name.partition("/")[0] for name in task.trainer.callback_metrics} == {"test", "step"}
    hits = task.predictions["test"].probabilities.argmax(1) == task.predictions["test"].labels
    assert task.final_metrics["test/accuracy"] == pytest.approx(float(hits.float().mean()))


def test_the_checkpoint_stands_alone(tmp_path: Path) -> None:
    task = make_task(trainable="lora", labels=["a", "b", "c"])
    content = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    path = tmp_path / "one.ckpt"
    torch.save({**content, "pytorch-lightning_version": "2.6.0"}, path)
    again = ClassificationTask.load_from_checkpoint(path, weights_only=True)
    with pytest.raises(ValueError, match="PretrainTask is for task=pretrain, not for task=classif"):
        PretrainTask.load_from_checkpoint(path, weights_only=True)
    ids, lengths = batch_of([[1, 2, 3], [4]])
    assert again.labels == ["a", "b", "c"]
    got = again.eval().classifier.logits(ids, lengths)
    assert torch.equal(got, task.classifier.logits(ids, lengths))
    assert GPTConfig(**again.hparams["model"]).n_layers == 3


def test_metrics_are_those_of_all_processes_in_the_order_of_the_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This process has seen the texts 2 and 0, another one 3 and 1."""
    logits = torch.tensor([[4.0, 0], [3, 1], [0, 2], [1, 2]])
    labels = torch.tensor([0, 1, 1, 0])
    ours, theirs = (
        [(rows, labels[rows], logits[rows])]
        for rows in (torch.tensor([2, 0]), torch.tensor([3, 1]))
    )

    def gather(gathered: list[Any], part: Any) -> None:
        assert part is ours
        gathered[:] = [part, theirs]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    task = make_task(cache_features=False)
    task._trainer = cast(Any, SimpleNamespace(world_size=2))
    task._seen["validation"] = ours
    found = task._measure("validation")
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert (found["loss"], found["accuracy"]) == (pytest.approx(float(loss)), 0.5)
    assert task.predictions["validation"].rows.tolist() == [0, 1, 2, 3]
    assert task.predictions["validation"].labels.tolist() == labels.tolist()
