"""Token ids on disk: raw files written one after another, mapped and read as one sequence."""

import os
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Segment(NamedTuple):
    """Tokens `start` to `stop` of a file."""

    file: str
    start: int
    stop: int


class TokenStream:
    """The token ids of `segments` of files in `folder`, as one sequence.

    Pickles as paths: a worker process maps the files again.
    """

    def __init__(self, folder: Path, dtype: np.dtype, segments: Sequence[Segment]) -> None:
        self.folder = folder
        self._dtype = dtype
        self._segments = segments
        self._starts = [0]
        for segment in segments:
            self._starts.append(self._starts[-1] + segment.stop - segment.start)

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        return [
            # A plain array: np.memmap's own indexing costs several times as much.
            np.asarray(np.memmap(self.folder / file, self._dtype, mode="r")[start:stop])
            for file, start, stop in self._segments
        ]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_parts"}

    def __len__(self) -> int:
        return self._starts[-1]

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Fill `out`, (tokens,) of an integer type, with the ids from `start` on.

        Raises IndexError if the stream has fewer.
        """
        if not 0 <= start <= start + len(out) <= len(self):
            raise IndexError(f"tokens {start} to {start + len(out)} of a stream of {len(self)}")
        filled = 0
        part = bisect_right(self._starts, start) - 1
        while filled < len(out):
            offset = start + filled - self._starts[part]
            ids = self._parts[part][offset : offset + len(out) - filled]
            out[filled : filled + len(ids)] = ids
            filled += len(ids)
            part += 1

    def read(self, start: int, stop: int) -> np.ndarray:
        """The ids from `start` to `stop`, (stop - start,) int64. Raises IndexError past the end."""
        out = np.empty(stop - start, dtype=np.int64)
        self.read_into(start, out)
        return out


class ShardWriter:
    """Writes tokens to files `NAME-00000.bin` and so on of at most `shard_tokens` tokens each.

    `segments` says what has been written.

    written: tokens of an earlier writer to continue after; what it wrote beyond is cut off
    dtype: of the tokens
    """

    def __init__(
        self, folder: Path, name: str, shard_tokens: int, dtype: np.dtype, written: int = 0
    ) -> None:
        self.segments = segments_of(name, written, shard_tokens)
        self._folder = folder
        self._name = name
        self._shard_tokens = shard_tokens
        self._unsynced: set[str] = set()
        for file in folder.glob(f"{name}-*.bin"):
            kept = sum(segment.stop for segment in self.segments if segment.file == file.name)
            if kept:
                os.truncate(file, kept * dtype.itemsize)
            else:
                file.unlink()

    def write(self, tokens: np.ndarray) -> None:
        """Append `tokens`, (tokens,) of `dtype`."""
        while len(tokens):
            if not self.segments or self.segments[-1].stop == self._shard_tokens:
                self.segments.append(Segment(_shard_name(self._name, len(self.segments)), 0, 0))
            file, start, stop = self.segments[-1]
            part = tokens[: self._shard_tokens - stop]
            with (self._folder / file).open("ab") as stream:
                stream.write(part.tobytes())
            self._unsynced.add(file)
            self.segments[-1] = Segment(file, start, stop + len(part))
            tokens = tokens[len(part) :]

    def sync(self) -> None:
        """Return once all that has been written would survive a power failure."""
        for file in sorted(self._unsynced):
            with (self._folder / file).open("ab") as stream:
                os.fsync(stream.fileno())
        self._unsynced.clear()


def segments_of(name: str, tokens: int, shard_tokens: int) -> list[Segment]:
    """The files of a ShardWriter that has written `tokens` tokens in all."""
    starts = range(0, tokens, shard_tokens)
    return [
        Segment(_shard_name(name, number), 0, min(shard_tokens, tokens - start))
        for number, start in enumerate(starts)
    ]


def _shard_name(name: str, number: int) -> str:
    return f"{name}-{number:05d}.bin"


def cut_segments(segments: Sequence[Segment], share: Fraction) -> list[list[Segment]]:
    """`segments` in two parts, of which the second has the last `share` of their tokens."""
    left = int((1 - share) * sum(segment.stop - segment.start for segment in segments))
    before, after = [], []
    for file, start, stop in segments:
        middle = min(start + left, stop)
        left -= middle - start
        if middle > start:
            before.append(Segment(file, start, middle))
        if stop > middle:
            after.append(Segment(file, middle, stop))
    return [before, after]
