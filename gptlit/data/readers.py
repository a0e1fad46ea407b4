"""How one file is found and read: unpacked and decoded, in a stream.

Every mistake in a file ends in a UserError that names the file and the place in it.
"""

import codecs
import difflib
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
STARTS = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".parquet": b"PAR1\x15"}
"""What files begin with that no text does."""

Seen = Callable[[int], None]  # called with how many bytes of the file on disk have been read


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
    """The kind of the file called `path`, or None if its format is not `allowed`."""
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


@contextmanager
def looking_at(path: str | Path, key: str) -> Iterator[None]:
    """Turn errors of looking at a path, or at what is in it, into a UserError that names the config
    key of the path: any OSError, and the RuntimeError for the home of an unknown user."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        where = getattr(error, "filename", None) or path
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        place = "" if str(where) == str(path) else f" {where}:"
        raise UserError(
            f"{key}={path}:{place} {why}; give a file or folder that can be read"
        ) from None


def existing(path: str | Path, key: str) -> Path:
    """The file or folder that `path` names. `key` is the config key that it came from.

    Raises UserError if there is none, suggesting one with a similar name, and if `path` cannot be
    looked at.
    """
    with looking_at(path, key):
        return _existing(path, key)


def _existing(path: str | Path, key: str) -> Path:
    place = absent = Path(path).expanduser()
    if place.exists():
        return place
    while not absent.parent.exists():
        absent = absent.parent
    parent = absent.parent
    if absent.is_symlink():
        raise UserError(f"{key}={path}: {absent} is a link that leads to no file; mend it")
    names = [there.name for there in parent.iterdir()] if parent.is_dir() else []
    close = difflib.get_close_matches(absent.name, names, 1)
    cure = f"did you mean {key}={parent / close[0]}?" if close else "give one that exists"
    what = "such file" if absent == place else f"folder {absent}"
    raise UserError(f"{key}={path}: there is no {what}; {cure}")


def read_text(path: Path, kind: FileKind, seen: Seen = lambda done: None) -> Iterator[str]:
    """The text of a file in chunks of about 1 MiB, decoded as strict UTF-8 without its BOM.

    Line ends stay as they are. Raises UserError for a file that is damaged or not text.
    """
    return decoded(path, _chunks(path, kind, seen))


def decoded(path: Path, chunks: Iterable[bytes]) -> Iterator[str]:
    """The text of the file called `path`, as `read_text` gives it, decoded from the file's unpacked
    bytes, of which the last chunk is empty."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    first = True
    for chunk in chunks:
        if first and chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(
                f"{path} is not UTF-8 text but UTF-16; convert it with iconv -f utf-16 -t utf-8"
            )
        if first and chunk.startswith(b"PK\x03\x04"):
            raise UserError(
                f"{path} is not text but a zip archive, as Excel's workbooks are: unpack it, or "
                "save the sheet as CSV (UTF-8)"
            )
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
                f"{place} ({error.reason}); convert it, for instance with iconv -f latin1 -t utf-8"
            ) from None
        offset += len(chunk)
        if text:
            yield text.removeprefix("\ufeff") if first else text
            first = False


def _chunks(path: Path, kind: FileKind, seen: Seen) -> Iterator[bytes]:
    """The unpacked bytes of a file, and an empty chunk at their end."""
    import zstandard

    try:
        with path.open("rb") as file:
            start = file.peek(max(map(len, STARTS.values())))
            really = next((name for name, mark in STARTS.items() if start.startswith(mark)), "")
            if really and not kind.packing:
                name = path.name + really if really in PACKINGS else f"{path.stem}{really}"
                raise UserError(f"{path} is a {really} file by its content: name it {name}")
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
            f"{path} is damaged: {error}; expected a whole {kind.packing} file: make it again, "
            f"or take {kind.packing} off its name if it is not packed"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; make it readable, or leave it out"
        ) from None
    yield b""


def _zstd_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Unpacked frames. zstandard's own stream reader does not report a frame that ends early."""
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
