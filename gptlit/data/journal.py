"""How far a corpus has been tokenized, noted in the folder of its shards, so that an interrupted
run can be resumed.

`sources.ndjson` has a line for each part of the sources; `progress.ndjson` has the settings, then a
line for each point. A point is appended once the shards up to it are on disk, and earlier ones are
kept: if a source changes later, the last point before the change is still valid.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from gptlit.data.corpus import Part
from gptlit.data.encoder import Counts
from gptlit.data.jobs import SPLITS, Place
from gptlit.data.stream import segments_of
from gptlit.files import replacing

SOURCES = "sources.ndjson"  # not .jsonl, which would be read as text of a corpus
PROGRESS = "progress.ndjson"
POINT_S = 5.0


class Point(NamedTuple):
    """Where a later run may resume."""

    place: Place = Place()
    counts: tuple[Counts, ...] = (Counts(),) * len(SPLITS)
    """What has been written of each split."""
    done: int = 0
    """Bytes of the sources that had been read."""


@dataclass(frozen=True)
class Layout:
    """What the bytes on disk depend on, besides the documents."""

    settings: dict[str, Any]
    shard_tokens: int
    itemsize: int
    first_block: int
    """See `jobs.first_block`; 0 if nothing is drawn."""


class Journal:
    """The notes in `folder`, which is made if it does not exist.

    `point` is where to resume: the last valid point in the folder, or else the very start.
    `changed` names what differs from when the notes were written; "" if nothing does, or there are
    no notes.
    """

    def __init__(self, folder: Path, layout: Layout, parts: Sequence[Sequence[Part]]) -> None:
        self._file = folder / PROGRESS
        self._header = json.loads(json.dumps(asdict(layout)))
        self.changed = ""
        points = self._valid_points(folder, layout, parts)
        self.point = points[-1] if points else Point()
        folder.mkdir(parents=True, exist_ok=True)
        # In this order, since the points that are kept are valid for the old and the new sources.
        write_lines(self._file, [self._header, *points])
        write_lines(folder / SOURCES, _part_lines(parts))
        self._noted_at = time.monotonic()

    def due(self) -> bool:
        """Whether POINT_S seconds have passed since the last point."""
        return time.monotonic() - self._noted_at >= POINT_S

    def note(self, point: Point) -> None:
        """Append a point; the shards up to it must be on disk."""
        with self._file.open("a") as file:
            file.write(json.dumps(point) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.point = point
        self._noted_at = time.monotonic()

    def close(self) -> None:
        """Delete the points: the corpus is complete."""
        self._file.unlink()

    def _valid_points(
        self, folder: Path, layout: Layout, parts: Sequence[Sequence[Part]]
    ) -> list[Point]:
        """The points in the folder, up to the last one that is valid for these parts."""
        header, *lines = list(_read_lines(self._file)) or [None]
        if not lines:
            return []
        if header != self._header:
            self.changed = "the settings"
            return []
        same, self.changed = compare_sources(folder, parts)
        starts = [sum(map(len, parts[:source])) for source in range(len(parts))]

        def holds(point: Point) -> bool:
            place = point.place
            if self.changed and (
                starts[place.source] + place.part >= same or place.document < layout.first_block
            ):
                return False
            return all(
                _there(folder, name, counts.tokens, layout)
                for name, counts in zip(SPLITS, point.counts, strict=True)
            )

        points = [_point(line) for line in lines]
        while points and not holds(points[-1]):
            points.pop()
        return points


def compare_sources(folder: Path, parts: Sequence[Sequence[Part]]) -> tuple[int, str]:
    """How many parts, before the first difference, are those that the folder's corpus was made of;
    and the name of the part that was changed, added or removed first, or "" if all are the same."""
    before = list(_read_lines(folder / SOURCES))
    now = list(_part_lines(parts))
    same = sum(1 for _ in takewhile(_is_same, zip(before, now, strict=False)))
    rest = now[same:] or before[same:]
    return same, rest[0]["name"] if rest else ""


def write_lines(path: Path, lines: Iterable[Any]) -> None:
    """Write each as a line of JSON, to a temporary file first."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _part_lines(parts: Sequence[Sequence[Part]]) -> Iterator[dict[str, Any]]:
    for number, there in enumerate(parts):
        for part in there:
            yield {"source": number, **asdict(part)}


def _read_lines(path: Path) -> Iterator[Any]:
    """The parsed lines of a file up to the first broken one; none if the file does not exist."""
    try:
        with path.open("rb") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError, RecursionError):
        return


def _is_same(pair: tuple[dict[str, Any], dict[str, Any]]) -> bool:
    before, now = pair
    return all(before[key] == now[key] for key in ("source", "sha256", "form"))


def _point(line: Any) -> Point:
    place, counts, done = line
    return Point(Place(*place), tuple(Counts(*each) for each in counts), done)


def _there(folder: Path, name: str, tokens: int, layout: Layout) -> bool:
    """Whether the shards hold at least `tokens` tokens."""
    return all(
        (folder / file).is_file() and (folder / file).stat().st_size >= stop * layout.itemsize
        for file, _, stop in segments_of(name, tokens, layout.shard_tokens)
    )
