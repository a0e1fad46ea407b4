"""Judges against a local server that speaks both protocols and misbehaves on a script."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from gptlit.errors import UserError
from gptlit.evaluation import judge_api
from gptlit.evaluation.judge import judge_answers
from gptlit.evaluation.judge_api import JudgeError, JudgeSettings
from gptlit.evaluation.judge_protocols import open_judge
from gptlit.evaluation.judge_report import JudgeReport, print_report
from gptlit.journal import Journal, progress_path
from gptlit.options import conf_dir
from tests.evaluation.judge_server import PATHS, PROMPT, REMINDER, Reply, Server, serving

KEY = "sk-very-secret-4711"
ENTRIES = [
    {"instruction": f"Task {i}", "input": "", "output": "x", "model_response": f"answer-{i}."}
    for i in range(6)
]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(judge_api, "BACKOFF_S", 0.001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "judge.json"


def judged(settings: JudgeSettings, path: Path, entries: Any = ENTRIES) -> list[int | None]:
    """Scores by the judge, None where there is none."""
    report = judge_answers(entries, settings, path, answers_path=Path("answers.json"))
    saved = [row["score"] for row in json.loads(path.read_text())["scores"]]
    assert saved == [verdict.score for verdict in report.verdicts]
    return saved


def error_of(settings: JudgeSettings, path: Path, entries: Any = ENTRIES) -> str:
    """The line of the UserError that judging ends in."""
    with pytest.raises(UserError) as caught:
        judge_answers(entries, settings, path, answers_path=Path("answers.json"))
    assert "\n" not in str(caught.value)
    assert not path.exists()
    return str(caught.value)


BOTH = pytest.mark.parametrize("name", ["ollama", "openai"])


@BOTH
def test_every_answer_gets_its_score_whatever_comes_first(
    server: Server, path: Path, name: str
) -> None:
    for i in range(6):
        server.scripts[str(i)] = [Reply(str(90 - i), delay_s=0.02 * (6 - i))]
    assert judged(server.settings(name, concurrency=3), path) == [90, 89, 88, 87, 86, 85]


def test_what_ollama_is_asked(server: Server, path: Path) -> None:
    judged(server.settings(), path, ENTRIES[:1])
    [(asked_path, headers, body)] = server.requests
    assert asked_path == "/api/chat"
    assert "Authorization" not in headers
    assert body == {
        "model": "llama3",
        "messages": [{"role": "user", "content": "Judge Task 0 () against x:\nanswer-0."}],
        "stream": True,
        "options": {"seed": 123, "temperature": 0, "num_ctx": 2048},
    }


def test_what_the_other_api_is_asked(server: Server, path: Path) -> None:
    settings = server.settings("openai", temperature=None, base_url=server.root + "/v1/")
    judged(settings, path, ENTRIES[:1])
    [(asked_path, headers, body)] = server.requests
    assert asked_path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"
    messages = [{"role": "user", "content": "Judge Task 0 () against x:\nanswer-0."}]
    assert body == {"model": "llama3", "messages": messages, "seed": 123}


PASSING = {
    "500": Reply(status=500),
    "503": Reply(status=503, body=b"<html>busy</html>"),
    "408": Reply(status=408),
    "429": Reply(status=429, headers={"Retry-After": "0"}),
    "429 without a time": Reply(status=429),
    "cut": Reply("8" * 50, cut=True),
    "stall": Reply("8" * 50, stall=True),
    "drop": Reply(drop=True),
    "silent": Reply(silent=True),
    "no JSON": Reply(body=b"85\n<html>"),
    "not UTF-8": Reply(body=b"\xff\xfe\xfd\xfc"),
    "other JSON": Reply(body=b"[85]"),
    "other fields": Reply(body=b'{"message": [], "choices": []}'),
    "no text": Reply(body=b'{"message": {"content": 5}, "choices": [{"message": 5}]}'),
    "empty": Reply(body=b""),
    "error in the stream": Reply("12", error="out of memory"),
    "error object": Reply("12", error={"message": "out of memory", "code": 7}),
}


def patience(fault: Reply) -> float:
    """Seconds: few where they pass, but a busy machine must not make a fault of a reply."""
    return 0.6 if fault.stall or fault.silent else 5.0


@BOTH
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_waited_out(
    server: Server, path: Path, name: str, fault: Reply
) -> None:
    server.scripts["1"] = [fault, fault, Reply("20")]
    assert judged(server.settings(name, timeout_s=patience(fault)), path, ENTRIES[:3]) == [
        85,
        20,
        85,
    ]
    assert server.asked == {"0": 1, "1": 3, "2": 1}


@BOTH
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_one_that_lasts_is_never_a_score(
    server: Server, path: Path, name: str, fault: Reply
) -> None:
    server.scripts["1"] = [fault]
    settings = server.settings(name, timeout_s=patience(fault), retries=1)
    if fault.status == 429:  # it is for all questions
        assert "(attempts: 2); the answers stay saved in" in error_of(settings, path)
        return
    assert judged(settings, path, ENTRIES[:3]) == [85, None, 85]
    [reason] = [row["reason"] for row in json.loads(path.read_text())["scores"] if "reason" in row]
    assert reason.endswith("(attempts: 2)")
    assert fault.error is None or "fails: out of memory" in reason
    server.scripts["1"] = [Reply("30")]  # once it has passed, only what failed is asked for
    server.asked.clear()
    assert judged(settings, path, ENTRIES[:3]) == [85, 30, 85]
    assert server.asked == {"1": 1}


def test_a_stream_must_say_that_it_is_complete(server: Server, path: Path) -> None:
    server.scripts["0"] = [Reply("8", not_done=True), Reply("80")]
    assert judged(server.settings(), path, ENTRIES[:1]) == [80]


@BOTH
def test_where_everything_fails_the_judge_is_given_up(
    server: Server, path: Path, name: str
) -> None:
    server.scripts[""] = [Reply(status=500, error="no memory")]
    line = error_of(server.settings(name), path)
    assert "HTTP 500: no memory (attempts: 3); the answers stay saved in answers.json" in line
    assert 3 <= len(server.asked) < 6


def test_three_failures_in_a_row_are_too_many(server: Server, path: Path) -> None:
    settings = server.settings(concurrency=1, retries=0)
    for i in "1245":
        server.scripts[i] = [Reply(status=500)]
    assert judged(settings, path) == [85, None, None, 85, None, None]
    server.scripts["3"] = [Reply(status=500)]
    assert "answers HTTP 500" in error_of(settings, path.with_name("other.json"))


def test_a_question_that_is_refused_stops_no_other(server: Server, path: Path) -> None:
    for i in "0134":
        server.scripts[i] = [Reply(status=400, error="too long")]
    assert judged(server.settings(), path, ENTRIES[2:]) == [85, None, None, 85]
    assert judged(server.settings(), path) == [None, None, 85, None, None, 85]
    assert set(server.asked.values()) <= {1, 2}  # no retries: once in each run


def test_when_all_questions_are_refused_so_is_the_run(server: Server, path: Path) -> None:
    server.scripts[""] = [Reply(status=400, error={"message": "no temperature here"})]
    assert "HTTP 400: no temperature here;" in error_of(server.settings("openai"), path)
    assert 3 <= len(server.asked) < 6


class Waits(threading.Event):
    """Records the waits between attempts, which are not waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0)
        return False


@BOTH
def test_waits_grow_and_follow_what_the_server_asks_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(judge_api, "BACKOFF_S", 1.0)
    date = formatdate(time.time() + 30, usegmt=True)
    server.scripts[""] = [
        Reply(status=500),
        Reply(drop=True),
        Reply(status=429, headers={"Retry-After": "7"}),
        Reply(status=503, headers={"Retry-After": date}),
        Reply(status=429, headers={"Retry-After": "soon"}),
        *[Reply(status=500)] * 2,
        Reply("77"),
    ]
    waits = Waits()
    assert open_judge(server.settings(name, retries=9)).ask("How good?", waits) == "77"
    assert [round(s) for s in waits.seconds if s < 20 or s > 31] == [1, 2, 7, 16, 32, 60]
    assert any(27 < s <= 31 for s in waits.seconds)


def test_it_is_really_waited(server: Server, path: Path) -> None:
    server.scripts["0"] = [Reply(status=429, headers={"Retry-After": "1"}), Reply()]
    begin = time.perf_counter()
    assert judged(server.settings(), path, ENTRIES[:1]) == [85]
    assert time.perf_counter() - begin >= 1


def test_a_wait_of_hours_is_the_users_affair(server: Server, path: Path) -> None:
    server.scripts["2"] = [Reply(status=429, headers={"Retry-After": "7200"}, error="quota")]
    line = error_of(server.settings("openai"), path)
    assert "HTTP 429: quota; it asks to wait 7,200 s" in line
    assert f"2 of 6 scores are saved in {progress_path(path)}" in line
    assert server.asked["2"] == 1


@BOTH
@pytest.mark.parametrize(
    ("reply", "score"), [("85/100", 85), ("Score: 85", 85), ("85", 85), ("100", 100), ("0", 0)]
)
def test_replies_that_are_scores(
    server: Server, path: Path, name: str, reply: str, score: int
) -> None:
    server.scripts[""] = [Reply(reply)]
    assert judged(server.settings(name), path, ENTRIES[:1]) == [score]


@BOTH
@pytest.mark.parametrize("reply", ["I think ninety", "101", "-5", "", "I give 3 reasons for 90"])
def test_a_reply_that_is_no_score_is_asked_again(
    server: Server, path: Path, name: str, reply: str
) -> None:
    server.scripts["0"] = [Reply(reply), Reply("90")]
    server.scripts["1"] = [Reply(reply)]
    settings = server.settings(name)
    assert judged(settings, path, ENTRIES[:3]) == [90, None, 85]
    assert server.asked == {"0": 2, "1": 2, "2": 1}
    questions = [body["messages"] for _, _, body in server.requests[:2]]
    assert questions[1][0]["content"] == questions[0][0]["content"] + "\n\n" + REMINDER
    content = json.loads(path.read_text())
    assert content["unscored"] == 1
    told = f"no score in the reply: {reply}" if reply else "the reply is empty"
    assert content["scores"][1]["reason"] == told
    assert content["mean"] == 87.5
    judged(settings, path, ENTRIES[:3])  # the judge has spoken
    assert server.asked.total() == 5


def test_a_judge_that_writes_on_and_on_is_not_waited_for(server: Server, path: Path) -> None:
    server.scripts["0"] = [Reply("talk " * 10_000), Reply("50")]
    server.scripts["1"] = [Reply("50\n" + "since " * 10_000)]
    assert judged(server.settings(), path, ENTRIES[:2]) == [50, 50]


def free_port() -> int:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        return http.server_port


def test_without_a_server_one_line_says_how_to_start_it(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_api, "BACKOFF_S", 60.0)  # and it says so at once
    url = f"http://127.0.0.1:{free_port()}"
    line = error_of(server.settings(base_url=url), path)
    assert line == (
        f"no judge answers at {url} (Connection refused): start it with `ollama serve` and"
        " `ollama pull llama3`; the answers stay saved in answers.json, run the command again to"
        " go on"
    )
    assert "check the network" in error_of(server.settings("openai", base_url=url), path)


def test_a_server_that_goes_away_leaves_what_it_said(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    judge = open_judge(server.settings(retries=2))
    waits = Waits()
    judge.ask("answer-0.", waits)
    judge.url = dead + "/api/chat"
    with pytest.raises(JudgeError, match=r"no judge answers .*ollama serve.*\(attempts: 3\)") as it:
        judge.ask("answer-1.", waits)
    assert it.value.fatal
    assert len(waits.seconds) == 2


def test_a_name_that_no_machine_has(server: Server, path: Path) -> None:
    line = error_of(server.settings(base_url="http://judge.invalid"), path)
    assert line.startswith("no judge answers at http://judge.invalid (")


def test_a_server_without_encryption_is_not_asked_again(server: Server, path: Path) -> None:
    url = server.root.replace("http:", "https:")
    line = error_of(server.settings(base_url=url), path)
    assert line.startswith(f"cannot connect to {url}: [SSL")
    assert "(attempts:" not in line


def test_a_fault_of_our_own_is_neither_a_score_nor_the_servers(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(judge_api.Judge, "ask", broken)
    with pytest.raises(ZeroDivisionError):
        judge_answers(ENTRIES, server.settings(), path)
    assert not path.exists()


def test_a_model_that_ollama_does_not_have(server: Server, path: Path) -> None:
    server.scripts[""] = [Reply(status=404, error='model "llama3" not found')]
    line = error_of(server.settings(), path)
    assert "`ollama pull llama3`" in line
    assert 'HTTP 404: model "llama3" not found' in line
    assert server.asked.total() == 1
    line = error_of(server.settings("openai"), path)
    assert "check judge.base_url, such as http://localhost:8000/v1, and judge.mod" in line


@BOTH
def test_a_url_with_another_path_is_told_with_what_was_asked(
    server: Server, path: Path, name: str
) -> None:
    server.scripts[""] = [Reply(status=404, body=b"404 page not found")]
    url = f"{server.root}/{'v1' if name == 'ollama' else ''}"
    line = error_of(server.settings(name, base_url=url), path)
    assert line.startswith(f"nothing to ask at {server.root}{server.requests[0][0]}: HTTP 404")
    assert "ollama pull" not in line and "check judge.base_url" in line


def test_a_setting_that_a_model_refuses_may_be_left_out(server: Server, path: Path) -> None:
    error = {"message": "Unsupported value: 'temperature' does not support 0 with this model."}
    server.scripts[""] = [Reply(status=400, error=error)]
    line = error_of(server.settings("openai"), path)
    assert "with this model.; judge.temperature=null leaves that to the server;" in line
    assert "judge.seed" not in line


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_judge_that_came_to_no_end_of_its_thoughts_is_told_so(
    server: Server, path: Path, field: str
) -> None:
    thought: dict[str, Any] = {"content": "", "thinking": "40? ", field: "40?"}
    body = {"choices": [{"message": {**thought, "content": None}}]}
    lines = [{"message": thought, "done": done} for done in (False, True)]
    for name, written in (("openai", [body]), ("ollama", lines)):
        server.scripts["0"] = [Reply(body="\n".join(map(json.dumps, written)).encode())]
        report = judge_answers(ENTRIES[:1], server.settings(name), path)
        assert report.verdicts[0].reason.startswith("no score in the reply: <think>40?")


@BOTH
@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error": {"message": "no such thing"}}', "no such thing"),
        (b'{"object": "error", "message": "no such thing", "code": 400}', "no such thing"),
        (b'{"detail": "no such thing"}', "{'detail': 'no such thing'}"),
        (b'{"error": 7}', "7"),
        (b'["no such thing"]', "Bad Request"),
        (b"<html>no such thing</html>", "Bad Request"),
    ],
)
def test_what_servers_say_of_an_error_is_told(
    server: Server, path: Path, name: str, body: bytes, told: str
) -> None:
    server.scripts[""] = [Reply(status=400, body=body)]
    assert f"answers HTTP 400: {told};" in error_of(server.settings(name), path, ENTRIES[:1])


@BOTH
def test_nothing_is_sent_on_to_another_server(server: Server, path: Path, name: str) -> None:
    server.scripts[""] = [Reply(status=307, headers={"Location": server.root + "/other"})]
    error_of(server.settings(name), path)
    assert [asked for asked, _, _ in server.requests] == [PATHS[name]]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"base_url": "localhost:11434"}, "judge.base_url=localhost:11434 is no URL of a server"),
        ({"base_url": "ftp://host"}, "judge.base_url=ftp://host is no URL of a server"),
        ({"base_url": "http://[::1"}, "is no URL of a server; give one such as http://localhost"),
        ({"base_url": "http://"}, "is no URL of a server"),
        ({"prompt": "How good is {output}?"}, "judge.prompt has no {response}"),
        ({"api_key_env": "NO_SUCH_KEY"}, "export NO_SUCH_KEY=KEY, or give judge.api_key_env=null"),
        ({"api_key_env": KEY}, "must be the name of an environment variable"),
        ({"api_key_env": "gsk_" + "a1B2" * 9}, "must be the name of an environment variable"),
    ],
)
def test_settings_that_cannot_be_right(
    server: Server, path: Path, changes: dict[str, Any], line: str
) -> None:
    found = error_of(server.settings(**changes), path)
    assert line in found
    assert KEY not in found
    assert "a1B2" not in found
    assert not server.requests


@pytest.mark.parametrize("key", ["", " \n", "two words", f"{KEY}\r\nX: {KEY}", f"{KEY}é", "a\0b"])
def test_what_cannot_be_a_key(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr("os.environ", {"JUDGE_KEY": key})
    line = error_of(server.settings("openai"), path)
    assert "JUDGE_KEY" in line
    assert KEY not in line


LEAKS = {
    "refused": [Reply(status=401, error={"message": f"no such key: {KEY}"})],
    "forbidden": [Reply(status=403, error=f"{KEY} " * 60)],
    "in other JSON": [Reply(status=401, error={"key": KEY})],
    "in the reply": [Reply(f"You sent Bearer {KEY}")],
    "near the cut": [Reply("x" * (judge_api.MAX_TEXT - 5) + KEY)],
    "in an error": [Reply("12", error=f"bad {KEY}")],
    "no JSON": [Reply(body=f"{KEY}".encode())],
    "in a redirect": [Reply(status=307, headers={"Location": f"http://127.0.0.1:9/{KEY}"})],
    "broken off": [Reply(KEY * 3, cut=True)],
    "busy": [Reply(status=429, error=KEY)],
}


@BOTH
@pytest.mark.parametrize("script", LEAKS.values(), ids=LEAKS)
def test_the_key_is_in_no_output_log_file_or_traceback(
    server: Server,
    tmp_path: Path,
    path: Path,
    name: str,
    script: list[Reply],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    server.scripts["3"] = script
    shown = ""
    try:
        settings = server.settings(name, api_key_env="JUDGE_KEY")
        print_report(judge_answers(ENTRIES, settings, path, show_progress=True))
    except UserError as error:
        shown = "".join(traceback.format_exception(error))
        assert not path.exists()
    assert server.requests[-1][1]["Authorization"] == f"Bearer {KEY}"
    files = "".join(file.read_text() for file in tmp_path.iterdir())
    everything = shown + files + caplog.text + "".join(capfd.readouterr()) + repr(settings)
    for part in (KEY, KEY[:12], KEY[-8:]):
        assert part not in everything


def test_spaces_around_a_key_are_left_out(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    judged(server.settings("openai"), path, ENTRIES[:1])
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"


def test_a_password_file_does_not_replace_the_key(
    server: Server, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    judged(server.settings("openai"), path, ENTRIES[:1])
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"


def test_a_password_in_the_url_is_not_shown(server: Server, path: Path) -> None:
    url = server.root.replace("//", "//me:hunter2@")
    judged(server.settings(base_url=url), path, ENTRIES[:1])
    assert server.requests[0][1]["Authorization"].startswith("Basic ")
    server.scripts[""] = [Reply(status=500)]
    line = error_of(server.settings(base_url=url), path.with_name("other.json"))
    assert "hunter2" not in line + path.read_text() + progress_path(path).read_text()


def test_a_server_on_this_machine_is_not_sought_behind_a_proxy(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    assert judged(server.settings(), path, ENTRIES[:1]) == [85]


def test_a_proxy_that_does_not_answer_is_not_taken_for_the_server(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", f"http://127.0.0.1:{free_port()}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        line = error_of(server.settings(base_url=f"{scheme}://judge.invalid"), path)
        assert line.startswith(f"cannot reach {scheme}://judge.invalid through the proxy in HTTP_")
        assert "(Connection refused): unset it, or name the server's host in NO_PROXY;" in line


@BOTH
def test_two_runs_write_the_same_bytes(server: Server, tmp_path: Path, name: str) -> None:
    files = []
    for run, concurrency in enumerate([1, 4, 4]):
        chance = random.Random(run)
        for i in range(6):
            scores = ["I think ninety"] if i == 4 else ["8x", str(30 + i)] if i == 2 else [str(i)]
            server.scripts[str(i)] = [Reply(s, delay_s=chance.random() * 0.05) for s in scores]
        server.asked.clear()
        files.append(tmp_path / str(run) / "judge.json")
        settings = server.settings(name, concurrency=concurrency)
        assert judged(settings, files[-1]) == [0, 1, 32, 3, None, 5]
    assert len({file.read_bytes() for file in files}) == 1


def test_after_a_crash_only_what_is_missing_is_asked(
    server: Server, path: Path, tmp_path: Path
) -> None:
    server.scripts["3"] = [Reply("I think ninety")]
    undisturbed = tmp_path / "undisturbed.json"
    settings = server.settings()
    judged(settings, undisturbed)
    server.scripts["4"] = [Reply(status=401)]
    line = error_of(settings, path)
    assert f"saved in answers.json, 4 of 6 scores are saved in {progress_path(path)}" in line
    server.scripts.pop("4")
    server.asked.clear()
    kept = progress_path(path)
    kept.write_bytes(kept.read_bytes() + b'{"key": "cut sho')  # as a crash may leave it
    judged(settings, path)
    assert server.asked == {"4": 1, "5": 1}
    assert path.read_bytes() == undisturbed.read_bytes()


def test_who_interrupts_does_not_wait_for_replies(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in "234":
        server.scripts[i] = [Reply(silent=True)]
    add = Journal.add

    def interrupted(self: Journal, rows: Any) -> None:
        add(self, rows)
        if len(self.rows) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", interrupted)
        begin = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            judge_answers(ENTRIES[:5], server.settings(concurrency=3, timeout_s=60.0), path)
        assert time.perf_counter() - begin < 3
    server.release.set()
    for i in "234":
        server.scripts[i] = [Reply("60")]
    server.asked.clear()
    assert judged(server.settings(), path, ENTRIES[:5]) == [85, 85, 60, 60, 60]
    assert not server.asked["0"] + server.asked["1"]


def test_scores_of_other_answers_or_settings_are_not_taken(server: Server, path: Path) -> None:
    settings = server.settings()
    judged(settings, path)
    for other in (
        replace(settings, model="phi3"),
        replace(settings, prompt=PROMPT + "?"),
        replace(settings, seed=1),
        replace(settings, temperature=0.5),
        replace(settings, num_ctx=4096),
    ):
        server.asked.clear()
        judged(other, path)
        assert server.asked.total() == 6
    server.asked.clear()
    judged(settings, path)  # the first ones are still known
    judged(replace(settings, concurrency=3, retries=7, timeout_s=1.5), path)
    assert not server.asked
    judged(settings, path, [{**ENTRIES[0], "model_response": "answer-0. Or not."}, *ENTRIES[1:]])
    assert server.asked == {"0": 1}


def test_the_same_answer_to_the_same_question_is_judged_once(server: Server, path: Path) -> None:
    server.scripts["0"] = [Reply("40")]
    assert judged(server.settings(), path, [ENTRIES[0], ENTRIES[1], ENTRIES[0]]) == [40, 85, 40]
    assert server.asked == {"0": 1, "1": 1}


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_at_a_time_and_no_more(server: Server, path: Path, concurrency: int) -> None:
    server.scripts[""] = [Reply(delay_s=0.05)]
    judged(server.settings(concurrency=concurrency), path)
    assert server.most_at_once == concurrency


def test_no_answers_make_an_empty_report(server: Server, path: Path) -> None:
    assert judged(server.settings(), path, []) == []
    assert not server.requests


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": None}], ids=str)
def test_an_entry_without_input(server: Server, path: Path, given: dict[str, Any]) -> None:
    entry = {"instruction": "a", "output": "b", "model_response": "answer-0.", **given}
    assert judged(server.settings(), path, [entry]) == [85]
    assert server.requests[0][2]["messages"][0]["content"].startswith("Judge a () against b")


def test_a_result_that_cannot_be_written_is_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        judge_answers(ENTRIES, server.settings(), tmp_path / "file" / "judge.json")


@pytest.mark.parametrize("name", ["ollama", "openai"])
def test_the_options_of_conf_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    own = OmegaConf.load(conf_dir() / "judge" / f"{name}.yaml")
    base = OmegaConf.load(conf_dir() / "judge" / "ollama.yaml")
    node: Any = OmegaConf.to_container(OmegaConf.merge(base, own))
    node.pop("defaults", None)
    settings = JudgeSettings(**node)
    assert settings.name == name
    for place in ("{instruction}", "{input}", "{output}", "{response}"):
        assert settings.prompt.count(place) == 1
    open_judge(settings)


def test_no_judge_is_an_option(path: Path) -> None:
    assert OmegaConf.load(conf_dir() / "judge" / "none.yaml") == {"name": "none"}


def test_the_report_is_that_of_the_file(server: Server, path: Path) -> None:
    report = judge_answers(ENTRIES, server.settings(), path)
    assert isinstance(report, JudgeReport)
    assert json.loads(path.read_text()) == report.to_dict()
