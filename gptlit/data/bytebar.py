"""How far a long read has come: a bar on a terminal, a line now and then in a log."""

import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_S = 30.0


class ByteBar:
    """Bytes, speed and time left, on stderr. A context manager that shows one task after another.

    bar: show a bar if stderr is a terminal
    lines: print a line every LINE_S seconds if it is not
    """

    def __init__(self, *, bar: bool, lines: bool = False) -> None:
        terminal = sys.stderr.isatty()
        self._bar: Progress | None = _rich_bar() if bar and terminal else None
        self._lines = lines and not terminal
        self._what, self._total, self._done, self._first = "", 0, 0, 0
        self._since = self._told = 0.0

    def __enter__(self) -> "ByteBar":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def start(self, what: str, total: int, done: int = 0) -> None:
        """Begin the task `what` of `total` bytes, of which `done` need not be read again."""
        self._what, self._total, self._done, self._first = what, total, done, done
        self._since = self._told = time.monotonic()
        if self._bar:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(what, total=total, completed=done)

    def advance(self, n_bytes: int) -> None:
        """Count `n_bytes` more as done."""
        self.reach(self._done + n_bytes)

    def reach(self, done: int) -> None:
        """Count `done` bytes of the task as done."""
        self._done = done
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done)
        now = time.monotonic()
        if self._lines and now - self._told >= LINE_S:
            self._told = now
            rate = (done - self._first) / (now - self._since)
            left = timedelta(seconds=round((self._total - done) / max(rate, 1)))
            print(
                f"{self._what}: {done / 1e6:,.0f} of {self._total / 1e6:,.0f} MB, "
                f"{rate / 1e6:.1f} MB/s, {left} left",
                file=sys.stderr,
                flush=True,
            )


def _rich_bar() -> "Progress":
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
