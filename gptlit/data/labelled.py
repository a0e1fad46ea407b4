"""Texts with classes, for a classifier: read, split, tokenized and batched."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gptlit.data.batch import LabelledBatch
from gptlit.data.buckets import BucketLoader, SortedLoader
from gptlit.data.labelled_files import Columns, LabelledTable, read_labelled_table
from gptlit.data.labelled_saved import content_of, saved_splits
from gptlit.data.labelled_splits import SPLITS, Balance, Splits, SplitSettings
from gptlit.data.module import (
    SPLIT_KEYS,
    OnChange,
    ResumableDataModule,
    require_choice,
    require_different,
)
from gptlit.errors import UserError, visible_line
from gptlit.files import default_cache_dir
from gptlit.tokenizer import Tokenizer, get_tokenizer


@dataclass(frozen=True)
class LabelledSplit:
    """The texts of a split."""

    texts: list[str]
    labels: np.ndarray
    """(texts,) int64, the classes."""
    ids: list[np.ndarray]
    """The token ids of each text, uint32: at least one, and at most `context_length`."""
    n_cut: int
    """How many texts had more tokens than that, and were cut."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, (texts,) int64."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)


class LabelledDataset:
    """Batches of a split's texts, as the loaders ask for them."""

    def __init__(self, split: LabelledSplit, pad_id: int) -> None:
        self._ids, self._labels = split.ids, split.labels
        self._pad_id = pad_id

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, rows: np.ndarray) -> LabelledBatch:
        """The batch of `rows`, (batch,) int64; time is the length of the longest text."""
        chosen = [self._ids[row] for row in rows.tolist()]
        lengths = np.array([len(ids) for ids in chosen], dtype=np.int64)
        padded = np.full((len(chosen), lengths.max(initial=1)), self._pad_id, dtype=np.int64)
        for row, ids in zip(padded, chosen, strict=True):
            row[: len(ids)] = ids
        arrays = padded, lengths, self._labels[rows], rows.astype(np.int64)
        return LabelledBatch(*map(torch.from_numpy, arrays))


class LabelledDataModule(ResumableDataModule):
    """Texts of a table, each with a label, for training, validation and a test.

    tokenizer: encodes the texts, or the name of one that does; its end-of-text id pads batches
    context_length: most tokens per text; longer texts are cut
    seed: of the draw that balances classes, of the splits and of the order of the batches
    batch_size: texts per process and micro-batch
    path: a table to train on, see `labelled_files.read_labelled_table`; it is split, see
        `labelled_splits.make_splits`
    text_column, label_column: the columns with the texts and their labels
    val_path, test_path: tables to validate and to test on, rather than a part of `path`
    balance: "undersample" drops rows of `path` until all classes have equally many, "weights" keeps
        all rows and gives `class_weights` instead, "none" does neither
    deduplicate: keep only the first of rows with the same text
    val_fraction, test_fraction: shares of the rows of `path` that are left after that
    num_workers: processes that read batches ahead; reading is fast enough without
    cache_dir: for downloads and splits, see `files.default_cache_dir`
    eval_batch_size: texts per process and batch in evaluation; None: four times `batch_size`
    bucket: put texts of similar length into a batch, see `BucketLoader`
    splits_dir: where splits are saved and found again, see `labelled_saved.saved_splits`; None: a
        folder of `cache_dir`
    on_change: see `ResumableDataModule`

    After `setup`, which the loaders call if need be: `labels`, the names of the classes, and
    `splits`, by the names "train", "validation" and "test".

    `prepare_data`, `setup` and what they call raise UserError for a table that cannot be read or
    split.
    """

    labels: list[str]
    splits: dict[str, LabelledSplit]

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | str,
        context_length: int,
        seed: int,
        batch_size: int,
        path: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        val_path: str | None = None,
        test_path: str | None = None,
        balance: Balance = "none",
        deduplicate: bool = True,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        num_workers: int = 0,
        cache_dir: str | Path | None = None,
        eval_batch_size: int | None = None,
        bucket: bool = True,
        splits_dir: str | Path | None = None,
        on_change: OnChange = "refuse",
    ) -> None:
        super().__init__(on_change)
        self._require_sizes(context_length, seed, batch_size, eval_batch_size)
        require_choice("data.balance", balance, Balance)
        self.tokenizer = get_tokenizer(tokenizer)
        self.context_length = context_length
        self.batch_size = batch_size
        self.paths = {"train": path, "validation": val_path, "test": test_path}
        self.columns = Columns(text_column, label_column)
        self.settings = SplitSettings(seed, balance, deduplicate, val_fraction, test_fraction)
        self.num_workers = num_workers
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self.eval_batch_size = eval_batch_size or 4 * batch_size
        self.bucket = bucket
        self.splits_dir = Path(splits_dir).expanduser() if splits_dir else None
        self.labels = []
        self.splits = {}
        self._rows: Splits | None = None

    def default_table(self) -> LabelledTable:
        """The rows if no path is set; subclasses override this for other data."""
        raise UserError("data.path is not set; set it to a table with a text and a label per row")

    def read(self, path: str, key: str) -> LabelledTable:
        """The rows of a file, named by the config's `key`; subclasses may read other kinds."""
        return read_labelled_table(path, self.columns, key)

    def prepare_data(self) -> None:
        """Read the rows and split them, or find the splits where they were saved."""
        if self._rows is not None:
            return
        given = {} if self.paths["train"] is not None else {"train": self.default_table()}
        require_different(self.paths)
        for split, path in self.paths.items():
            if path is not None:
                given[split] = self.read(path, SPLIT_KEYS[split])
        self._rows = saved_splits(given, self.settings, self.cache_dir / "splits", self.splits_dir)
        self._identify(rows=content_of(self._rows.tables))

    def setup(self, stage: str) -> None:
        """Tokenize the splits, once for all stages."""
        if self.splits:
            return
        self.prepare_data()
        assert self._rows is not None
        self.labels = self._rows.classes
        for name in SPLITS:
            self.splits[name] = self._tokenized(self._rows.tables[name])

    def _tokenized(self, table: LabelledTable) -> LabelledSplit:
        number = {name: index for index, name in enumerate(self.labels)}
        labels = np.array([number[label] for label in table.labels], dtype=np.int64)
        ids, n_cut = [], 0
        for text in table.texts:
            tokens = self.tokenizer.encode_nonempty(text)
            n_cut += len(tokens) > self.context_length
            ids.append(tokens[: self.context_length].copy())  # so that the rest is freed
        return LabelledSplit(table.texts, labels, ids, n_cut)

    def for_task(self) -> dict[str, object]:
        """What the task has to know, and keeps in its checkpoints."""
        self.setup("fit")
        return {"labels": self.labels, "class_weights": self.class_weights()}

    def final_loaders(self) -> dict[str, SortedLoader]:
        """All splits, by name, to measure once training is over."""
        return {split: self.eval_loader(split) for split in self.splits}

    def class_weights(self) -> list[float] | None:
        """The weight of each class in the loss, or None unless balance is "weights".

        It is n / (classes · count) for n training texts, so that their average weight is 1.
        """
        if self.settings.balance != "weights":
            return None
        self.setup("fit")
        counts = np.bincount(self.splits["train"].labels, minlength=len(self.labels))
        weights: list[float] = (counts.sum() / (len(self.labels) * counts)).tolist()
        return weights

    def _train_loader(self, rank: int, world_size: int) -> BucketLoader:
        self.setup("fit")
        split = self.splits["train"]
        return BucketLoader(
            LabelledDataset(split, self.tokenizer.eot_id),
            self.batch_size,
            self.settings.seed,
            split.lengths,
            bucket=self.bucket,
            what="texts",
            **self._reading(rank, world_size),
        )

    def eval_loader(self, split_name: str) -> SortedLoader:
        """Every text of a split exactly once, shortest first, shared by the processes."""
        self.setup("fit")
        split = self.splits[split_name]
        return SortedLoader(
            LabelledDataset(split, self.tokenizer.eot_id),
            self.eval_batch_size,
            split.lengths,
            what=f"{split_name} texts",
            **self._reading(*self._place()),
        )

    def val_dataloader(self) -> SortedLoader:
        """`eval_loader` of the validation split."""
        return self.eval_loader("validation")

    def test_dataloader(self) -> SortedLoader:
        """`eval_loader` of the test split."""
        return self.eval_loader("test")

    def describe(self) -> str:
        """The data in one line."""
        assert self._rows is not None
        counts, tables = self._rows.counts, self._rows.tables
        parts = [f"{counts.rows:,} rows"]
        if counts.duplicates:
            several = "s" if counts.duplicates > 1 else ""
            parts.append(f"{counts.duplicates:,} duplicate{several} removed")
            if counts.conflicts:
                parts[-1] += f" ({counts.conflicts:,} had another label)"
        if counts.left_out:
            parts.append(f"{counts.left_out:,} left out to balance the classes")
        total = Counter(label for table in tables.values() for label in table.labels)
        told = self.labels if len(self.labels) <= 9 else self.labels[:8]
        classes = [f"{total[label]:,} {visible_line(label)}" for label in told]
        if len(told) < len(self.labels):
            classes.append(f"{len(self.labels) - len(told)} more classes")
        sizes = ", ".join(f"{len(tables[name].texts):,} {name}" for name in SPLITS)
        line = f"{tables['train'].name}: {', '.join(parts)}; {' + '.join(classes)}; {sizes}"
        if cut := sum(split.n_cut for split in self.splits.values()):
            line += f"; {cut:,} cut to {self.context_length} tokens ({self.tokenizer.name})"
        return line
