"""Documents of a text corpus, read piece by piece in constant memory."""

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
from gptlit.files import read_object, replacing

PIECE_CHARS = 1 << 20
MEMO_AGE_NS = 2_000_000_000
HASHERS = 4

# Text may be cut before a space or newline that follows a non-whitespace character: no token of
# GPT-2 spans such a place, and the tokens before it do not depend on the text after it, since the
# pre-tokenizer looks ahead only past whitespace. Python's \S excludes all that the tokenizer's \s
# matches, and a few control characters more.
_LAST_CUT = re.compile(r".*\S(?=[ \n])", re.DOTALL)

Document = Iterable[str]


Advance = Callable[[int], object]  # called with the number of bytes read since the last call


@dataclass(frozen=True)
class Part:
    """A part of a source, such as a file. As long as it and the parts before it do not change, the
    documents up to its end do not either."""

    name: str
    bytes: int
    sha256: str
    form: str
    """How it is read (format, packing, column), as far as its documents depend on that."""


class Source(Protocol):
    """Documents to tokenize. `size` and `done` (bytes to read and read so far) drive a bar; `part`
    is the number of the part that the latest document came from."""

    name: str
    size: int
    done: int
    part: int

    def parts(self, cache_dir: Path | None, seen: Advance) -> list[Part]:
        """The parts in the order of their documents; a `cache_dir` may speed up later calls."""

    def documents(self, first_part: int = 0) -> Iterator[Document]:
        """Each document from part `first_part` on, as an iterable of pieces. Tokenized one by one,
        the pieces give the ids of the whole document.

        A document is read as it is iterated, which can be done only once.
        """


def cut_pieces(chunks: Iterable[str], size: int = PIECE_CHARS) -> Iterator[str]:
    """The text of `chunks` in pieces of about `size` characters, cut between pre-tokens.

    Tokenized one by one, the pieces give GPT-2's ids of the whole text. A piece grows until there
    is a place to cut. Pieces are never empty.
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

    A text file is one document; in other files each row is one, except rows without text. Files
    are read in the order of `paths`, and by name within a folder or glob. A file that has several
    names, through links, is read once, under the first.

    paths: a file, a folder (with its sub-folders, also those that links lead to), a glob,
        or several of these
    column: the field of a row that holds its text
    key: the config key that `paths` came from, named in errors

    The keys of `files` are real paths, with links resolved.

    Raises UserError for a path that leads to no readable file; reading the documents raises it
    for damaged or binary files, a missing column and a row whose text is not a string.
    """

    def __init__(
        self, paths: str | Sequence[str], column: str = "text", key: str = "data.path"
    ) -> None:
        self.files: dict[Path, NamedFile] = {}  # a file read twice could be in both splits
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
        """As `Source.documents`; also raises UserError for a file that changed since `parts`."""
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

        If there is a `cache_dir`, it remembers the hashes: a file that has kept its size and times
        since it was hashed is not read again.
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
            # A file that has only just changed may change again without its times showing it.
            if time.time_ns() - max(stamp[1:]) > MEMO_AGE_NS:
                memo[str(file)] = [*stamp, digest]
            form = f"{kind.suffix}{kind.packing}" + (f" {self.column}" if kind.has_rows else "")
            return Part(str(file), stamp[0], digest, form)

        with ThreadPoolExecutor(HASHERS) as pool:  # hashing runs in C, as fast as a good disk
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
    """All that is in a folder and its sub-folders and not hidden. Links to folders are followed
    last. No folder is visited twice, so that a link that leads back makes no endless loop."""
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
    """The real path of a file. There may be a million files, so only links and folders are
    resolved, and a path that is real already is returned as it is."""
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
    memo = read_object(file) or {}
    return {name: known for name, known in memo.items() if isinstance(known, list)}


def _write_memo(file: Path, memo: dict[str, list]) -> None:
    # The memo only saves time: a cache that cannot be written can still be read.
    with contextlib.suppress(OSError), replacing(file) as draft:
        draft.write_text(json.dumps(memo))
