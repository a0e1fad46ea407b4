"""Downloads against a server that misbehaves on a script: what is kept, asked again, refused."""

from __future__ import annotations

import errno
import hashlib
import io
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.download import download
from gptlit.errors import UserError

CONTENT = random.Random(0).randbytes(50_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)
HINT = "or give a local copy with data.path=FILE"
NO_URL = "http://127.0.0.1:9/never-asked"


@dataclass
class Reply:
    """How the server answers one request."""

    status: int = 200
    content: bytes = CONTENT
    etag: str | None = '"v1"'
    ranges: bool = True  # honours Range
    if_range: bool = True  # honours If-Range
    early: int = 0  # bytes that an answer to Range starts too early
    content_length: bool = True
    cut_after: int | None = None  # bytes of the body that are sent before the connection closes
    stall_after: int | None = None  # bytes of the body that are sent before nothing more comes
    silent: bool = False  # not even the status line comes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """What the server was asked, and how much it gave."""

    range: str | None
    if_range: str | None
    sent: int = 0


class Mirror:
    """A server of one file; answers by its script first, then by the last line of it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/file.bin"
        self.script: list[Reply] = [Reply()]
        self.requests: list[Request] = []
        self.release = threading.Event()  # ends all stalls
        self.before_body: Callable[[], object] = lambda: None

    @property
    def sent(self) -> int:
        return sum(request.sent for request in self.requests)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        reply = self.script[min(len(self.requests), len(self.script) - 1)]
        request = Request(handler.headers["Range"], handler.headers["If-Range"])
        self.requests.append(request)
        if reply.silent:
            self.release.wait(5)
            return
        status, start, total = reply.status, 0, len(reply.content)
        same = not reply.if_range or request.if_range in (None, reply.etag)
        if status == 200 and request.range and reply.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", request.range)[1]) - reply.early
            status = 206 if start < total else 416
        body = reply.content[start:]
        handler.send_response(status)
        if reply.etag:
            handler.send_header("ETag", reply.etag)
        if status in (206, 416):
            span = f"{start}-{total - 1}" if status == 206 else "*"
            handler.send_header("Content-Range", f"bytes {span}/{total}")
        if reply.content_length:
            handler.send_header("Content-Length", str(len(body)))
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        self.before_body()
        stops = [n for n in (reply.cut_after, reply.stall_after, len(body)) if n is not None]
        request.sent = min(stops)  # before the client can have it all and look
        handler.wfile.write(body[: min(stops)])
        handler.wfile.flush()
        if reply.stall_after is not None:
            self.release.wait(5)


@contextmanager
def serve() -> Iterator[Mirror]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mirror = Mirror(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        mirror.release.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve() as one:
        yield one


@pytest.fixture
def other() -> Iterator[Mirror]:
    with serve() as one:
        yield one


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.bin"


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which are not waited for."""
    waits: list[float] = []
    monkeypatch.setattr("gptlit.download.time.sleep", waits.append)
    return waits


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def get(*urls: str, target: Path, **changes: Any) -> Path:
    options = {"sha256": SHA256, "size": SIZE, "hint": HINT, "timeout_s": 5.0, "backoff_s": 0.001}
    return download(urls, target, **(options | changes))


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def nothing_left(target: Path) -> bool:
    return not target.exists() and not part_of(target).exists()


def test_fetches_once(mirror: Mirror, target: Path) -> None:
    assert get(mirror.url, target=target) == target
    assert target.read_bytes() == CONTENT
    left = {path.suffix for path in target.parent.iterdir()}
    assert left <= {".bin", ".lock", ".ok"}
    get(mirror.url, target=target)
    assert len(mirror.requests) == 1


@pytest.mark.parametrize("sha256", [SHA256, SHA256.upper(), None])
def test_cut_connection_is_resumed_at_the_byte_received(
    mirror: Mirror, target: Path, sha256: str | None
) -> None:
    mirror.script = [Reply(cut_after=20_000), Reply()]
    get(mirror.url, target=target, sha256=sha256)
    assert target.read_bytes() == CONTENT
    assert [request.range for request in mirror.requests] == [None, "bytes=20000-"]
    assert mirror.sent == SIZE


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_cut_is_noticed_without_content_length(
    mirror: Mirror, target: Path, sha256: str | None
) -> None:
    mirror.script = [Reply(cut_after=20_000, content_length=False)]
    mirror.script += [Reply(content_length=False)]
    get(mirror.url, target=target, sha256=sha256)
    assert target.read_bytes() == CONTENT
    assert mirror.sent == SIZE


def test_later_call_resumes(mirror: Mirror, target: Path) -> None:
    mirror.script = [Reply(cut_after=20_000), Reply()]
    with pytest.raises(UserError, match="cut"):
        get(mirror.url, target=target, retries=0)
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:20_000]
    get(mirror.url, target=target, retries=0)
    assert target.read_bytes() == CONTENT
    assert mirror.sent == SIZE


def test_next_mirror_resumes_what_the_first_gave(
    mirror: Mirror, other: Mirror, target: Path
) -> None:
    mirror.script = [Reply(cut_after=20_000), Reply(status=404)]
    other.script = [Reply(etag='"other"')]
    get(mirror.url, other.url, target=target)
    assert target.read_bytes() == CONTENT
    assert other.requests == [Request("bytes=20000-", None, SIZE - 20_000)]


def test_without_hash_mirrors_are_not_mixed(mirror: Mirror, other: Mirror, target: Path) -> None:
    mirror.script = [Reply(cut_after=20_000), Reply(status=404)]
    other.script = [Reply(content=CONTENT[::-1], etag='"other"')]
    get(mirror.url, other.url, target=target, sha256=None)
    assert target.read_bytes() == CONTENT[::-1]


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 12_000), max_size=8), hashed=st.booleans())
def test_any_cuts_cost_no_byte_twice(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], hashed: bool
) -> None:
    target = tmp_path_factory.mktemp("cuts") / "file.bin"
    with serve() as mirror:
        mirror.script = [*(Reply(cut_after=cut) for cut in cuts), Reply()]
        get(mirror.url, target=target, sha256=SHA256 if hashed else None, retries=len(cuts))
        assert target.read_bytes() == CONTENT
        assert mirror.sent == SIZE


def test_progress_renews_the_retries(mirror: Mirror, target: Path) -> None:
    mirror.script = [*(Reply(cut_after=5_000) for _ in range(6)), Reply()]
    get(mirror.url, target=target, retries=1)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_cuts_without_progress_end(mirror: Mirror, target: Path, ranges: bool) -> None:
    mirror.script = [Reply(cut_after=5_000), Reply(cut_after=0 if ranges else 5_000, ranges=ranges)]
    with pytest.raises(UserError, match="attempts in vain: 3"):
        get(mirror.url, target=target, retries=2)
    assert len(mirror.requests) == 3


def test_server_without_ranges(mirror: Mirror, target: Path) -> None:
    mirror.script = [Reply(cut_after=20_000), Reply(ranges=False)]
    get(mirror.url, target=target)
    assert target.read_bytes() == CONTENT
    assert mirror.requests[1] == Request("bytes=20000-", None, SIZE)


@pytest.mark.parametrize("if_range", [True, False], ids=["if-range honoured", "if-range ignored"])
def test_changed_file_is_never_mixed(mirror: Mirror, target: Path, if_range: bool) -> None:
    new = CONTENT[::-1]
    mirror.script = [Reply(cut_after=20_000), Reply(content=new, etag='"v2"', if_range=if_range)]
    get(mirror.url, target=target, sha256=None)
    assert mirror.requests[1].if_range == '"v1"'
    assert target.read_bytes() == new


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_unnamed_content_without_hash_is_not_resumed(
    mirror: Mirror, target: Path, etag: str | None
) -> None:
    mirror.script = [Reply(cut_after=20_000, etag=etag), Reply(content=CONTENT[::-1], etag=etag)]
    get(mirror.url, target=target, sha256=None)
    assert mirror.requests[1].range is None
    assert target.read_bytes() == CONTENT[::-1]


def test_mix_is_found_by_the_hash(mirror: Mirror, target: Path) -> None:
    mirror.script = [Reply(content=CONTENT[::-1], cut_after=20_000), Reply()]
    get(mirror.url, target=target)
    assert target.read_bytes() == CONTENT
    assert [request.range for request in mirror.requests] == [None, "bytes=20000-", None]


def test_part_that_the_server_cannot_continue(mirror: Mirror, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT + b"too long")
    get(mirror.url, target=target)
    assert target.read_bytes() == CONTENT
    assert [request.range for request in mirror.requests] == [f"bytes={SIZE + 8}-", None]


def test_another_range_than_asked_is_not_appended(mirror: Mirror, target: Path) -> None:
    mirror.script = [Reply(cut_after=20_000), Reply(early=100, cut_after=1_000), Reply()]
    get(mirror.url, target=target, sha256=None, size=None)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_complete_part_of_unknown_size_is_kept(
    mirror: Mirror, target: Path, sha256: str | None
) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    target.with_name(target.name + ".etag").write_text('"v1"')
    get(mirror.url, target=target, sha256=sha256, size=None)
    assert target.read_bytes() == CONTENT
    assert [request.range for request in mirror.requests] == [f"bytes={SIZE}-"]


def test_complete_part_costs_no_request(target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    get(NO_URL, target=target)
    assert target.read_bytes() == CONTENT


def test_wrong_byte_is_refused(mirror: Mirror, target: Path) -> None:
    wrong = b"?" + CONTENT[1:]
    mirror.script = [Reply(content=wrong)]
    with pytest.raises(UserError, match=f"expected {SHA256}") as caught:
        get(mirror.url, target=target)
    assert hashlib.sha256(wrong).hexdigest() in str(caught.value)
    assert [request.range for request in mirror.requests] == [None, None]
    assert nothing_left(target)


def test_wrong_byte_once_is_cured(mirror: Mirror, target: Path) -> None:
    mirror.script = [Reply(content=b"?" + CONTENT[1:]), Reply()]
    get(mirror.url, target=target)
    assert target.read_bytes() == CONTENT


def test_wrong_mirror_is_passed(mirror: Mirror, other: Mirror, target: Path) -> None:
    mirror.script = [Reply(content=b"?" + CONTENT[1:])]
    get(mirror.url, other.url, target=target)
    assert target.read_bytes() == CONTENT
    assert other.requests == [Request(None, None, SIZE)]


def test_wrong_size_is_passed_and_keeps_the_part(
    mirror: Mirror, other: Mirror, target: Path
) -> None:
    mirror.script = [Reply(content=b"<html>", ranges=False)]
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:20_000])
    with pytest.raises(UserError, match=f"has 6 bytes, expected {SIZE}"):
        get(mirror.url, target=target)
    get(mirror.url, other.url, target=target)
    assert target.read_bytes() == CONTENT
    assert other.sent == SIZE - 20_000


def test_endless_body_is_stopped(mirror: Mirror, target: Path) -> None:
    mirror.script = [Reply(content=CONTENT * 2, content_length=False)]
    with pytest.raises(UserError, match=f"more than {SIZE} bytes"):
        get(mirror.url, target=target)
    assert nothing_left(target)


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_refusal_goes_to_the_next_mirror_at_once(
    mirror: Mirror, other: Mirror, target: Path, sleeps: list[float], status: int
) -> None:
    mirror.script = [Reply(status=status)]
    get(mirror.url, other.url, target=target)
    assert target.read_bytes() == CONTENT
    assert (len(mirror.requests), len(other.requests)) == (1, 1)
    assert sleeps == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_asked_again(mirror: Mirror, target: Path, status: int) -> None:
    mirror.script = [Reply(status=status), Reply()]
    get(mirror.url, target=target)
    assert target.read_bytes() == CONTENT


def test_waits_double(mirror: Mirror, target: Path, sleeps: list[float]) -> None:
    mirror.script = [Reply(status=500)]
    with pytest.raises(UserError, match="HTTP 500"):
        get(mirror.url, target=target, backoff_s=16.0, retries=4)
    assert sleeps == [16, 32, 60, 60]


@pytest.mark.parametrize(("value", "wait"), [("7", 7), ("86400", 60), ("soon", 0.5), ("0", 0.5)])
def test_retry_after(
    mirror: Mirror, target: Path, sleeps: list[float], value: str, wait: float
) -> None:
    mirror.script = [Reply(status=429, headers={"Retry-After": value}), Reply()]
    get(mirror.url, target=target, backoff_s=0.5)
    assert sleeps == [wait]


def test_retry_after_a_date(mirror: Mirror, target: Path, sleeps: list[float]) -> None:
    date = formatdate(time.time() + 40, usegmt=True)
    mirror.script = [Reply(status=503, headers={"Retry-After": date}), Reply()]
    get(mirror.url, target=target)
    assert 20 < sleeps[0] <= 40


def test_stalled_body_times_out_and_is_resumed(mirror: Mirror, target: Path) -> None:
    mirror.script = [Reply(stall_after=20_000), Reply()]
    get(mirror.url, target=target, timeout_s=0.3)
    assert target.read_bytes() == CONTENT
    assert mirror.requests[1].range == "bytes=20000-"


def test_silent_server_times_out(mirror: Mirror, target: Path) -> None:
    mirror.script = [Reply(silent=True)]
    start = time.monotonic()
    with pytest.raises(UserError, match=r"no answer for 0\.2 s \(attempts in vain: 2\)"):
        get(mirror.url, target=target, timeout_s=0.2, retries=1)
    assert time.monotonic() - start < 3


def test_stalled_body_is_told_as_such(mirror: Mirror, target: Path) -> None:
    mirror.script = [Reply(stall_after=20_000)]
    with pytest.raises(UserError, match=r"no byte for 0\.2 s"):
        get(mirror.url, target=target, timeout_s=0.2, retries=0)


def test_first_mirror_down(mirror: Mirror, target: Path) -> None:
    with serve() as gone:
        pass
    get(gone.url, mirror.url, target=target)
    assert target.read_bytes() == CONTENT


def test_a_server_that_is_not_there_is_tried_twice(target: Path, sleeps: list[float]) -> None:
    with serve() as gone:
        pass
    nowhere = "http://name.invalid/file.bin"
    with pytest.raises(UserError, match="attempts in vain: 2") as caught:
        get(gone.url, nowhere, target=target, backoff_s=2, retries=5)
    assert str(caught.value).count("in vain: 2") == 2
    assert sleeps == [2, 2]


def test_a_server_that_goes_away_is_waited_for(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    with ExitStack() as there:
        mirror = there.enter_context(serve())
        mirror.script = [Reply(cut_after=20_000)]

        def wait(seconds: float) -> None:
            waits.append(seconds)
            there.close()

        monkeypatch.setattr("gptlit.download.time.sleep", wait)
        with pytest.raises(UserError, match=r"refused \(attempts in vain: 4\)"):
            get(mirror.url, target=target, backoff_s=1, retries=3)
    assert waits == [1, 2, 4]


def test_all_mirrors_failing_say_why_and_what_to_do(mirror: Mirror, target: Path) -> None:
    mirror.script = [Reply(status=404)]
    with serve() as gone:
        pass
    unknown = "ftp://127.0.0.1/file.bin"
    try:
        Path("/no/such/file").read_bytes()
    except FileNotFoundError:  # an error that is being handled is not taken for the reason
        with pytest.raises(UserError) as caught:
            get(gone.url, mirror.url, unknown, target=target, retries=1)
    text = str(caught.value)
    assert "\n" not in text
    assert f"{gone.url}: Connection refused (attempts in vain: 2)" in text
    assert f"{mirror.url}: HTTP 404" in text
    assert f"{unknown}: No connection adapters were found for '{unknown}'. Check" in text
    assert str(target) in text
    assert text.endswith(HINT)


def test_no_space(mirror: Mirror, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SmallDisk(io.FileIO):
        def write(self, block: Any) -> int:
            room = 30_000 - self.tell()
            super().write(block[:room])
            if len(block) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return len(block)

    real_open = Path.open

    def small_open(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if path == part_of(target) and mode == "ab":
            return SmallDisk(path, mode)
        return real_open(path, mode, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", small_open)
        with pytest.raises(UserError, match=f"{re.escape(str(target.parent))}: 20000 more bytes"):
            get(mirror.url, target=target)
    assert len(mirror.requests) == 1
    assert part_of(target).read_bytes() == CONTENT[:30_000]
    get(mirror.url, target=target)
    assert target.read_bytes() == CONTENT


def test_half_a_local_copy_is_not_continued_from_a_server(
    mirror: Mirror, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_copy(source: Path, copy: Path) -> None:
        copy.write_bytes(source.read_bytes()[: SIZE // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    local = tmp_path / "local.bin"
    local.write_bytes(CONTENT[::-1])
    mirror.script = [Reply(cut_after=20_000), Reply()]
    with monkeypatch.context() as patch:
        patch.setattr("gptlit.download.shutil.copyfile", half_copy)
        with pytest.raises(UserError, match="no space left"):
            get(mirror.url, local.as_uri(), target=target, sha256=None, retries=0)
    get(mirror.url, target=target, sha256=None)
    assert target.read_bytes() == CONTENT


def test_cache_that_cannot_be_written(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot keep file\.bin"):
        get(mirror.url, target=tmp_path / "cache" / "file.bin")


def test_two_processes_fetch_once(mirror: Mirror, target: Path) -> None:
    both_asked = threading.Event()
    mirror.before_body = lambda: both_asked.wait(10)
    code = (
        "import sys; from pathlib import Path; from gptlit.download import download;"
        "print('ready', flush=True);"
        "print(download([sys.argv[1]], Path(sys.argv[2]), sha256=sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, mirror.url, str(target), SHA256]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        time.sleep(0.7)  # so that a second process without a lock would have asked by now
        both_asked.set()
        for process in processes:
            out, err = process.communicate(timeout=10)
            assert (process.returncode, out, err) == (0, f"{target}\n", "")
    finally:
        for process in processes:
            process.kill()
            process.wait(5)
    assert target.read_bytes() == CONTENT
    assert mirror.requests == [Request(None, None, SIZE)]


def test_prefilled_file_is_hashed_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert get(NO_URL, target=target) == target
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", lambda: pytest.fail("hashed again"))
        get(NO_URL, target=target)
    target.write_bytes(CONTENT[::-1])
    with pytest.raises(UserError, match="not the published file"):
        get(NO_URL, target=target)


@pytest.mark.parametrize(
    ("content", "found"),
    [(CONTENT[:-1], f"{SIZE - 1} bytes, expected {SIZE}"), (CONTENT[::-1], f"expected {SHA256}")],
)
def test_prefilled_wrong_file_is_refused(
    mirror: Mirror, target: Path, content: bytes, found: str
) -> None:
    target.parent.mkdir()
    target.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(target))} .*{found}; delete it"):
        get(mirror.url, target=target)
    assert target.read_bytes() == content
    assert mirror.requests == []


def test_file_url(target: Path, tmp_path: Path) -> None:
    local = tmp_path / "a b.bin"
    local.write_bytes(CONTENT)
    missing = (tmp_path / "missing").as_uri()
    get(missing, local.as_uri(), target=target)
    assert target.read_bytes() == CONTENT
    local.write_bytes(CONTENT[::-1])
    again = target.with_name("again.bin")
    with pytest.raises(UserError, match=f"no such file; .*expected {SHA256}"):
        get(missing, local.as_uri(), target=again)
    assert nothing_left(again)


@pytest.mark.parametrize(("rank", "shown"), [(None, True), ("0", True), ("1", False)])
def test_progress_is_for_the_terminal_of_rank_zero(
    mirror: Mirror,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    rank: str | None,
    shown: bool,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, pipe = Terminal(), io.StringIO()
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(sys, "stderr", terminal)
    get(mirror.url, target=target)
    assert (target.name in terminal.getvalue()) == shown
    monkeypatch.setattr(sys, "stderr", pipe)
    get(mirror.url, target=target.with_name("again.bin"))
    assert pipe.getvalue() == ""


def test_import_is_cheap() -> None:
    code = "import gptlit.download, sys; print({'requests', 'rich', 'torch'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "set()\n"


@pytest.mark.parametrize(
    ("url", "why"),
    [("http://me:secret@[bad/x", "Invalid IPv6 URL"), ("ftp://me:secret@host/x", "No connection")],
)
def test_a_url_that_is_none_is_a_reason_and_its_password_is_not_told(
    target: Path, url: str, why: str
) -> None:
    with pytest.raises(UserError, match=rf"{why}.*by hand, {HINT}$") as caught:
        get(url, target=target)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("header", ["Location", "Content-Range"])
def test_headers_that_make_no_sense_are_a_reason(mirror: Mirror, target: Path, header: str) -> None:
    status, value = (
        (302, "http://[bad/") if header == "Location" else (206, f"bytes 0-9/{'9' * 5000}")
    )
    mirror.script = [Reply(status=status, headers={header: value})]
    with pytest.raises(UserError, match=r"^cannot download file\.bin: .*by hand"):
        get(mirror.url, target=target)
