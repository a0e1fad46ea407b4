"""A corpus tokenized once and kept in a cache, with its split into training and validation.

A folder of the cache is named by the fingerprint of its settings and content. It holds
`manifest.json` and the files of a `TokenStream`, and has its name only when it is whole.
"""

import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache, partial
from hashlib import sha256
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gptlit.data.corpus import PIECE_CHARS, Document, Source
from gptlit.data.stream import Segment, ShardWriter, TokenStream, cut_segments
from gptlit.errors import UserError
from gptlit.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rich.progress import Progress

FORMAT = 1
SHARD_TOKENS = 2**27
MOST_THREADS = 16  # about as many as one reader can feed
SPLITS = ("train", "validation")
TRAIN, VALIDATION = 0, 1

Job = list[tuple[int, str | None]]  # a split, and a piece of text or None for a document's end


@dataclass(frozen=True)
class Split:
    """What a split holds. A document counts where it ends; its end is no character or byte."""

    documents: int
    characters: int
    bytes: int
    tokens: int
    segments: list[Segment]


@dataclass(frozen=True)
class _Settings:
    """All that the tokens depend on."""

    format: int
    tokenizer: str
    dtype: str
    seed: int
    val_fraction: float
    content: list[str]


@dataclass(frozen=True)
class TokenizedCorpus:
    """A folder of the cache. `cached` says whether it was there before it was asked for."""

    folder: Path
    dtype: np.dtype
    train: Split
    validation: Split
    cached: bool

    def stream(self, split: Split) -> TokenStream:
        """The token ids of `train` or `validation`."""
        return TokenStream(self.folder, self.dtype, split.segments)


def tokenize_corpus(
    source: Source,
    tokenizer: Tokenizer,
    cache_dir: Path,
    *,
    val_source: Source | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    show_progress: bool = True,
    shard_tokens: int = SHARD_TOKENS,
) -> TokenizedCorpus:
    """Tokenize `source` into `cache_dir`, or find it there, tokenized with the same settings.

    After each document stands the end-of-text id. `val_source`, if given, is the validation split.
    Otherwise documents are split: of each 1 / val_fraction consecutive ones, one, drawn with
    `seed`, is for validation (above one half: one is for training). A single document is split by
    position: the last `val_fraction` of its tokens are for validation.

    Two processes may call this at once: one tokenizes, the other waits. Memory stays flat.

    val_fraction: between 0 and 1, both excluded
    shard_tokens: most tokens per file

    Raises UserError for a corpus without text and for a cache that cannot be written.
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"data.val_fraction={val_fraction}: expected more than 0 and less than 1")
    sources = [source, val_source] if val_source else [source]
    settings = _Settings(
        format=FORMAT,
        tokenizer=tokenizer.name,
        dtype="uint16" if tokenizer.vocab_size <= 2**16 else "uint32",
        seed=seed,
        val_fraction=val_fraction,
        content=[each.content_hash(cache_dir) for each in sources],
    )
    fingerprint = sha256(json.dumps(asdict(settings)).encode()).hexdigest()[:32]
    folder = cache_dir / fingerprint
    if corpus := _open(folder, cached=True):
        return corpus

    from filelock import FileLock

    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / f"{fingerprint}.lock"):
            if corpus := _open(folder, cached=True):  # written while this process waited
                return corpus
            draft = cache_dir / f"{fingerprint}.tmp"
            for leftover in (draft, folder):  # of a killed run; of a cache with files missing
                shutil.rmtree(leftover, ignore_errors=True)
            draft.mkdir()
            try:
                splits = _write(
                    draft,
                    sources,
                    tokenizer,
                    settings,
                    shard_tokens=shard_tokens,
                    show_progress=show_progress,
                )
                manifest = {
                    "fingerprint": fingerprint,
                    **asdict(settings),
                    "splits": {n: asdict(s) for n, s in zip(SPLITS, splits, strict=True)},
                }
                (draft / "manifest.json").write_text(json.dumps(manifest, indent=1))
                draft.replace(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write the token cache in {cache_dir}: {error.strerror or error}; set "
            "data.cache_dir=… or the variable GPTLIT_CACHE to a folder with room"
        ) from error
    corpus = _open(folder, cached=False)
    assert corpus is not None, f"{folder} was written a moment ago"
    return corpus


def _open(folder: Path, *, cached: bool) -> TokenizedCorpus | None:
    """What is in `folder`, or None where something is missing."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        dtype = np.dtype(manifest["dtype"])
        splits = []
        for name in SPLITS:
            raw = manifest["splits"][name]
            segments = [Segment(*segment) for segment in raw.pop("segments")]
            if any((folder / s.file).stat().st_size < s.stop * dtype.itemsize for s in segments):
                return None
            splits.append(Split(**raw, segments=segments))
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return TokenizedCorpus(folder, dtype, splits[TRAIN], splits[VALIDATION], cached)


def _write(
    folder: Path,
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    settings: _Settings,
    *,
    shard_tokens: int,
    show_progress: bool,
) -> list[Split]:
    """Tokenize into files of `folder`, in threads; returns the two splits."""
    dtype = np.dtype(settings.dtype)
    share = Fraction(str(settings.val_fraction))
    writers = [ShardWriter(folder, name, shard_tokens) for name in SPLITS]
    jobs = _jobs(_assigned(sources, share, settings.seed))
    threads = min(os.cpu_count() or 1, MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool, _progress_bar(show_progress) as progress:
        bar = progress.add_task("tokenizing", total=sum(source.size for source in sources))
        encode = partial(_encode, tokenizer, dtype)
        for encoded in _in_order(pool, encode, jobs, 2 * threads):
            for writer, tokens in zip(writers, encoded, strict=True):
                writer.write(tokens)
            progress.update(bar, completed=sum(source.done for source in sources))

    segments = [writer.segments for writer in writers]
    if not any(segments):
        raise UserError(f"{sources[0].name} holds no text; set data.path=… to a corpus with some")
    if len(sources) == 1 and not all(segments):
        segments = cut_segments(segments[TRAIN] + segments[VALIDATION], share)
    return [_counted(folder, dtype, part, tokenizer) for part in segments]


def _assigned(
    sources: Sequence[Source], share: Fraction, seed: int
) -> Iterator[tuple[int, Document]]:
    """Each document with its split."""
    if len(sources) > 1:
        for split, source in enumerate(sources):
            for document in source.documents():
                yield split, document
        return
    smaller = VALIDATION if share <= Fraction(1, 2) else TRAIN
    share = min(share, 1 - share)
    documents = sources[0].documents()
    start = 0
    for number in count():  # one document of each block goes to the smaller split
        stop = math.ceil((number + 1) / share)
        block: Iterable[Document] = islice(documents, stop - start)
        size = stop - start
        if number == 0:
            # There may be fewer documents than that, and the draw must hit one of them.
            block = list(block)
            size = len(block)
            if size < 2:  # for the caller to split by position
                yield from ((TRAIN, document) for document in block)
                return
        drawn = np.random.default_rng([seed, number]).integers(size)
        read = 0
        for document in block:
            yield (smaller if read == drawn else 1 - smaller), document
            read += 1
        if read < stop - start:
            return
        start = stop


def _jobs(documents: Iterable[tuple[int, Document]]) -> Iterator[Job]:
    """The documents' pieces in order, as jobs of about PIECE_CHARS characters."""
    job: Job = []
    size = 0
    for split, document in documents:
        piece = None
        for piece in document:
            job.append((split, piece))
            size += len(piece) + 100  # an entry takes memory of its own
            if size >= PIECE_CHARS:
                yield job
                job, size = [], 0
        if piece is not None:
            job.append((split, None))
    yield job


def _encode(tokenizer: Tokenizer, dtype: np.dtype, job: Job) -> list[np.ndarray]:
    """The tokens of a job for each split."""
    end = np.array([tokenizer.eot_id], dtype)
    parts: list[list[np.ndarray]] = [[end[:0]] for _ in SPLITS]
    for split, piece in job:
        parts[split].append(end if piece is None else tokenizer.encode_to_numpy(piece))
    return [np.concatenate(part, dtype=dtype, casting="unsafe") for part in parts]


def _in_order(
    pool: ThreadPoolExecutor,
    encode: Callable[[Job], list[np.ndarray]],
    jobs: Iterable[Job],
    most: int,
) -> Iterator[list[np.ndarray]]:
    """Results in the order of `jobs`, with at most `most` jobs in memory."""
    pending: deque[Future[list[np.ndarray]]] = deque()
    for job in jobs:
        if len(pending) == most:
            yield pending.popleft().result()
        pending.append(pool.submit(encode, job))
    while pending:
        yield pending.popleft().result()


def _progress_bar(show: bool) -> "Progress":
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        disable=not (show and console.is_terminal),
    )


def _counted(folder: Path, dtype: np.dtype, segments: list[Segment], tokenizer: Tokenizer) -> Split:
    documents = total_bytes = characters = 0
    token_bytes = tokenizer.token_bytes()
    token_characters = _token_characters(tokenizer)
    n_tokens = len(TokenStream(folder, dtype, segments))
    for start in range(0, n_tokens, 1 << 20):
        # Mapped anew each time, so that the pages read so far do not add up in memory.
        stream = TokenStream(folder, dtype, segments)
        tokens = stream.read(start, min(start + (1 << 20), n_tokens))
        documents += int((tokens == tokenizer.eot_id).sum())
        total_bytes += int(token_bytes[tokens].sum())
        characters += int(token_characters[tokens].sum())
    return Split(documents, characters, total_bytes, n_tokens, segments)


@cache
def _token_characters(tokenizer: Tokenizer) -> np.ndarray:
    """How many characters begin in each token, (vocab_size,) int64; 0 for the end of text."""
    characters = np.zeros(tokenizer.vocab_size, np.int64)
    for token in range(tokenizer.vocab_size):
        characters[token] = sum(byte & 0xC0 != 0x80 for byte in tokenizer.decode_bytes([token]))
    characters[tokenizer.eot_id] = 0
    return characters
