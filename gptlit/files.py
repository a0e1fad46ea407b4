"""Files that are either complete or absent, and the folder for those that can be made again."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, to write a file, a link or a new folder under. The result
    takes the place of `path` once all is written.

    After an exception, what is unfinished is removed. What a killed process leaves has a name that
    begins with a dot and ends with .tmp.

    Raises:
        OSError: it cannot be renamed.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(draft)  # in a container, the process that was killed may have had the same number
    try:
        yield draft
        draft.replace(path)
    finally:
        _remove(draft)


def _remove(draft: Path) -> None:
    if draft.is_dir() and not draft.is_symlink():
        shutil.rmtree(draft, ignore_errors=True)
    with suppress(OSError):
        draft.unlink(missing_ok=True)


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a file of JSON; None if there is no such file, or it holds something else."""
    try:
        node = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # the latter for lists of lists without end
        return None
    return node if isinstance(node, dict) else None


def default_cache_dir() -> Path:
    """Where downloads and tokenized corpora are kept: $GPTLIT_CACHE or ~/.cache/gptlit."""
    return Path(os.environ.get("GPTLIT_CACHE") or "~/.cache/gptlit").expanduser()


def download_target(file_name: str, cache_dir: str | Path | None) -> Path:
    """Where the file that a data option downloads is kept; `cache_dir` as in that option."""
    cache = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    return cache / "downloads" / file_name
