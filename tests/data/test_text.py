import gzip
import pickle
import sys
from itertools import chain, pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.data.batch import TextBatch
from gptlit.data.text import TextDataModule, default_cache_dir
from gptlit.errors import UserError
from gptlit.tokenizer import get_tokenizer
from tests.data.recorder import record

BYTES = get_tokenizer("byte")
TEXT = "".join(chr(33 + i * i % 89) for i in range(400))


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def module(path: Any, cache_dir: Path, **settings: Any) -> TextDataModule:
    settings = {"context_length": 8, "batch_size": 3, "seed": 1, **settings}
    data = TextDataModule(path=path, tokenizer=BYTES, cache_dir=cache_dir, **settings)
    data.prepare_data()
    data.setup("fit")
    return data


def ids(data: TextDataModule) -> tuple[list[int], list[int]]:
    """Training and validation tokens."""
    train, validation = data.corpus.train, data.corpus.validation
    return (
        data.corpus.stream(train).read(0, train.tokens).tolist(),
        data.corpus.stream(validation).read(0, validation.tokens).tolist(),
    )


def test_an_epoch_covers_the_windows_without_replacement(path: str, tmp_path: Path) -> None:
    data = module(path, tmp_path, batch_size=4)
    train, _ = ids(data)
    assert len(train) == 360
    windows = [(train[i : i + 8], train[i + 1 : i + 9]) for i in range(0, 359 - 8, 8)]
    loader = data.train_dataloader()
    orders = []
    for _ in range(2):
        seen: list[tuple[list[int], list[int]]] = []
        for batch in loader:
            assert isinstance(batch, TextBatch)
            assert batch.input_ids.shape == batch.targets.shape == (4, 8)
            assert batch.input_ids.dtype == batch.targets.dtype == torch.int64
            seen += zip(batch.input_ids.tolist(), batch.targets.tolist(), strict=True)
        assert sorted(seen) == sorted(windows)
        orders.append(seen)
    assert len(loader) == data.train_batches() == len(windows) // 4 == 11
    assert orders[0] != orders[1] != windows


def test_a_file_that_changes_after_it_was_read_changes_no_run(path: str, tmp_path: Path) -> None:
    data = module(path, tmp_path)
    before = ids(data)
    Path(path).write_text(TEXT[::-1])
    data.prepare_data()
    assert ids(data) == before


@settings(derandomize=True, max_examples=40)
@given(
    length=st.integers(20, 90),
    context_length=st.integers(1, 9),
    batch_size=st.integers(1, 4),
    world_size=st.integers(1, 3),
)
def test_validation_targets_are_each_token_but_the_first_once(
    tmp_path_factory: pytest.TempPathFactory,
    length: int,
    context_length: int,
    batch_size: int,
    world_size: int,
) -> None:
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(TEXT[:length])
    data = module(
        str(folder / "text.txt"),
        folder,
        context_length=context_length,
        batch_size=batch_size,
        val_fraction=0.5,
    )
    _, validation = ids(data)
    pairs: list[tuple[int, int]] = []
    for rank in range(world_size):
        data.trainer = place(rank, world_size)
        for batch in data.val_dataloader():
            assert batch.input_ids.shape == batch.targets.shape
            assert batch.input_ids.shape[1] == context_length
            assert ((batch.input_ids >= 0) & (batch.input_ids < BYTES.vocab_size)).all()
            there = batch.targets != -100
            pairs += zip(
                batch.input_ids[there].tolist(), batch.targets[there].tolist(), strict=True
            )
    assert sorted(pairs) == sorted(pairwise(validation))


def place(rank: int, world_size: int) -> Any:
    """What a data module asks a Trainer."""
    return SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


def test_validation_reads_in_order_and_pads_with_end_of_text(path: str, tmp_path: Path) -> None:
    data = module(path, tmp_path, context_length=16, batch_size=8)
    _, validation = ids(data)
    assert len(validation) == 41
    data.trainer = None
    (batch,) = data.val_dataloader()
    assert batch.input_ids.shape == (3, 16)
    assert batch.input_ids.flatten()[:41].tolist() == validation
    assert batch.input_ids.flatten()[41:].tolist() == [BYTES.eot_id] * 7
    assert batch.targets.flatten()[:40].tolist() == validation[1:]
    assert batch.targets.flatten()[40:].tolist() == [-100] * 8


def test_ranks_of_a_trainer_read_different_windows(path: str, tmp_path: Path) -> None:
    data = module(path, tmp_path)
    whole = [row for batch in data.train_dataloader() for row in batch.input_ids.tolist()]
    shares = []
    for rank in range(2):
        data.trainer = place(rank, 2)
        shares.append([r for batch in data.train_dataloader() for r in batch.input_ids.tolist()])
    assert len(shares[0]) == len(shares[1]) == data.train_batches(world_size=2) * 3
    both = [tuple(row) for share in shares for row in share]
    assert len(set(both)) == len(both)
    assert set(both) <= set(map(tuple, whole))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_change_nothing(path: str, tmp_path: Path, num_workers: int) -> None:
    data = module(path, tmp_path, num_workers=num_workers)
    plain = module(path, tmp_path)
    pairs = chain(
        zip(data.train_dataloader(), plain.train_dataloader(), strict=True),
        zip(data.val_dataloader(), plain.val_dataloader(), strict=True),
    )
    for batch, expected in pairs:
        assert torch.equal(batch.input_ids, expected.input_ids)
        assert torch.equal(batch.targets, expected.targets)


def test_windows_travel_to_workers_without_the_corpus(path: str, tmp_path: Path) -> None:
    windows = module(path, tmp_path)._windows(train=True)
    before = len(pickle.dumps(windows))
    windows[torch.arange(3).numpy()]
    assert len(pickle.dumps(windows)) == before < 2000


def test_a_separate_validation_file(path: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("other text")
    data = module(path, tmp_path, val_path=str(tmp_path / "other.txt"))
    train, validation = ids(data)
    assert train == [*BYTES.encode(TEXT), BYTES.eot_id]
    assert validation == [*BYTES.encode("other text"), BYTES.eot_id]
    with pytest.raises(UserError, match=r"text\.txt is in data\.path and in data\.val_path"):
        module(path, tmp_path, val_path=[str(tmp_path / "*.txt")])
    (tmp_path / "link.txt").symlink_to(path)
    for name in ("link.txt", f"../{tmp_path.name}/text.txt"):
        with pytest.raises(UserError, match=r"text\.txt is in data\.path and in data\.val_path"):
            module(path, tmp_path, val_path=str(tmp_path / name))


def test_the_column_of_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,body\n1,some text here\n2,more of the text\n")
    data = module(str(tmp_path / "rows.csv"), tmp_path, column="body")
    assert sorted(map(BYTES.decode, ids(data))) == [
        "more of the text<|endoftext|>",
        "some text here<|endoftext|>",
    ]


@pytest.mark.parametrize(
    ("text", "settings", "told"),
    [
        (
            TEXT[:9],
            {},
            r"training split of .* has 9 tokens, but one window takes 10: "
            r"set model\.context_length=8 or less, .*data\.val_fraction=0\.1",
        ),
        (
            TEXT[:12],
            {"batch_size": 2},
            r"are 1 windows of 9 tokens, but one step takes 2 .*data\.batch_size=1 or less",
        ),
        (TEXT[:15], {"val_fraction": 0.05}, r"validation split of .* has 1 tokens, but needs 2"),
    ],
)
def test_a_corpus_too_short_is_named_with_numbers(
    tmp_path: Path, text: str, settings: dict[str, Any], told: str
) -> None:
    (tmp_path / "text.txt").write_text(text)
    with pytest.raises(UserError, match=told):
        module(
            str(tmp_path / "text.txt"),
            tmp_path,
            **{"context_length": 9, "batch_size": 1} | settings,
        ).train_batches()


def test_describe_is_one_line_that_tells_new_from_cached(path: str, tmp_path: Path) -> None:
    told = r"text.txt: 1 document, 0.0 MB, 360 training and 41 validation tokens (byte)"
    first, second = module(path, tmp_path), module(path, tmp_path)
    assert first.describe().endswith(f"{told}, tokenized now")
    assert second.describe().endswith(f"{told}, from the cache")
    assert "\n" not in first.describe()


@pytest.mark.parametrize(
    ("sizes", "warns"), [((30, 9000), True), ((900, 900), True), ((900,) * 10, False)]
)
def test_a_split_by_documents_that_is_far_from_the_share_is_told(
    tmp_path: Path, sizes: tuple[int, ...], warns: bool
) -> None:
    (tmp_path / "texts").mkdir()
    for number, size in enumerate(sizes):
        (tmp_path / "texts" / f"{number}.txt").write_text("a" * size)
    told = module(str(tmp_path / "texts"), tmp_path).describe()
    assert ("of the tokens, not 10.0%: give more documents, or data.val_path=FILE" in told) == warns
    assert told.count("\n") == warns


def test_where_the_split_took_it_all_a_text_that_validates_is_the_cure(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name, size in (("a", 3), ("b", 900)):
        (tmp_path / "texts" / f"{name}.txt").write_text("a" * size)
    with pytest.raises(UserError, match=r"give more documents, or data\.val_path=FILE$"):
        for seed in range(9):  # one of them draws the long one
            module(str(tmp_path / "texts"), tmp_path, split_seed=seed)


def test_runs_with_other_seeds_share_the_tokens_and_what_they_are_measured_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "texts").mkdir()
    for name in "abcdefghij":
        (tmp_path / "texts" / f"{name}.txt").write_text(name * 100)
    one, other = (module(str(tmp_path / "texts"), tmp_path, seed=seed) for seed in (1, 2))
    assert other.corpus.cached
    assert ids(other) == ids(one)
    orders = [torch.cat([b.input_ids for b in data.train_dataloader()]) for data in (one, other)]
    assert not torch.equal(*orders)
    drawn = [ids(module(str(tmp_path / "texts"), tmp_path, split_seed=n)) for n in range(9)]
    assert any(split != drawn[0] for split in drawn)


def test_a_process_that_did_not_prepare_the_data_finds_them(path: str, tmp_path: Path) -> None:
    prepared = module(path, tmp_path)
    other = TextDataModule(
        path=path, tokenizer=BYTES, cache_dir=tmp_path, context_length=8, batch_size=3, seed=1
    )
    other.setup("fit")
    assert ids(other) == ids(prepared)
    assert other.corpus.cached


def test_a_published_file_is_downloaded_where_no_path_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def download(urls: list[str], target: Path, *, sha256: str) -> Path:
        calls.append((urls, target, sha256))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(TEXT.encode()))
        return target

    fake = ModuleType("gptlit.download")
    fake.download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gptlit.download", fake)
    data = module(
        None, tmp_path, urls=["https://a", "https://b"], sha256="12", file_name="a.txt.gz"
    )
    assert calls == [(["https://a", "https://b"], tmp_path / "downloads" / "a.txt.gz", "12")]
    assert [*chain(*ids(data))] == [*BYTES.encode(TEXT), BYTES.eot_id]


def test_no_path_and_nothing_to_download_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path is not set"):
        module(None, tmp_path)


def test_the_default_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTLIT_CACHE", str(tmp_path / "here"))
    assert default_cache_dir() == tmp_path / "here"
    monkeypatch.delenv("GPTLIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "gptlit"


lightning_warns = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
)


@lightning_warns
def test_a_trainer_resumes_in_the_middle_of_an_epoch(path: str, tmp_path: Path) -> None:
    whole = record(module(path, tmp_path), TextBatch, max_steps=20)
    half = record(module(path, tmp_path), TextBatch, max_steps=7)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest = record(
        module(path, tmp_path), TextBatch, checkpoint=tmp_path / "half.ckpt", max_steps=20
    )
    assert half.seen + rest.seen == whole.seen
    assert len(whole.seen) == 20
