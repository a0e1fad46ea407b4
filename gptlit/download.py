"""Fetch one published file into the cache: mirrors, resume, retries, checksum.

Beside the file `NAME` there may be `NAME.part` (the bytes so far), `NAME.etag` (the server's name
for their content), `NAME.lock` (one process at a time) and `NAME.ok` (the file's hash was checked).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gptlit.errors import UserError, in_one_line, without_login

if TYPE_CHECKING:
    import requests

BLOCK_BYTES = 1 << 20
MAX_WAIT_S = 60.0  # between two attempts, whatever Retry-After says
UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)


def download(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    hint: str = "",
    retries: int = 3,
    timeout_s: float = 20.0,
    backoff_s: float = 1.0,
) -> Path:
    """Make sure that `target` holds the published file, and return it.

    A file that is already there is verified and kept, without network. Otherwise each of `urls`
    (http, https or file) is tried in turn; an interrupted download resumes where it stopped, even
    in a later call. Proxies and certificates come from the environment (`HTTPS_PROXY`,
    `REQUESTS_CA_BUNDLE`). Two processes may ask for the same file: one fetches, the other waits.

    Args:
        urls: mirrors of the same bytes, the best one first.
        target: the path of the finished file; nothing incomplete or wrong ever gets this name.
        sha256: the content's hash in hex; without it only the size is checked.
        size: the content's length in bytes.
        hint: what else the user can do; errors end with it ("or give a local copy with ...").
        retries: attempts after the first, per mirror, that may fail in a row without a new byte;
            at most one if the mirror has not been reached yet, so that a user who is offline knows
            in a second.
        timeout_s: seconds to wait for a connection, and for the next byte of an answer.
        backoff_s: seconds before the first retry; doubles with each one in a row, up to 60.

    Raises:
        UserError: no mirror gave the file, what is at `target` is another file, or the cache
            cannot be written (no space, no permission).
    """
    from filelock import FileLock

    file = _CachedFile(target.absolute(), sha256.lower() if sha256 else None, size, timeout_s)
    reasons = []
    try:
        if file.is_there():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_beside(file.target, ".lock")):
            if file.is_there():
                return target
            for url in urls:
                reason = file.fetch(url, retries, backoff_s)
                if reason is None:
                    file.finish()
                    return target
                reasons.append(without_login(f"{url}: {reason}"))
    except OSError as error:  # from the disk; errors of the network have become reasons
        raise file.disk_error(error) from error
    raise UserError(
        f"cannot download {target.name}: {'; '.join(reasons) or 'no URL is given'}. Check the "
        f"network, or put the file at {file.target} by hand" + (f", {hint}" if hint else "")
    )


class _AttemptError(Exception):
    """An attempt that failed: why, whether the same URL may work `after_s` seconds later, and
    whether a server was reached at all."""

    def __init__(
        self, reason: str, *, retry: bool, after_s: float = 0.0, reached: bool = True
    ) -> None:
        super().__init__(reason)
        self.retry = retry
        self.after_s = after_s
        self.reached = reached


class _WrongContentError(Exception):
    """The bytes that came are not the published ones."""


class _CachedFile:
    """One file of the cache: in its place, or on its way there."""

    def __init__(
        self, target: Path, sha256: str | None, size: int | None, timeout_s: float
    ) -> None:
        self.target, self.sha256, self.size = target, sha256, size
        self.total = size  # bytes: as published, or else as the last mirror said
        self.timeout_s = timeout_s
        self.part = _beside(target, ".part")
        self.etag = _beside(target, ".etag")
        self.stamp = _beside(target, ".ok")

    def is_there(self) -> bool:
        """Whether the file is in its place; raises UserError if another one is."""
        if not self.target.is_file():
            return False
        if self.stamp.is_file() and self.stamp.read_bytes() == self._stamp():
            return True
        if fault := self._fault(self.target):
            raise UserError(
                f"{self.target} is not the published file: {fault}; delete it and run again to "
                "download it anew"
            )
        self._write_stamp()
        return True

    def fetch(self, url: str, retries: int, backoff_s: float) -> str | None:
        """Complete and verify the part file from `url`; returns None, or why that failed."""
        failures, wrong, furthest, reached = 0, False, self._have(), False
        while True:
            try:
                self._receive(url)
                if fault := self._fault(self.part):
                    raise _WrongContentError(fault)
                return None
            except _WrongContentError as error:
                self.part.unlink()
                if wrong:
                    return f"wrong content twice, {error}"
                wrong, furthest = True, 0
            except ValueError as error:  # a URL, given or redirected to, or a header, that is none
                return in_one_line(error)
            except _AttemptError as error:
                failures = 1 if self._have() > furthest else failures + 1
                furthest = max(furthest, self._have())
                reached = reached or error.reached
                if not error.retry:
                    return str(error)
                if failures > (retries if reached else min(retries, 1)):
                    return f"{error} (attempts in vain: {failures})"
                time.sleep(min(max(error.after_s, backoff_s * 2 ** (failures - 1)), MAX_WAIT_S))

    def finish(self) -> None:
        """Give the verified part file its final name."""
        with self.part.open("ab") as file:
            os.fsync(file.fileno())
        self.part.replace(self.target)
        self.etag.unlink(missing_ok=True)
        self._write_stamp()

    def disk_error(self, error: OSError) -> UserError:
        """What to tell a user whose cache cannot be written."""
        folder, have = self.target.parent, self._have()
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return UserError(
                f"cannot keep {self.target.name} in {folder}: {error}; it must be writable"
            )
        need = f"{self.total - have} more bytes are" if self.total else "more space is"
        return UserError(
            f"no space left in {folder}: {need} needed for {self.target.name}; free it and run "
            f"again, the {have} bytes in {self.part.name} are kept"
        )

    def _receive(self, url: str) -> None:
        """One request: bring the part file to its full length."""
        if self.size and self._have() == self.size:
            return
        if urlsplit(url).scheme == "file":
            from urllib.request import url2pathname

            mirror = Path(url2pathname(urlsplit(url).path))
            if not mirror.is_file():
                raise _AttemptError("no such file", retry=False)
            self.etag.unlink(missing_ok=True)
            shutil.copyfile(mirror, self.part)
            return
        # Resume a part if the server can say that its content is the same, or if the hash will.
        etag = self.etag.read_text("latin-1") if self.etag.is_file() and not self.sha256 else ""
        have = self._have() if etag or self.sha256 else 0
        with self._get(url, have, etag) as response:
            have, self.total = self._extent(response, have, etag)
            if have and have == self.total:
                return  # the part was whole, and the answer has nothing to add
            if have == 0:
                self.part.unlink(missing_ok=True)
                etag = _etag(response.headers)
            self.etag.write_text(etag, "latin-1")
            with self.part.open("ab") as file, _progress(self.target, have, self.total) as advance:
                for block in self._blocks(response):
                    file.write(block)
                    advance(len(block))
                    have += len(block)
                    if self.total is not None and have > self.total:
                        raise _WrongContentError(f"more than {self.total} bytes")
        if self.total is not None and have < self.total:
            raise _AttemptError(f"cut at byte {have} of {self.total}", retry=True)

    def _get(self, url: str, start: int, etag: str) -> requests.Response:
        """Ask for the bytes from `start` on, or for all of them if the content has changed."""
        import socket
        import ssl

        import requests

        headers = {"Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-"} | ({"If-Range": etag} if etag else {})
        outer = sys.exc_info()[1]  # the caller may be handling an error of its own
        try:
            return requests.get(url, headers=headers, stream=True, timeout=self.timeout_s)
        except requests.Timeout as error:
            raise _AttemptError(f"no answer for {self.timeout_s:g} s", retry=True) from error
        except OSError as error:  # any of requests, or an unreadable REQUESTS_CA_BUNDLE
            cause: BaseException = error
            while (inner := cause.__cause__ or cause.__context__) and inner is not outer:
                cause = inner
            reason = str(getattr(cause, "strerror", None) or cause)
            lasting = isinstance(cause, ssl.SSLCertVerificationError)
            retry = isinstance(error, requests.ConnectionError) and not lasting
            absent = isinstance(cause, socket.gaierror) or (
                isinstance(cause, OSError) and cause.errno in UNREACHABLE
            )
            reason = " ".join(reason.split())
            raise _AttemptError(reason, retry=retry, reached=not absent) from error

    def _extent(self, response: requests.Response, asked: int, etag: str) -> tuple[int, int | None]:
        """Where an answer starts in the file, and how many bytes the file has (None: unknown)."""
        code, headers = response.status_code, response.headers
        if code in (206, 416):
            # No range starts after the last byte: the header then has only the total.
            told = headers.get("Content-Range", "")
            span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", told)
            same = not etag or _etag(headers) in ("", etag)
            if not span or int(span[1] or span[2]) != asked or not same:
                self.part.unlink(missing_ok=True)
                raise _AttemptError("does not resume", retry=True)
            total: int | None = int(span[2])
        elif code == 200:
            asked, total = 0, response.raw.length_remaining
        else:
            raise _AttemptError(
                f"HTTP {code} {response.reason}",
                retry=code == 429 or code >= 500,
                after_s=retry_after_s(response),
            )
        if self.size is not None and total not in (None, self.size):
            raise _AttemptError(f"has {total} bytes, expected {self.size}", retry=False)
        return asked, total if self.size is None else self.size

    def _blocks(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it comes, so that a cut or a time-out loses nothing that came before it."""
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        try:
            while block := response.raw.read1(BLOCK_BYTES, decode_content=False):
                yield block
        except ReadTimeoutError as error:
            raise _AttemptError(f"no byte for {self.timeout_s:g} s", retry=True) from error
        except HTTPError as error:
            raise _AttemptError("connection cut", retry=True) from error

    def _have(self) -> int:
        """Bytes in the part file."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def _fault(self, path: Path) -> str:
        """How `path` differs from what was published, or the empty string."""
        found = path.stat().st_size
        if self.size not in (None, found):
            return f"{found} bytes, expected {self.size}"
        digest = hashlib.sha256()
        if self.sha256:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
        if self.sha256 not in (None, digest.hexdigest()):
            return f"SHA-256 {digest.hexdigest()}, expected {self.sha256}"
        return ""

    def _stamp(self) -> bytes:
        """What the stamp says if the file, as it is on disk now, was hashed and the hash fitted."""
        found = self.target.stat()
        return f"{self.sha256} {found.st_size} {found.st_mtime_ns}\n".encode()

    def _write_stamp(self) -> None:
        if self.sha256:
            with suppress(OSError):  # in a read-only cache it is hashed each time
                self.stamp.write_bytes(self._stamp())


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _etag(headers: Mapping[str, str]) -> str:
    """A name for the content that If-Range accepts: a strong ETag, or else its date."""
    etag = headers.get("ETag", "W/")
    return headers.get("Last-Modified", "") if etag.startswith("W/") else etag


def retry_after_s(response: requests.Response) -> float:
    """The seconds that the server asks us to wait, whether by a number or by a date."""
    from urllib3 import Retry
    from urllib3.exceptions import InvalidHeader

    with suppress(InvalidHeader):
        return Retry().get_retry_after(response.raw) or 0.0
    return 0.0


@contextmanager
def _progress(path: Path, done: int, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar on the terminal of the first process: bytes, speed, time left."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if not sys.stderr.isatty() or any(rank != "0" for rank in ranks):
        yield lambda n: None
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
    with bars.Progress(
        "{task.description}", bars.BarColumn(), *columns, console=Console(stderr=True)
    ) as bar:
        yield partial(bar.advance, bar.add_task(path.name, completed=done, total=total))
