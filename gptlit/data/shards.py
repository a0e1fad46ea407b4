"""A tokenized corpus on disk: a folder with `manifest.json`, with `sources.ndjson`, which names
what it was made of, and with the files of a `TokenStream` for each split.

A folder gets its final name only once it is complete.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gptlit.data.corpus import file_sha256
from gptlit.data.encoder import Counts
from gptlit.data.jobs import SPLITS, TRAIN, VALIDATION
from gptlit.data.stream import Segment, TokenStream
from gptlit.files import read_object
from gptlit.tokenizer import Tokenizer

FORMAT = 2
KIND = "gptlit tokenized corpus"
MANIFEST = "manifest.json"
MOST_OFF = 3
"""How many times more or fewer validation tokens than asked for are not worth a warning."""


@dataclass(frozen=True)
class Split:
    """A split. A document is counted where it ends; its end-of-text is no character or byte."""

    documents: int
    characters: int
    bytes: int
    tokens: int
    segments: list[Segment]


@dataclass(frozen=True)
class Settings:
    """All that the tokens depend on."""

    format: int
    tokenizer: str
    dtype: str
    seed: int
    val_fraction: float
    content: list[str]
    """A digest of the documents of each source."""

    @property
    def identity(self) -> dict[str, Any]:
        """By name, what must be unchanged for a run to resume with the same data."""
        drawn = {"split_seed": self.seed, "val_fraction": self.val_fraction}
        return {"text": self.content, **(drawn if self.one_source else {})}

    @property
    def one_source(self) -> bool:
        """Whether the validation text is a share of the only source, not a source of its own."""
        return len(self.content) == 1


@dataclass(frozen=True)
class TokenizedCorpus:
    """A folder with a tokenized corpus. `cached` says whether it existed before it was asked
    for."""

    folder: Path
    settings: Settings
    train: Split
    validation: Split
    cached: bool

    @property
    def dtype(self) -> np.dtype:
        """The type of the ids on disk."""
        return np.dtype(self.settings.dtype)

    @property
    def documents(self) -> int:
        """How many documents both splits have."""
        return self.train.documents + self.validation.documents

    @property
    def validation_share(self) -> float:
        """The share of the tokens that are for validation."""
        return self.validation.tokens / (self.train.tokens + self.validation.tokens)

    def describe(self) -> str:
        """Its size in one line."""
        return (
            f"{self.documents:,} document{'s' * (self.documents != 1)}, "
            f"{(self.train.bytes + self.validation.bytes) / 1e6:,.1f} MB, "
            f"{self.train.tokens:,} training and {self.validation.tokens:,} validation tokens "
            f"({self.settings.tokenizer})"
        )

    def lopsided(self, cure: str) -> str:
        """A warning if the documents drawn for validation, being few or of very different
        lengths, have a far larger or smaller share of the tokens than was asked for; else "".
        `cure` is the setting that gives separate validation text."""
        wanted, got = self.settings.val_fraction, self.validation_share
        drawn = self.settings.one_source and self.documents > 1
        if not drawn or wanted / MOST_OFF <= got <= wanted * MOST_OFF:
            return ""
        return (
            f"warning: whole documents were drawn for validation, with {got:.1%} of the tokens, not"
            f" {wanted:.1%}: give more documents, or {cure}"
        )

    def stream(self, split: Split) -> TokenStream:
        """The token ids of `train` or `validation`."""
        return TokenStream(self.folder, self.dtype, split.segments)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, of any format, or None if there is none of ours."""
    manifest = read_object(folder / MANIFEST)
    return manifest if manifest is not None and manifest.get("kind") == KIND else None


def open_corpus(folder: Path, *, cached: bool = True) -> TokenizedCorpus | None:
    """The corpus in `folder`, or None if something is missing, cut short or does not fit."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("format") != FORMAT:
        return None
    try:
        settings = Settings(**{name: manifest[name] for name in Settings.__dataclass_fields__})
        if damaged_shards(folder, manifest) or settings.dtype not in ("uint16", "uint32"):
            return None
        width = np.dtype(settings.dtype).itemsize
        tokens = {shard["file"]: shard["bytes"] // width for shard in manifest["shards"]}
        splits = []
        for name in SPLITS:
            raw = manifest["splits"][name]
            segments = [Segment(*segment) for segment in raw.pop("segments")]
            splits.append(Split(**raw, segments=segments))
            if not (_fits(splits[-1], tokens) and {type(size) for size in raw.values()} == {int}):
                return None
    except (OSError, LookupError, TypeError, ValueError, AttributeError):
        return None
    return TokenizedCorpus(folder, settings, splits[TRAIN], splits[VALIDATION], cached)


def _fits(split: Split, tokens: dict[str, int]) -> bool:
    """Whether the segments are in files of so many `tokens`, and as long as the split."""
    inside = all(
        type(start) is type(stop) is int and 0 <= start <= stop <= tokens[file]
        for file, start, stop in split.segments
    )
    return inside and split.tokens == sum(stop - start for _, start, stop in split.segments)


def damaged_shards(folder: Path, manifest: dict[str, Any], *, deep: bool = False) -> list[str]:
    """The files that are missing or have another size, or, if `deep`, another content."""

    def is_damaged(shard: dict[str, Any]) -> bool:
        file = folder / shard["file"]
        if not file.is_file() or file.stat().st_size != shard["bytes"]:
            return True
        return deep and file_sha256(file) != shard["sha256"]

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(is_damaged, manifest["shards"]))
    return [s["file"] for s, damaged in zip(manifest["shards"], found, strict=True) if damaged]


def manifest_of(
    settings: Settings,
    fingerprint: str,
    tokenizer: Tokenizer,
    splits: Sequence[Split],
    shards: Sequence[dict[str, Any]],
    sources: dict[str, Any],
) -> dict[str, Any]:
    """What `manifest.json` holds.

    shards: each file with its tokens, bytes and SHA-256
    sources: how many files and bytes the corpus was made of, and where they are listed
    """
    return {
        "kind": KIND,
        "fingerprint": fingerprint,
        **asdict(settings),
        "vocab_size": tokenizer.vocab_size,
        "documents": sum(split.documents for split in splits),
        "sources": sources,
        "splits": {name: asdict(split) for name, split in zip(SPLITS, splits, strict=True)},
        "shards": list(shards),
    }


def counts_of(
    folder: Path, dtype: np.dtype, segments: list[Segment], tokenizer: Tokenizer
) -> Counts:
    """The size of `segments`, counted from their tokens: a character counts where it begins."""
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
    return Counts(documents, characters, total_bytes, n_tokens)


@cache
def _token_characters(tokenizer: Tokenizer) -> np.ndarray:
    """How many characters begin in each token, (vocab_size,) int64; 0 for the end of text."""
    characters = np.zeros(tokenizer.vocab_size, np.int64)
    for token in range(tokenizer.vocab_size):
        characters[token] = sum(byte & 0xC0 != 0x80 for byte in tokenizer.decode_bytes([token]))
    characters[tokenizer.eot_id] = 0
    return characters
