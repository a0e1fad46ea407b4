"""How one file of a corpus is read: unpacked, decoded and taken apart into rows, in a stream.

Every mistake in a file ends in a UserError that names the file and the place in it.
"""

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from gptlit.errors import UserError

CHUNK_BYTES = 1 << 20
# A compressed chunk is small since it may unpack to a hundred times its size.
PACKED_CHUNK_BYTES = 1 << 14

TEXT_SUFFIXES = (".txt", ".md")
ROW_SUFFIXES = (".jsonl", ".csv", ".parquet")
PACKINGS = (".gz", ".zst")

Seen = Callable[[int], None]  # is told how many bytes of the file on disk have been read


@dataclass(frozen=True)
class FileKind:
    """What a file's name says: its format, such as ".csv", and its packing, such as ".gz" or ""."""

    suffix: str
    packing: str

    @property
    def has_rows(self) -> bool:
        """Whether each row is a document, rather than the whole file."""
        return self.suffix in ROW_SUFFIXES


def file_kind(
    path: Path, allowed: tuple[str, ...] = TEXT_SUFFIXES + ROW_SUFFIXES
) -> FileKind | None:
    """The kind of the file called `path`, or None for one that is not among the `allowed`."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    packing = suffixes.pop() if suffixes and suffixes[-1] in PACKINGS else ""
    suffix = suffixes.pop() if suffixes else ""
    if suffix not in allowed or (suffix == ".parquet" and packing):
        return None
    return FileKind(suffix, packing)


def names_of(allowed: tuple[str, ...]) -> str:
    """How names of files of these kinds end, for errors."""
    return f"{', '.join(allowed)}, or, but for .parquet, one of these and {' or '.join(PACKINGS)}"


ALLOWED_NAMES = names_of(TEXT_SUFFIXES + ROW_SUFFIXES)


def read_text(path: Path, kind: FileKind, seen: Seen) -> Iterator[str]:
    """The text of a file in chunks of about 1 MiB, decoded as strict UTF-8 without its BOM.

    Line ends stay as they are. Raises UserError for a file that is damaged or no text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    first = True
    for chunk in _chunks(path, kind, seen):
        if (nul := chunk.find(b"\0")) >= 0:
            raise UserError(
                f"{path} is a binary file: NUL byte at offset {offset + nul}; "
                "leave it out, or convert it to UTF-8 text"
            )
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            place = offset - held + error.start
            raise UserError(
                f"{path} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset "
                f"{place} ({error.reason}); convert it, for instance with iconv -t utf-8"
            ) from None
        offset += len(chunk)
        if text:
            yield text.removeprefix("\ufeff") if first else text
            first = False


def read_rows(
    path: Path, kind: FileKind, column: str, seen: Seen, key: str = "data.column"
) -> Iterator[str]:
    """The texts in `column` of a file's rows, one after another.

    Raises UserError for a file that is damaged or has no such column, and for a row whose text is
    not a string; it names `key`, the config key that `column` came from.
    """
    if kind.suffix == ".parquet":
        rows = _parquet_rows(path, column, seen)
    else:
        lines = _lines(read_text(path, kind, seen))
        rows = (_json_rows if kind.suffix == ".jsonl" else _csv_rows)(path, column, lines)
    try:
        for place, text in rows:
            if not isinstance(text, str):
                raise UserError(
                    f"{place}: column {column!r} holds {text!r}, expected text; "
                    f"mend or remove the row, or set {key}=… to a column of text"
                )
            yield text
    except _NoColumnError as error:
        raise UserError(f"{error}; set {key}=…") from None


class _NoColumnError(Exception):
    """A file or row lacks the column; the message says which ones it has."""


def _json_rows(path: Path, column: str, lines: Iterable[str]) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place} is not JSON: {error}; expected one object per line") from None
        if not isinstance(row, dict):
            raise UserError(f'{place} is no JSON object; expected a line like {{"{column}": "…"}}')
        if column not in row:
            raise _no_column(place, column, row)
        yield place, row[column]


def _csv_rows(path: Path, column: str, lines: Iterable[str]) -> Iterator[tuple[str, object]]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than many a document
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        if column not in header:
            raise _no_column(str(path), column, header)
        index = header.index(column)
        for row in reader:
            if row:
                yield f"{path}:{reader.line_num}", row[index] if index < len(row) else None
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num} is not CSV: {error}; "
            'expected quotes around fields with commas or line ends, and "" for a quote inside'
        ) from None


def _parquet_rows(path: Path, column: str, seen: Seen) -> Iterator[tuple[str, object]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise _no_column(str(path), column, file.schema_arrow.names)
            size = path.stat().st_size
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=[column]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield f"{path}: row {number}", text
                seen(size * number // file.metadata.num_rows)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}; write it again") from None


def _no_column(place: str, column: str, names: Iterable[str]) -> _NoColumnError:
    there = ", ".join(map(repr, names)) or "none"
    return _NoColumnError(f"{place}: no column {column!r}; there are: {there}")


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    for chunk in chunks:
        first, *others = chunk.split("\n")
        held.append(first)
        for other in others:
            yield "".join(held) + "\n"
            held = [other]
    if last := "".join(held):
        yield last


def _chunks(path: Path, kind: FileKind, seen: Seen) -> Iterator[bytes]:
    """The unpacked bytes of a file, and an empty chunk at their end."""
    import zstandard

    try:
        with path.open("rb") as file:
            if kind.packing == ".zst":
                chunks = _zstd_chunks(file)
            else:
                stream = gzip.GzipFile(fileobj=file) if kind.packing == ".gz" else file
                chunks = iter(partial(stream.read, CHUNK_BYTES), b"")
            for chunk in chunks:
                seen(file.tell())
                yield chunk
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise UserError(
            f"{path} is damaged: {error}; expected a whole {kind.packing} file: make it again"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; mend it or leave it") from None
    yield b""


def _zstd_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Unpacked frames. zstandard's own stream reader is silent about a frame that ends early."""
    import zstandard

    frame = zstandard.ZstdDecompressor().decompressobj()
    packed = b""
    while packed := packed or file.read(PACKED_CHUNK_BYTES):
        if frame.eof:
            frame = zstandard.ZstdDecompressor().decompressobj()
        if chunk := frame.decompress(packed):
            yield chunk
        packed = frame.unused_data
    if not frame.eof:
        raise EOFError("the compressed data end early")
