"""From the documents of a corpus to the folder of its shards, in one go or in several."""

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gptlit.data.bytebar import ByteBar
from gptlit.data.corpus import Source, file_sha256
from gptlit.data.encoder import Counts, encode_in_order
from gptlit.data.jobs import SPLITS, TRAIN, VALIDATION, first_block, read_jobs
from gptlit.data.journal import SOURCES, Journal, Layout, Point
from gptlit.data.shards import (
    FORMAT,
    MANIFEST,
    Settings,
    Split,
    TokenizedCorpus,
    counts_of,
    manifest_of,
    open_corpus,
)
from gptlit.data.stream import Segment, ShardWriter, cut_segments
from gptlit.errors import UserError
from gptlit.tokenizer import Tokenizer

SHARD_TOKENS = 2**27


class Plan:
    """A corpus to be tokenized. An end-of-text id follows each document.

    The second of `sources`, if there are two, is the validation split. Otherwise documents are
    split, see `jobs.read_jobs`. A single document is split by position: the last `val_fraction` of
    its tokens are for validation.

    Making a plan reads all sources once, to take the hashes of their content.

    memo_dir: where hashes of files are kept, so that unchanged files are not read for them again;
        None: nowhere
    val_fraction: between 0 and 1, both excluded
    shard_tokens: most tokens per file
    workers: see `encoder.encode_in_order`

    Raises UserError for a fraction out of range.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        memo_dir: Path | None = None,
        *,
        val_fraction: float,
        seed: int,
        bar: ByteBar,
        shard_tokens: int = SHARD_TOKENS,
        workers: int | None = None,
    ) -> None:
        if not 0 < val_fraction < 1:
            raise UserError(
                f"data.val_fraction={val_fraction}: expected more than 0 and less than 1"
            )
        self.sources, self.tokenizer = sources, tokenizer
        self.size = sum(source.size for source in sources)
        self._shard_tokens, self._workers, self._bar = shard_tokens, workers, bar
        self._share = Fraction(str(val_fraction))
        bar.start("checking", self.size)
        self.parts = [source.parts(memo_dir, bar.advance) for source in sources]
        contents = [[(part.sha256, part.form) for part in parts] for parts in self.parts]
        self.settings = Settings(
            format=FORMAT,
            tokenizer=tokenizer.name,
            dtype="uint16" if tokenizer.vocab_size <= 2**16 else "uint32",
            seed=seed,
            val_fraction=val_fraction,
            content=[_digest(content) for content in contents],
        )
        self.fingerprint = _digest(asdict(self.settings))

    def journal(self, draft: Path) -> Journal:
        """The notes on this corpus in the folder `draft`, which is made if it does not exist."""
        settings = {n: v for n, v in asdict(self.settings).items() if n != "content"}
        drawn = len(self.sources) == 1
        layout = Layout(
            settings | {"sources": len(self.sources)},
            self._shard_tokens,
            np.dtype(self.settings.dtype).itemsize,
            first_block(self._share) if drawn else 0,
        )
        return Journal(draft, layout, self.parts)

    def write(self, draft: Path, journal: Journal) -> None:
        """Fill the folder `draft`, resuming at the last point of its journal, in constant memory.

        Raises UserError for a corpus without text. After an error the folder stays if its journal
        has a point to resume from; otherwise it is deleted.
        """
        try:
            writers, counts = self._write_shards(draft, journal)
            self._finish(draft, writers, counts)
        except BaseException:
            if not journal.point.done:
                shutil.rmtree(draft, ignore_errors=True)
            raise
        journal.close()

    def _write_shards(
        self, draft: Path, journal: Journal
    ) -> tuple[list[ShardWriter], tuple[Counts, ...]]:
        dtype = np.dtype(self.settings.dtype)
        place, counts, done = journal.point
        writers = [
            ShardWriter(draft, name, self._shard_tokens, dtype, there.tokens)
            for name, there in zip(SPLITS, counts, strict=True)
        ]
        self._bar.start("tokenizing", self.size, done)
        jobs = read_jobs(self.sources, self._share, self.settings.seed, place)
        encoded = encode_in_order(jobs, self.tokenizer, dtype, self.size - done, self._workers)
        for job, splits in encoded:
            for writer, split in zip(writers, splits, strict=True):
                writer.write(split.ids)
            counts = tuple(a.plus(b.counts) for a, b in zip(counts, splits, strict=True))
            if journal.due():
                for writer in writers:
                    writer.sync()
                journal.note(Point(job.after, counts, job.done))
            self._bar.reach(job.done)
        for writer in writers:
            writer.sync()
        return writers, counts

    def _finish(self, draft: Path, writers: list[ShardWriter], counts: tuple[Counts, ...]) -> None:
        """Write the manifest."""
        segments = [writer.segments for writer in writers]
        shards = [segment for part in segments for segment in part]
        if not shards:
            raise UserError(f"{self.sources[0].name} holds no text; give a corpus with some")
        if len(self.sources) == 1 and not all(segments):
            segments, counts = self._cut(draft, shards, counts)
        splits = [
            Split(*there, segments=part) for there, part in zip(counts, segments, strict=True)
        ]
        names = {"list": SOURCES, "files": sum(map(len, self.parts)), "bytes": self.size}
        with ThreadPoolExecutor() as pool:
            described = list(pool.map(lambda shard: _described(draft, shard), shards))
        manifest = manifest_of(
            self.settings, self.fingerprint, self.tokenizer, splits, described, names
        )
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))

    def _cut(
        self, draft: Path, shards: list[Segment], counts: tuple[Counts, ...]
    ) -> tuple[list[list[Segment]], tuple[Counts, ...]]:
        """Segments and counts of both splits of a single document, which is split by position."""
        segments = cut_segments(shards, self._share)
        dtype = np.dtype(self.settings.dtype)
        after = counts_of(draft, dtype, segments[VALIDATION], self.tokenizer)
        both = zip(counts[TRAIN].plus(counts[VALIDATION]), after, strict=True)
        return segments, (Counts(*(total - part for total, part in both)), after)


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
    check: Callable[[dict[str, Any]], None] = lambda _: None,
) -> TokenizedCorpus:
    """Tokenize `source` into `cache_dir`, or find it there, tokenized with the same settings.

    Two processes may call this at once: one tokenizes, the other waits. If a call is killed, the
    next one resumes its work.

    val_source, val_fraction, seed, shard_tokens: see `Plan`
    check: called with the corpus's `Settings.identity` before any work is done

    Raises UserError as `Plan` does, and for a cache that cannot be written.
    """
    sources = [source, val_source] if val_source else [source]
    with ByteBar(bar=show_progress) as bar:
        plan = Plan(
            sources,
            tokenizer,
            cache_dir,
            val_fraction=val_fraction,
            seed=seed,
            bar=bar,
            shard_tokens=shard_tokens,
        )
        check(plan.settings.identity)
        folder = cache_dir / plan.fingerprint
        if corpus := open_corpus(folder):
            return corpus

        from filelock import FileLock

        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with FileLock(cache_dir / f"{plan.fingerprint}.lock"):
                if corpus := open_corpus(folder):  # written while this process waited
                    return corpus
                shutil.rmtree(folder, ignore_errors=True)  # files are missing in it
                draft = cache_dir / f"{plan.fingerprint}.tmp"
                plan.write(draft, plan.journal(draft))
                draft.replace(folder)
        except OSError as error:
            raise UserError(
                f"cannot write the token cache in {cache_dir}: {error.strerror or error}; set "
                "data.cache_dir=… or the variable GPTLIT_CACHE to a folder with room"
            ) from error
    corpus = open_corpus(folder, cached=False)
    assert corpus is not None, f"{folder} was written a moment ago"
    return corpus


def _digest(content: object) -> str:
    return sha256(json.dumps(content).encode()).hexdigest()[:32]


def _described(folder: Path, shard: Segment) -> dict[str, Any]:
    file = folder / shard.file
    return {
        "file": shard.file,
        "tokens": shard.stop,
        "bytes": file.stat().st_size,
        "sha256": file_sha256(file),
    }
