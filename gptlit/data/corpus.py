"""Documents of a text corpus, read piece by piece at flat memory."""

import contextlib
import difflib
import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from gptlit.data.readers import ALLOWED_NAMES, FileKind, file_kind, read_rows, read_text
from gptlit.errors import UserError

PIECE_CHARS = 1 << 20
MEMO_AGE_NS = 2_000_000_000

# A space or newline after a character that is no whitespace: no token of GPT-2 spans it, and what
# stands before it cannot see past it, since the pre-tokenizer only ever looks ahead of whitespace.
# Python's \S leaves out all whitespace of the tokenizer's \s and a few control characters more.
_LAST_CUT = re.compile(r".*\S(?=[ \n])", re.DOTALL)

Document = Iterable[str]


class Source(Protocol):
    """Documents to tokenize. `size` and `done` (bytes to read and read so far) drive a bar."""

    name: str
    size: int
    done: int

    def content_hash(self, cache_dir: Path) -> str:
        """Hex digest that changes with the documents; `cache_dir` may keep what helps."""

    def documents(self) -> Iterator[Document]:
        """Each document as an iterable of pieces, which tokenized apart give the ids of the whole.

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


class TextFiles:
    """The documents of files, folders and globs: `.txt .md .jsonl .csv .parquet`, see `readers`.

    A text file is one document, a row of another file is one, and rows without text are none.
    Files are read in the order of `paths`, and by name within a folder or glob.

    paths: a file, a folder (read with its sub-folders), a glob, or several of these
    column: the field of a row that holds its text
    key: the config key that `paths` came from, named in errors

    Raises UserError for a path that leads to no readable file; reading the documents raises it
    for damaged or binary files, a missing column and a row whose text is not a string.
    """

    def __init__(
        self, paths: str | Sequence[str], column: str = "text", key: str = "data.path"
    ) -> None:
        self.files: dict[Path, FileKind] = {}  # a file named twice would stand in both splits
        for path in [paths] if isinstance(paths, str) else paths:
            self.files.update(_find(path, key))
        if not self.files:
            raise UserError(f"{key} is an empty list; give a file, a folder or a glob")
        self.column = column
        first, *others = self.files
        self.name = f"{1 + len(others)} files" if others else str(first)
        self.size = sum(file.stat().st_size for file in self.files)
        self.done = 0

    def documents(self) -> Iterator[Document]:
        start = 0
        for file, kind in self.files.items():
            seen = partial(self._seen, start)
            if kind.has_rows:
                for row in read_rows(file, kind, self.column, seen):
                    if row:
                        yield cut_pieces(_slices(row))
            elif file.stat().st_size:
                yield cut_pieces(read_text(file, kind, seen))
            start += file.stat().st_size

    def _seen(self, start: int, done: int) -> None:
        self.done = start + done

    def content_hash(self, cache_dir: Path) -> str:
        """SHA-256 over the files' contents and kinds, and over the column if a file has rows.

        A file that kept its size and times since it was last hashed is not read again.
        """
        memo_file = cache_dir / "hashes.json"
        memo = _read_memo(memo_file)
        before = dict(memo)
        total = hashlib.sha256()
        if any(kind.has_rows for kind in self.files.values()):
            total.update(self.column.encode())
        for file, kind in self.files.items():
            status = file.stat()
            stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            known = memo.get(str(file))
            digest = known[-1] if known and known[:-1] == stamp else _sha256(file)
            # A file changed in the last moments may change again within its times' resolution.
            if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > MEMO_AGE_NS:
                memo[str(file)] = [*stamp, digest]
            total.update(f"{kind}{digest}".encode())
        if memo != before:
            _write_memo(memo_file, memo)
        return total.hexdigest()


def _slices(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE_CHARS):
        yield text[start : start + PIECE_CHARS]


def _find(path: str, key: str) -> dict[Path, FileKind]:
    """The readable files that `path` names, by absolute path."""
    place = Path(path).expanduser()
    if place.is_dir():
        found = _readable(
            file
            for file in sorted(place.rglob("*"))
            if not any(part.startswith(".") for part in file.relative_to(place).parts)
        )
        if not found:
            raise UserError(f"{key}={path}: no file in this folder ends in {ALLOWED_NAMES}")
    elif place.exists():
        found = _readable([place])
        if not found:
            raise UserError(f"{key}={path}: expected a file whose name ends in {ALLOWED_NAMES}")
    elif glob.has_magic(path):
        root = Path(place.anchor)
        try:
            found = _readable(sorted(root.glob(str(place.relative_to(root)))))
        except ValueError as error:
            raise UserError(f"{key}={path}: {error}; expected a glob like texts/*.txt") from None
        if not found:
            raise UserError(f"{key}={path}: this glob finds no file that ends in {ALLOWED_NAMES}")
    else:
        raise UserError(f"{key}={path}: {_missing(place, key)}")
    return found


def _readable(files: Iterable[Path]) -> dict[Path, FileKind]:
    kinds = {file.absolute(): file_kind(file) for file in files if file.is_file()}
    return {file: kind for file, kind in kinds.items() if kind}


def _missing(place: Path, key: str) -> str:
    absent, parent = place, place.parent
    while not parent.exists():
        absent, parent = parent, parent.parent
    names = [there.name for there in parent.iterdir()] if parent.is_dir() else []
    close = difflib.get_close_matches(absent.name, names, 1)
    cure = f"did you mean {key}={parent / close[0]}?" if close else "give one that exists"
    return f"there is no file or folder {absent}; {cure}"


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; mend it or leave it") from None
    return digest.hexdigest()


def _read_memo(file: Path) -> dict[str, list]:
    try:
        memo = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return memo if isinstance(memo, dict) else {}


def _write_memo(file: Path, memo: dict[str, list]) -> None:
    # It only saves time: a cache that cannot be written still serves what it holds.
    with contextlib.suppress(OSError):
        draft = file.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(memo))
        draft.replace(file)
