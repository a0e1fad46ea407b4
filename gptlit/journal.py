"""Keep the results of slow work as they come, so that it can go on where it was interrupted."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gptlit.errors import UserError


class Journal:
    """Rows in a file beside the result.

    The file has one JSON object a line. Each addition begins with a line that says what its rows
    belong to, so commands that do other work with the same file, even at the same time, take no
    rows from one another. A line that was cut short, or is damaged, is left out with the rows below
    it, up to the next addition.

    Args:
        path: the file; its folder is made.
        belongs_to: identifies the work; results of other work are not used.

    Raises:
        UserError: the file cannot be read or written.
    """

    def __init__(self, path: Path, belongs_to: str) -> None:
        self.path = path
        self._head = {"belongs_to": belongs_to}
        self.rows: list[dict[str, Any]] = []
        """The rows of this work that the file holds, in the order in which they were added."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.is_file() else b""
        except OSError as error:
            raise cannot_write(path, error) from error
        self.shared = False
        """Whether the file holds anything that does not belong to this work."""
        ours = False
        for line in content.splitlines():
            row = _row(line)
            if row is not None and row.keys() == self._head.keys():
                ours = row == self._head
            elif not ours:
                self.shared = True
            elif row is None:
                ours = False
            else:
                self.rows.append(row)
        # End a line that was cut short, so that the next one is not damaged with it.
        self._append(b"\n" if content and not content.endswith(b"\n") else b"")

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Save rows, in one go.

        Raises:
            UserError: the file cannot be written.
        """
        new = list(rows)
        self._append("".join(json.dumps(row) + "\n" for row in (self._head, *new)).encode())
        self.rows += new

    def _append(self, lines: bytes) -> None:
        try:
            with self.path.open("ab") as file:  # in one write, into which no other can come
                file.write(lines)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _row(line: bytes) -> dict[str, Any] | None:
    """What a line of a journal holds, None where it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def progress_path(path: Path) -> Path:
    """Where results are kept as they come, until those for `path` are complete."""
    return path.with_name(f"{path.stem}.progress.jsonl")


def digest(value: Any) -> str:
    """SHA-256 of a value as JSON, in hex; the order of keys does not matter. What JSON has no type
    for, such as a date, counts as its text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a result that cannot be written to the disk."""
    return UserError(f"cannot write {path}: {error.strerror or error}; choose another folder")
