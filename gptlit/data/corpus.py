"""Documents of a text corpus, read piece by piece at flat memory."""

import contextlib
import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

from gptlit.data.readers import (
    ALLOWED_NAMES,
    FileKind,
    Seen,
    existing,
    file_kind,
    looking_at,
    read_text,
)
from gptlit.data.rows import read_texts
from gptlit.errors import UserError
from gptlit.files import replacing

PIECE_CHARS = 1 << 20
MEMO_AGE_NS = 2_000_000_000
HASHERS = 4

# A space or newline after a character that is no whitespace: no token of GPT-2 spans it, and what
# stands before it cannot see past it, since the pre-tokenizer only ever looks ahead of whitespace.
# Python's \S leaves out all whitespace of the tokenizer's \s and a few control characters more.
_LAST_CUT = re.compile(r".*\S(?=[ \n])", re.DOTALL)

Document = Iterable[str]


Advance = Callable[[int], object]  # is told how many bytes more have been read


@dataclass(frozen=True)
class Part:
    """What a source is made of, such as a file: as long as a part and those before it stay, so do
    the documents up to its end."""

    name: str
    bytes: int
    sha256: str
    form: str
    """How it is read, as far as its documents depend on that."""


class Source(Protocol):
    """Documents to tokenize. `size` and `done` (bytes to read and read so far) drive a bar; `part`
    is the number of the part that the newest document came from."""

    name: str
    size: int
    done: int
    part: int

    def parts(self, cache_dir: Path | None, seen: Advance) -> list[Part]:
        """The parts in the order of their documents; `cache_dir`, if any, may keep what helps."""

    def documents(self, first_part: int = 0) -> Iterator[Document]:
        """Each document, from a part on, as an iterable of pieces, which tokenized apart give the
        ids of the whole.

        A document is read when it is iterated, once.
        """


def cut_pieces(chunks: Iterable[str], size: int = PIECE_CHARS) -> Iterator[str]:
    """The text of `chunks` in pieces of about `size` characters, cut between pre-tokens.

    GPT-2's ids of the pieces, one after another, are the ids of the whole text. A piece grows for
    as long as there is no place to cut. Pieces are never empty.
    """
    held: list[str] = []
    length = 0
    for chunk in chunks:
        held.append(chunk)
        length += len(chunk)
        if length >= size and (cut := _LAST_CUT.match(chunk)):
            held[-1] = chunk[: cut.end()]
            yield "".join(held)
            held = [chunk[cut.end() :]]
            length = len(held[0])
    if length:
        yield "".join(held)


class NamedFile(NamedTuple):
    """A file by the name that it was found under, and its kind by that name."""

    path: Path
    kind: FileKind


class TextFiles:
    """The documents of files, folders and globs: `.txt .md .jsonl .csv .parquet`, see `readers`.

    A text file is one document, a row of another file is one, and rows without text are none.
    Files are read in the order of `paths`, and by name within a folder or glob. One that has
    several names, through links, is read once, under the first.

    paths: a file, a folder (read with its sub-folders, and with those that links lead to), a glob,
        or several of these
    column: the field of a row that holds its text
    key: the config key that `paths` came from, named in errors

    `files` are by what their names lead to.

    Raises UserError for a path that leads to no readable file; reading the documents raises it
    for damaged or binary files, a missing column and a row whose text is not a string.
    """

    def __init__(
        self, paths: str | Sequence[str], column: str = "text", key: str = "data.path"
    ) -> None:
        self.files: dict[Path, NamedFile] = {}  # a file named twice would stand in both splits
        resolve = cache(Path.resolve)
        for path in [paths] if isinstance(paths, str) else paths:
            with looking_at(path, key):
                for named in _find(path, key):
                    self.files.setdefault(_target(named.path, resolve), named)
        if not self.files:
            raise UserError(f"{key} is an empty list; give a file, a folder or a glob")
        self.column = column
        self._column_key = "".join((*key.rpartition(".")[:2], "column"))
        first, *others = self.files.values()
        self.name = f"{1 + len(others)} files" if others else str(first.path)
        self.size = sum(file.stat().st_size for file, _ in self.files.values())
        self.done = 0
        self.part = 0
        self._stamps: dict[Path, list[int]] = {}

    def documents(self, first_part: int = 0) -> Iterator[Document]:
        """As `Source.documents`; raises UserError too for a file that is not as `parts` saw it."""
        start = 0
        for number, (file, kind) in enumerate(self.files.values()):
            size = file.stat().st_size
            if number >= first_part:
                self.part = number
                seen = partial(self._seen, start)
                if kind.has_rows:
                    for row in read_texts(file, kind, self.column, self._column_key, seen):
                        if row:
                            yield cut_pieces(_slices(row))
                    self._check_unchanged(file)
                elif size:
                    yield cut_pieces(self._text(file, kind, seen))
            start += size

    def _text(self, file: Path, kind: FileKind, seen: Seen) -> Iterator[str]:
        yield from read_text(file, kind, seen)
        self._check_unchanged(file)

    def _check_unchanged(self, file: Path) -> None:
        if self._stamps.get(file, stamp := _stamp(file)) != stamp:
            raise UserError(f"{file} changed while it was read; run again when it is whole")

    def _seen(self, start: int, done: int) -> None:
        self.done = start + done

    def parts(self, cache_dir: Path | None, seen: Advance = lambda _: None) -> list[Part]:
        """The files, with the SHA-256 of each, in the order in which they are read.

        A file that kept its size and times since it was last hashed is not read again, if there is
        a `cache_dir`, which remembers it.
        """
        memo_file = cache_dir and cache_dir / "hashes.json"
        memo = _read_memo(memo_file) if memo_file else {}
        before = dict(memo)

        def part(named: NamedFile) -> Part:
            file, kind = named
            self._stamps[file] = stamp = _stamp(file)
            known = memo.get(str(file))
            if known and known[:-1] == stamp:
                digest = known[-1]
                seen(stamp[0])
            else:
                digest = file_sha256(file, seen)
            # A file changed in the last moments may change again within its times' resolution.
            if time.time_ns() - max(stamp[1:]) > MEMO_AGE_NS:
                memo[str(file)] = [*stamp, digest]
            form = f"{kind.suffix}{kind.packing}" + (f" {self.column}" if kind.has_rows else "")
            return Part(str(file), stamp[0], digest, form)

        with ThreadPoolExecutor(HASHERS) as pool:  # which runs in C, at the speed of a good disk
            parts = list(pool.map(part, self.files.values()))
        if memo_file and memo != before:
            _write_memo(memo_file, memo)
        return parts


def _stamp(file: Path) -> list[int]:
    """What changes when a file is written: size, and times in nanoseconds."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _slices(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE_CHARS):
        yield text[start : start + PIECE_CHARS]


def _find(path: str, key: str) -> list[NamedFile]:
    """The readable files that `path` names, by absolute path."""
    place = Path(path).expanduser()
    if place.is_dir():
        found = _readable(sorted(_walk(place)))
        if not found:
            raise UserError(f"{key}={path}: no file in this folder ends in {ALLOWED_NAMES}")
    elif glob.has_magic(path) and not place.exists():
        root = Path(place.anchor)
        try:
            found = _readable(sorted(root.glob(str(place.relative_to(root)))))
        except ValueError as error:
            raise UserError(f"{key}={path}: {error}; expected a glob like texts/*.txt") from None
        if not found:
            raise UserError(f"{key}={path}: this glob finds no file that ends in {ALLOWED_NAMES}")
    else:
        found = _readable([existing(path, key)])
        if not found:
            raise UserError(f"{key}={path}: expected a file whose name ends in {ALLOWED_NAMES}")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """What is in a folder and its sub-folders, but for what is hidden. Links to folders come last:
    what has been gone through by then is not again, nor for ever where one leads back."""
    waiting, seen = [folder], set[Path]()
    for start in waiting:
        for place, folders, names in os.walk(start, onerror=_refuse):
            here = Path(place)
            if (real := here.resolve()) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(filter(_is_shown, folders))
            waiting += [link for name in folders if (link := here / name).is_symlink()]
            yield from (here / name for name in filter(_is_shown, names))


def _is_shown(name: str) -> bool:
    return not name.startswith(".")


def _refuse(error: OSError) -> None:
    raise error


def _target(file: Path, resolve: Callable[[Path], Path]) -> Path:
    """What a file's name leads to. Folders alone are resolved, and names that lead nowhere else
    kept, as there may be a million files."""
    if file.is_symlink():
        return file.resolve()
    folder = resolve(file.parent)
    return file if folder == file.parent else folder / file.name


def _readable(files: Iterable[Path]) -> list[NamedFile]:
    there = (file for file in files if file.is_file())
    kinds = ((file.absolute(), file_kind(file)) for file in there)
    return [NamedFile(file, kind) for file, kind in kinds if kind]


def file_sha256(file: Path, seen: Advance = lambda _: None) -> str:
    """Hex digest of a file; raises UserError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                seen(len(chunk))
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}; make it readable, or leave it out"
        ) from None
    return digest.hexdigest()


def _read_memo(file: Path) -> dict[str, list]:
    try:
        memo = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return memo if isinstance(memo, dict) else {}


def _write_memo(file: Path, memo: dict[str, list]) -> None:
    # It only saves time: a cache that cannot be written still serves what it holds.
    with contextlib.suppress(OSError), replacing(file) as draft:
        draft.write_text(json.dumps(memo))
