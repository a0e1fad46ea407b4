from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.data.batch import LabelledBatch
from gptlit.data.labelled import LabelledDataModule, LabelledDataset, LabelledSplit
from gptlit.errors import UserError
from gptlit.tokenizer import get_tokenizer
from tests.data.recorder import record

BYTES = get_tokenizer("byte")
TEXTS = [f"{'word ' * (number * number % 13)}{number}" for number in range(100)]
LABELS = [("c", "a", "b", "c")[number % 4] for number in range(100)]


@pytest.fixture
def path(tmp_path: Path) -> str:
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(tmp_path / "rows.csv", index=False)
    return str(tmp_path / "rows.csv")


def module(path: Any, **given: Any) -> LabelledDataModule:
    given = {"context_length": 40, "batch_size": 4, "seed": 1, "tokenizer": BYTES, **given}
    if path is not None:
        given["cache_dir"] = Path(path).parent / "cache"
    data = LabelledDataModule(path=path, **given)
    data.prepare_data()
    data.setup("fit")
    return data


def place(rank: int, world_size: int) -> Any:
    """What a data module asks a Trainer."""
    return SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


def check_batch(batch: LabelledBatch, split: LabelledSplit) -> list[int]:
    """Compare a batch with its texts; returns their rows."""
    assert isinstance(batch, LabelledBatch)
    assert {tensor.dtype for tensor in batch} == {torch.int64}
    count, time = batch.input_ids.shape
    assert batch.lengths.shape == batch.labels.shape == batch.rows.shape == (count,)
    assert time == batch.lengths.max()
    rows: list[int] = batch.rows.tolist()
    for ids, length, label, row in zip(
        batch.input_ids.tolist(), batch.lengths.tolist(), batch.labels.tolist(), rows, strict=True
    ):
        assert length >= 1
        assert ids[:length] == split.ids[row].tolist()
        assert set(ids[length:]) <= {BYTES.eot_id}
        assert label == split.labels[row]
    return rows


@settings(derandomize=True, max_examples=100)
@given(
    texts=st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=20),
    data=st.data(),
)
def test_texts_are_filled_up_on_the_right(texts: list[bytes], data: st.DataObject) -> None:
    ids = [np.frombuffer(text, np.uint8).astype(np.uint32) for text in texts]
    split = LabelledSplit([""] * len(ids), np.arange(len(ids)) % 3, ids, n_cut=0)
    rows = st.lists(st.integers(0, len(ids) - 1), min_size=1, unique=True)
    chosen = np.array(data.draw(rows), dtype=np.int64)
    assert len(LabelledDataset(split, BYTES.eot_id)) == len(ids)
    assert check_batch(LabelledDataset(split, BYTES.eot_id)[chosen], split) == chosen.tolist()


@pytest.mark.parametrize("bucket", [True, False])
def test_an_epoch_reads_every_text_once(path: str, bucket: bool) -> None:
    data = module(path, bucket=bucket)
    loader = data.train_dataloader()
    epochs = []
    for _ in range(2):
        epochs.append([check_batch(batch, data.splits["train"]) for batch in loader])
        assert sorted(chain(*epochs[-1])) == list(range(70))
        assert [len(rows) for rows in epochs[-1]] == [4] * 17 + [2]
    assert epochs[0] != epochs[1]
    assert data.train_batches() == len(loader) == 18
    assert data.train_batches(world_size=3) == 6


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_reads_every_text_once_and_short_ones_first(
    path: str, split: str, world_size: int
) -> None:
    data = module(path)
    rows: list[int] = []
    for rank in range(world_size):
        data.trainer = place(rank, world_size)
        batches = list(data.eval_loader(split))
        assert all(len(batch.rows) <= 16 for batch in batches), "four times data.batch_size"
        rows += chain(*(check_batch(batch, data.splits[split]) for batch in batches))
        lengths = torch.cat([batch.lengths for batch in batches]).tolist()
        assert all(a <= b for a, b in pairwise(lengths))
    assert sorted(rows) == list(range(len(data.splits[split].texts)))


def test_evaluation_batches_may_have_a_size_of_their_own(path: str) -> None:
    data = module(path, eval_batch_size=3)
    assert [len(batch.rows) for batch in data.val_dataloader()] == [3, 3, 2, 2]
    assert [len(batch.rows) for batch in data.test_dataloader()] == [3] * 6 + [2]


def test_ranks_of_a_trainer_share_an_epoch(path: str) -> None:
    data = module(path)
    shares = []
    for rank in range(3):
        data.trainer = place(rank, 3)
        shares.append([rows for batch in data.train_dataloader() for rows in batch.rows.tolist()])
    assert sorted(chain(*shares)) == list(range(70))


def test_classes_are_numbered_in_the_order_of_their_names(path: str) -> None:
    data = module(path)
    assert data.labels == ["a", "b", "c"]
    assert data.for_task() == {"labels": ["a", "b", "c"], "class_weights": None}
    assert list(data.final_loaders()) == list(data.splits) == ["train", "validation", "test"]
    for split in data.splits.values():
        for text, label, ids in zip(split.texts, split.labels, split.ids, strict=True):
            assert data.labels[label] == LABELS[TEXTS.index(text)]
            assert ids.tolist() == BYTES.encode(text)[:40]
        assert split.n_cut == sum(len(text) > 40 for text in split.texts)
        assert split.lengths.tolist() == [min(len(text), 40) for text in split.texts]


def test_an_empty_text_is_one_end_of_text(tmp_path: Path) -> None:
    rows = [("", "a"), *((text, "ab"[len(text) % 2]) for text in TEXTS)]
    pd.DataFrame(rows, columns=["text", "label"]).to_json(
        tmp_path / "rows.jsonl", orient="records", lines=True
    )
    data = module(str(tmp_path / "rows.jsonl"))
    ids = {t: i for s in data.splits.values() for t, i in zip(s.texts, s.ids, strict=True)}
    assert ids[""].tolist() == [BYTES.eot_id]


def test_classes_may_be_balanced_by_rows_or_by_weights(path: str) -> None:
    drawn = module(path, balance="undersample")
    counts = sum(np.bincount(split.labels) for split in drawn.splits.values())
    assert counts.tolist() == [25, 25, 25]
    assert drawn.class_weights() is None
    weighted = module(path, balance="weights")
    counts = np.bincount(weighted.splits["train"].labels)
    weights = weighted.class_weights()
    assert weights == pytest.approx(70 / (3 * counts))
    assert (counts * np.array(weights)).sum() == pytest.approx(70)


def test_separate_tables(path: str, tmp_path: Path) -> None:
    (tmp_path / "val.tsv").write_text("text\tlabel\nnew one\ta\nword 1\tb\n")
    (tmp_path / "test.jsonl").write_text('{"text": "other", "label": "c"}\n')
    paths = {"val_path": str(tmp_path / "val.tsv"), "test_path": str(tmp_path / "test.jsonl")}
    data = module(path, **paths)
    assert data.splits["validation"].texts == ["new one", "word 1"]
    assert data.splits["test"].labels.tolist() == [2]
    assert data.splits["train"].texts == [text for text in TEXTS if text != "word 1"]
    assert "1 duplicate removed" in data.describe()
    (tmp_path / "test.jsonl").write_text('{"text": "other", "label": "d"}\n')
    with pytest.raises(UserError, match=r"test\.jsonl:1: the label 'd', which the test split has"):
        module(path, **paths)
    with pytest.raises(UserError, match=r"rows\.csv is both data\.path and data\.test_path"):
        module(path, test_path=path)
    with pytest.raises(UserError, match=r"data\.val_path=nowhere\.csv: there is no such file"):
        module(path, val_path="nowhere.csv")


def test_a_path_has_to_be_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path is not set"):
        module(None, cache_dir=tmp_path)


def test_the_data_are_told_in_one_line(path: str, tmp_path: Path) -> None:
    cut = sum(len(text) > 40 for text in TEXTS)
    assert module(path).describe() == (
        f"{path}: 100 rows; 25 a + 25 b + 50 c; 70 train, 10 validation, 20 test; "
        f"{cut} cut to 40 tokens (byte)"
    )
    twice = [*zip(TEXTS, LABELS, strict=True), (TEXTS[0], "b"), (TEXTS[1], "a")]
    pd.DataFrame(twice, columns=["text", "label"]).to_csv(tmp_path / "twice.csv")
    told = module(str(tmp_path / "twice.csv"), balance="undersample", context_length=99).describe()
    assert told == (
        f"{tmp_path / 'twice.csv'}: 102 rows, 2 duplicates removed (1 had another label), 25 left "
        "out to balance the classes; 25 a + 25 b + 25 c; 52 train, 7 validation, 16 test"
    )
    many = [(f"{text} {number}", f"kind\n{number}") for text in TEXTS for number in range(12)]
    pd.DataFrame(many, columns=["text", "label"]).to_csv(tmp_path / "many.csv")
    assert " + 100 kind 5 + 4 more classes; " in module(str(tmp_path / "many.csv")).describe()


def test_a_second_process_finds_the_splits(path: str) -> None:
    prepared = module(path)
    data = LabelledDataModule(
        tokenizer=BYTES,
        context_length=40,
        batch_size=4,
        seed=1,
        path=path,
        cache_dir=Path(path).parent / "cache",
    )
    data.setup("fit")
    data.setup("test")
    assert data.describe() == prepared.describe()
    for name, split in data.splits.items():
        assert split.texts == prepared.splits[name].texts


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_change_nothing(path: str, num_workers: int) -> None:
    data, plain = module(path, num_workers=num_workers), module(path)
    pairs = chain(
        zip(data.train_dataloader(), plain.train_dataloader(), strict=True),
        zip(data.val_dataloader(), plain.val_dataloader(), strict=True),
    )
    for batch, expected in pairs:
        assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("stop", [7, 18, 25])
def test_a_trainer_resumes_at_the_exact_batch(path: str, tmp_path: Path, stop: int) -> None:
    whole = record(module(path), LabelledBatch, "rows", max_steps=40)
    first = record(module(path), LabelledBatch, "rows", max_steps=stop)
    first.trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    rest = record(
        module(path), LabelledBatch, "rows", checkpoint=tmp_path / "stopped.ckpt", max_steps=40
    )
    assert first.seen + rest.seen == whole.seen
    assert len(whole.seen) == 40
