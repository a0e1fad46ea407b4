"""The documents of a corpus as jobs for the tokenizer: pieces with their splits, and the place from
which a later run can resume."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from gptlit.data.corpus import PIECE_CHARS, Document, Source

SPLITS = ("train", "validation")
TRAIN, VALIDATION = 0, 1

Items = list[tuple[int, str | None]]  # a split, and a piece of text or None for a document's end


class Place(NamedTuple):
    """A place in the documents of several sources."""

    source: int = 0
    part: int = 0
    first: int = 0
    """How many documents of the source come before the part."""
    document: int = 0
    """Number of the document, counted from the source's first."""
    pieces: int = 0
    """How many pieces of the document come before the place."""


@dataclass(frozen=True)
class Job:
    """Pieces that are encoded together."""

    items: Items
    after: Place
    """Where the next job starts."""
    done: int
    """Bytes that the sources have read by then."""


def read_jobs(sources: Sequence[Source], share: Fraction, seed: int, start: Place) -> Iterator[Job]:
    """The pieces of all documents from `start` on, in order, as jobs of about PIECE_CHARS
    characters.

    A single source is split; of two, the first is for training and the second for validation. In a
    split, one of every 1 / share consecutive documents, drawn with `seed`, is for validation. For a
    share above one half, one of every 1 / (1 - share) is for training. A corpus of one document is
    all for training.
    """
    items: Items = []
    size = 0
    for split, piece, after in _pieces(sources, share, seed, start):
        items.append((split, piece))
        size += len(piece or "") + 100  # a list item takes memory, too
        if size >= PIECE_CHARS:
            yield Job(items, after, sum(source.done for source in sources))
            items, size = [], 0
    if items:
        yield Job(items, after, sum(source.done for source in sources))


def first_block(share: Fraction) -> int:
    """How many documents the first block has, from which one is drawn for the smaller split. In a
    corpus of fewer documents the block is shorter, so the draw depends on their number.
    """
    return math.ceil(1 / min(share, 1 - share))


def _pieces(
    sources: Sequence[Source], share: Fraction, seed: int, start: Place
) -> Iterator[tuple[int, str | None, Place]]:
    """Each piece, or end of a document, with its split and the place after it."""
    for number, source in enumerate(sources):
        if number < start.source:
            source.done = source.size
            continue
        here = start if number == start.source else Place(number)
        if len(sources) > 1:
            documents = _all_for(number, _numbered(source, here))
        else:
            documents = _drawn(source, share, seed, here)
        for split, place, document in documents:
            if place.document < here.document:
                continue  # without reading it: a text file is not even opened
            known = here.pieces if place.document == here.document else 0
            read = 0
            for read, piece in enumerate(document, 1):
                if read > known:
                    yield split, piece, place._replace(pieces=read)
            if read:
                yield split, None, place._replace(document=place.document + 1)


def _numbered(source: Source, start: Place) -> Iterator[tuple[Place, Document]]:
    """The documents with their places, from the beginning of the part that `start` is in."""
    place = start._replace(document=start.first, pieces=0)
    for document in source.documents(start.part):
        if source.part != place.part:
            place = place._replace(part=source.part, first=place.document)
        yield place, document
        place = place._replace(document=place.document + 1)


def _all_for(
    split: int, numbered: Iterable[tuple[Place, Document]]
) -> Iterator[tuple[int, Place, Document]]:
    for place, document in numbered:
        yield split, place, document


def _drawn(
    source: Source, share: Fraction, seed: int, start: Place
) -> Iterator[tuple[int, Place, Document]]:
    """Documents with their splits, from the beginning of the part with `start`, or earlier."""
    smaller = VALIDATION if share <= Fraction(1, 2) else TRAIN
    block = first_block(share)
    from_start = start.first < block
    documents = _numbered(source, Place(start.source) if from_start else start)
    head = deque(islice(documents, block) if from_start else ())
    draw = _Draw(min(share, 1 - share), seed, len(head))
    if from_start and len(head) < 2:
        yield from _all_for(TRAIN, head)
        return
    for place, document in chain(_popped(head), documents):
        yield (smaller if draw.hits(place.document) else 1 - smaller), place, document


def _popped(head: deque[tuple[Place, Document]]) -> Iterator[tuple[Place, Document]]:
    while head:
        yield head.popleft()


class _Draw:
    """Draws one document of each block of 1 / share; the first block has `first` documents."""

    def __init__(self, share: Fraction, seed: int, first: int) -> None:
        self._share, self._seed, self._first = share, seed, first
        self._start = self._stop = 0
        self._hit = -1

    def hits(self, document: int) -> bool:
        """Whether the document is the one drawn from its block."""
        if not self._start <= document < self._stop:
            block = math.floor(document * self._share)
            self._start = math.ceil(block / self._share)
            self._stop = math.ceil((block + 1) / self._share)
            size = self._stop - self._start if block else self._first
            drawn = np.random.default_rng([self._seed, block]).integers(size)
            self._hit = self._start + int(drawn)
        return document == self._hit
