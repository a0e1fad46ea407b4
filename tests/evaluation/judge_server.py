"""A local server that speaks both judges' protocols and misbehaves on a script."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gptlit.evaluation.judge_api import JudgeSettings

PROMPT = "Judge {instruction} ({input}) against {output}:\n{response}"
REMINDER = "A number!"
PATHS = {"ollama": "/api/chat", "openai": "/v1/chat/completions"}


@dataclass
class Reply:
    """How the server answers one request."""

    content: str = "85"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # instead of what the protocol says
    error: Any = None  # in the stream, after half of the content, or instead of it
    cut: bool = False  # the connection closes in the middle of the body
    stall: bool = False  # nothing more comes in the middle of the body
    drop: bool = False  # the connection closes before there is any answer
    silent: bool = False  # there is none, and the connection stays
    not_done: bool = False  # the stream ends, but does not say that it is complete
    delay_s: float = 0.0


class Server:
    """Answers by the script of the entry asked about; its last line for all further requests."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.scripts: dict[str, list[Reply]] = {}
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.asked: Counter[str] = Counter()  # by the answer that is judged
        self.at_once = self.most_at_once = 0
        self.release = threading.Event()  # ends all stalls
        self.lock = threading.Lock()

    def settings(self, name: str = "ollama", **changes: Any) -> JudgeSettings:
        url = self.root + ("/v1" if name == "openai" else "")
        key = "JUDGE_KEY" if name == "openai" else None
        plain = JudgeSettings(name, url, "llama3", PROMPT, REMINDER, key, num_ctx=2048)
        return replace(plain, **({"concurrency": 1, "retries": 2, "timeout_s": 5.0} | changes))

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        content = handler.rfile.read(int(handler.headers["Content-Length"]))
        question = json.loads(content)
        text = question["messages"][-1]["content"]
        about = text.partition("answer-")[2].partition(".")[0]
        with self.lock:
            self.requests.append((handler.path, dict(handler.headers), question))
            script = self.scripts.get(about, self.scripts.get("", [Reply()]))
            reply = script[min(self.asked[about], len(script) - 1)]
            self.asked[about] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(reply.delay_s)
        with self.lock:  # who has the answer may ask again before this thread goes on
            self.at_once -= 1
        self.send(handler, reply)

    def send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.silent:
            self.release.wait(5)
        if reply.drop or reply.silent:
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        pieces = [reply.body] if reply.body is not None else self.pieces(handler.path, reply)
        if handler.path == PATHS["ollama"]:
            handler.send_header("Transfer-Encoding", "chunked")
            pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\n\r\n"]
        else:
            handler.send_header("Content-Length", str(sum(map(len, pieces))))
        handler.end_headers()
        body = b"".join(pieces)
        handler.wfile.write(body[: len(body) // 2] if reply.cut or reply.stall else body)
        handler.wfile.flush()
        if reply.stall:
            self.release.wait(5)
        handler.close_connection = reply.cut or reply.stall

    def pieces(self, path: str, reply: Reply) -> list[bytes]:
        """The body, as the protocol of a path has it."""
        if reply.status != 200:
            return [json.dumps({"error": reply.error or "it hurts"}).encode()]
        if path != PATHS["ollama"]:
            message = {"role": "assistant", "content": reply.content}
            whole = {"error": reply.error} if reply.error else {"choices": [{"message": message}]}
            return [json.dumps(whole).encode()]
        lines: list[dict[str, Any]] = [
            {"model": "llama3", "message": {"role": "assistant", "content": c}, "done": False}
            for c in reply.content
        ]
        if reply.error:
            lines[len(lines) // 2 :] = [{"error": reply.error}]
        elif not reply.not_done:
            lines += [{"model": "llama3", "message": {"content": ""}, "done": True}]
        return [json.dumps(line).encode() + b"\n" for line in lines]


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            one.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    one = Server(http.server_port)
    thread = threading.Thread(target=http.serve_forever, args=(0.005,), daemon=True)
    thread.start()
    try:
        yield one
    finally:
        one.release.set()
        http.shutdown()
        http.server_close()
        thread.join(5)
