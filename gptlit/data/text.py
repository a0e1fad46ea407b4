"""Running text for pretraining: windows of a tokenized corpus."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gptlit.data.batch import IGNORE_INDEX, TextBatch
from gptlit.data.corpus import Source, TextFiles
from gptlit.data.module import OnChange, ResumableDataModule
from gptlit.data.prepared import is_prepared, open_prepared
from gptlit.data.sampler import ResumableLoader, SequentialLoader
from gptlit.data.shards import TokenizedCorpus
from gptlit.data.stream import TokenStream
from gptlit.data.tokenizing import tokenize_corpus
from gptlit.errors import UserError
from gptlit.files import default_cache_dir, download_target
from gptlit.tokenizer import Tokenizer, get_tokenizer


class Windows:
    """Windows of `context_length` inputs, one after another, with the tokens after them as targets.

    With `partial`, every token but the first is a target of exactly one window: the last window is
    padded with `pad_id`, which is no target, and windows past the end are all padding. Without it,
    tokens that do not fill a window are left out.

    Raises UserError for a token that the vocabulary lacks: its file is damaged.
    """

    def __init__(
        self,
        stream: TokenStream,
        context_length: int,
        pad_id: int,
        vocab_size: int,
        *,
        partial: bool,
    ) -> None:
        self._stream = stream
        self._context_length = context_length
        self._pad_id = pad_id
        self._vocab_size = vocab_size
        self._partial = partial

    def __len__(self) -> int:
        whole, rest = divmod(max(len(self._stream) - 1, 0), self._context_length)
        return whole + (self._partial and rest > 0)

    def __getitem__(self, windows: np.ndarray) -> TextBatch:
        """The batch of `windows`, (batch,) int64; time is context_length."""
        size = self._context_length + 1
        ids = np.empty((len(windows), size), dtype=np.int64)
        short: list[tuple[int, int]] = []
        for index, window in enumerate(windows.tolist()):
            start = window * self._context_length
            there = len(self._stream) - start
            if there >= size:
                self._stream.read_into(start, ids[index])
            else:
                there = max(there, 0)
                self._stream.read_into(len(self._stream) - there, ids[index, :there])
                ids[index, there:] = self._pad_id
                short.append((index, there))
        if (largest := int(ids.max())) >= self._vocab_size:
            raise UserError(
                f"{self._stream.folder} holds the token {largest}, and the tokenizer has"
                f" {self._vocab_size}: a file in it is damaged; delete the folder, or prepare it"
                " again"
            )
        targets = ids[:, 1:].copy()
        for index, there in short:
            targets[index, max(there - 1, 0) :] = IGNORE_INDEX
        return TextBatch(torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(targets))


class TextDataModule(ResumableDataModule):
    """Windows of a text corpus, tokenized once into a cache.

    tokenizer: encodes the text, or the name of one that does; its end-of-text id follows each
        document
    context_length: tokens per window
    batch_size: windows per process and micro-batch
    seed: of the order of the windows
    split_seed: of the draw of documents for validation; it is not the run's seed, so that runs
        with different seeds have the same tokens and are measured on the same text
    path: a file, a folder, a glob or a list of these, see `corpus.TextFiles`, or the folder of a
        corpus that was tokenized and split ahead, see `prepared`; without it, the file
        published at `urls` (mirrors) is downloaded as `file_name`, and checked with `sha256`
    column: the field of a .jsonl, .csv or .parquet row that holds its text
    val_fraction, val_path: what is for validation, see `tokenizing.tokenize_corpus`
    cache_dir: for downloads and tokenized corpora, see `default_cache_dir`
    num_workers: processes that read batches ahead; reading is fast enough without
    on_change: see `ResumableDataModule`

    `prepare_data`, `setup` and what they call raise UserError for a corpus that cannot be read,
    and for splits that are too short.
    """

    batches_at_start = 16
    """Most batches of a validation before the first step: an untrained model needs no more."""

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | str,
        context_length: int,
        batch_size: int,
        seed: int,
        path: str | Path | Sequence[str | Path] | None = None,
        column: str = "text",
        val_fraction: float = 0.1,
        val_path: str | Path | Sequence[str | Path] | None = None,
        split_seed: int = 1337,
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        urls: Sequence[str] | None = None,
        sha256: str | None = None,
        file_name: str | None = None,
        on_change: OnChange = "refuse",
    ) -> None:
        super().__init__(on_change)
        self._require_sizes(context_length, seed, batch_size, None)
        self.tokenizer = get_tokenizer(tokenizer)
        self.context_length = context_length
        self.batch_size = batch_size
        self.seed = seed
        self.path = _names(path)
        self.column = column
        self.val_fraction = val_fraction
        self.val_path = _names(val_path)
        self.split_seed = split_seed
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self.num_workers = num_workers
        self.urls = urls
        self.sha256 = sha256
        self.file_name = file_name
        self._corpus: TokenizedCorpus | None = None
        self._name = ""

    def default_source(self) -> Source:
        """The documents to read if no path is set; subclasses override this for other text."""
        if not (self.urls and self.file_name):
            raise UserError("data.path is not set; set it to a text file, a folder or a glob")
        from gptlit.download import download

        target = download_target(self.file_name, self.cache_dir)
        return TextFiles(str(download(self.urls, target, sha256=self.sha256)), self.column)

    def _sources(self) -> tuple[Source, Source | None]:
        """Documents to train on, and those to validate on if they are separate."""
        given = TextFiles(self.path, self.column) if self.path is not None else None
        source = given or self.default_source()
        if self.val_path is None:
            return source, None
        val_source = TextFiles(self.val_path, self.column, key="data.val_path")
        if given and (both := given.files.keys() & val_source.files.keys()):
            raise UserError(
                f"{min(both)} is in data.path and in data.val_path; "
                "a file is for training or for validation, leave it out of one of them"
            )
        return source, val_source

    def prepare_data(self) -> None:
        """Tokenize the corpus, unless the cache holds it or it has been prepared. Only the first
        call does: the Trainer calls again, and by then the files may hold other text."""
        if self._corpus is not None:
            return
        if is_prepared(self.path):
            self._open_prepared(self.path)
            return
        source, val_source = self._sources()
        self._name = source.name
        self._corpus = tokenize_corpus(
            source,
            self.tokenizer,
            self.cache_dir / "corpora",
            val_source=val_source,
            val_fraction=self.val_fraction,
            seed=self.split_seed,
            check=lambda identity: self._identify(**identity),
        )

    def _open_prepared(self, path: str) -> None:
        self._name = path
        if self.val_path is not None:
            raise UserError(
                f"data.path={path} was prepared with its validation text: leave "
                "data.val_path=... out, or give val_input=... to python scripts/prepare_corpus.py"
            )
        self._corpus = open_prepared(path, self.tokenizer)
        self.val_fraction = self._corpus.settings.val_fraction
        self._identify(**self._corpus.settings.identity)

    def setup(self, stage: str) -> None:
        """Open the tokenized corpus, the same for all stages."""
        corpus = self.corpus
        if corpus.train.tokens <= self.context_length:
            raise UserError(
                f"the training split of {self._name} has {corpus.train.tokens} tokens, but one "
                f"window takes {self.context_length + 1}: set model.context_length="
                f"{max(corpus.train.tokens - 1, 1)} or less, {self._more('lower')}"
            )
        if corpus.validation.tokens < 2:
            raise UserError(
                f"the validation split of {self._name} has {corpus.validation.tokens} tokens, but "
                f"needs 2: {self._more('raise')}"
            )

    def _more(self, change: str) -> str:
        """How to get more text into a split; `change` is what to do to the validation share."""
        if not self.corpus.settings.one_source:
            return "give more text"
        if self.corpus.lopsided(self._val_text()):
            return f"give more documents, or {self._val_text()}"
        share = f"val_fraction={self.val_fraction}"
        if is_prepared(self.path):
            return f"give more text, or {change} {share} of python scripts/prepare_corpus.py"
        return f"give more text, or {change} data.{share}"

    def _val_text(self) -> str:
        """The setting that gives separate validation text."""
        if is_prepared(self.path):
            return "val_input=FILE of python scripts/prepare_corpus.py"
        return "data.val_path=FILE"

    @property
    def corpus(self) -> TokenizedCorpus:
        """The tokenized corpus; made on first use by a process that did not prepare the data."""
        if self._corpus is None:
            self.prepare_data()
        assert self._corpus is not None
        return self._corpus

    def _train_loader(self, rank: int, world_size: int) -> ResumableLoader:
        return ResumableLoader(
            self._windows(train=True),
            self.batch_size,
            self.seed,
            what=f"windows of {self.context_length} tokens",
            **self._reading(rank, world_size),
        )

    def val_dataloader(self) -> SequentialLoader:
        """Windows in order; every token of the split but the first is a target exactly once."""
        windows, reading = self._windows(train=False), self._reading(*self._place())
        return SequentialLoader(windows, self.batch_size, **reading)

    def describe(self) -> str:
        """The corpus in one line; a second one warns of an odd split."""
        size = f"{self._name}: {self.corpus.describe()}, {self._origin()}"
        lines = (size, self.corpus.lopsided(self._val_text()))
        return "\n".join(filter(None, lines))

    def _origin(self) -> str:
        if is_prepared(self.path):
            if not self.corpus.settings.one_source:
                return "prepared with its own validation text"
            return f"prepared, {self.corpus.validation_share:.2g} of it for validation"
        return "from the cache" if self.corpus.cached else "tokenized now"

    def _windows(self, *, train: bool) -> Windows:
        split = self.corpus.train if train else self.corpus.validation
        stream = self.corpus.stream(split)
        ids = self.tokenizer.eot_id, self.tokenizer.vocab_size
        return Windows(stream, self.context_length, *ids, partial=not train)


def _names(path: str | Path | Sequence[str | Path] | None) -> str | Sequence[str] | None:
    """Paths as text, as the config has them."""
    if isinstance(path, list | tuple):
        return [str(one) for one in path]
    # A config may hold what is no path: that is refused, with its key, when it is looked for.
    return str(path) if isinstance(path, Path) else path  # type: ignore[return-value]
