"""Let another language model score answers from 0 to 100.

This is reference-guided grading of single answers as in Zheng et al. 2023, "Judging LLM-as-a-Judge
with MT-Bench and Chatbot Arena", section 3.1.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from gptlit.errors import UserError
from gptlit.evaluation.answers import progress_bar, write_json
from gptlit.evaluation.judge_api import Judge, JudgeError, JudgeSettings
from gptlit.evaluation.judge_protocols import open_judge
from gptlit.evaluation.judge_report import PLACES, JudgeReport, Verdict, judged_texts
from gptlit.journal import Journal, digest, progress_path

MAX_FAILURES = 3
"""After this many questions in a row without a reply, judging stops."""


def judge_answers(
    entries: Sequence[Mapping[str, Any]],
    settings: JudgeSettings,
    path: Path,
    *,
    answers_path: Path | None = None,
    show_progress: bool = False,
) -> JudgeReport:
    """Let the judge score each answer, and write the result.

    Scores are saved as they come in a JSONL file beside `path`, under a hash of the entry, the
    answer and the settings that matter: a later run asks only for those that are missing. After a
    reply without a score the judge is asked once more, with a reminder; then the answer counts as
    unscored. So does an answer that gets no reply while others do; a later run asks for it again.

    Args:
        entries: each with `instruction`, `input`, `output` and `model_response`.
        settings: of the judge.
        path: the JSON file to write: `JudgeReport.to_dict`.
        answers_path: the file of the answers, which is named if the judge fails.
        show_progress: draw a bar on a terminal.

    Raises:
        UserError: a setting is wrong, there is no server, no model or no access, the server does
            not recover, or a file cannot be written.
    """
    judge = open_judge(settings)
    journal = Journal(progress_path(path), "scores of a judge")
    known = {row["key"]: Verdict(row["score"], row["reason"]) for row in journal.rows}
    keys = [_hash(entry, settings) for entry in entries]
    prompts = {
        key: fill_prompt(settings.prompt, entry)
        for key, entry in zip(keys, entries, strict=True)
        if key not in known
    }
    failures: dict[str, Verdict] = {}
    in_a_row = 0

    def give_up(error: JudgeError) -> UserError:
        have = sum(key in known for key in keys)
        return UserError(f"{error}; {_kept(answers_path, journal.path, have, len(keys))}")

    n_keys = len(set(keys))
    with progress_bar(show_progress) as progress, closing(_judge_all(judge, prompts)) as judged:
        bar = progress.add_task("judging", total=n_keys, completed=n_keys - len(prompts))
        for key, verdict in judged:
            if isinstance(verdict, JudgeError):
                failures[key] = Verdict(None, str(verdict))
                in_a_row += 1
                # Many refusals of single questions are no reason to stop, unless there is nothing
                # but refusals.
                hopeless = in_a_row >= MAX_FAILURES and (
                    verdict.retry or not any(key in known for key in keys)
                )
                if verdict.fatal or hopeless or len(failures) == n_keys:
                    raise give_up(verdict) from verdict
            else:
                known[key] = verdict
                in_a_row = 0
                journal.add([{"key": key, **asdict(verdict)}])
            progress.advance(bar)
    verdicts = [known[key] if key in known else failures[key] for key in keys]
    report = JudgeReport(settings.name, settings.model, entries, verdicts)
    write_json(path, report.to_dict())
    return report


def _judge_all(
    judge: Judge, prompts: Mapping[str, str]
) -> Generator[tuple[str, Verdict | JudgeError], None, None]:
    """Verdicts, or errors in their place, as they come, `concurrency` questions at a time; after a
    fatal error no new question is asked."""
    todo: SimpleQueue[tuple[str, str]] = SimpleQueue()
    done: SimpleQueue[tuple[str, Verdict | Exception]] = SimpleQueue()
    stopped = Event()
    for item in prompts.items():
        todo.put(item)

    def work() -> None:
        while not stopped.is_set():
            try:
                key, prompt = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((key, _verdict(judge, prompt, stopped)))
            except Exception as error:
                done.put((key, error))
                if isinstance(error, JudgeError) and error.fatal:
                    stopped.set()

    # Daemons, so that an interrupt does not wait for the replies that are on their way.
    for _ in range(min(judge.settings.concurrency, len(prompts))):
        Thread(target=work, daemon=True).start()
    try:
        for _ in prompts:
            key, result = done.get()
            if not isinstance(result, Verdict | JudgeError):
                raise result
            yield key, result
    finally:
        stopped.set()


def _verdict(judge: Judge, prompt: str, stopped: Event) -> Verdict:
    """Ask once, and once more with the reminder."""
    reply = ""
    for question in (prompt, f"{prompt}\n\n{judge.settings.reminder}"):
        reply = judge.ask(question, stopped)
        if (score := parse_score(reply)) is not None:
            return Verdict(score)
    shown = judge.shown(reply)
    return Verdict(None, f"no score in the reply: {shown}" if shown else "the reply is empty")


def _hash(entry: Mapping[str, Any], settings: JudgeSettings) -> str:
    """A hash of all that a score depends on."""
    how = ("concurrency", "retries", "timeout_s", "api_key_env")
    what = {name: value for name, value in asdict(settings).items() if name not in how}
    return digest([judged_texts(entry), what])


def _kept(answers: Path | None, scores: Path, have: int, total: int) -> str:
    """The end of an error: what is not lost."""
    kept = [f"the answers stay saved in {answers}"] if answers else []
    if have:
        kept.append(f"{have} of {total} scores are saved in {scores}")
    return ", ".join([*kept, "run the command again to go on"])


def fill_prompt(prompt: str, entry: Mapping[str, Any]) -> str:
    """A prompt with an entry's texts in place of the placeholders; other braces, in it or in the
    texts, are left alone."""
    places = re.compile(rf"\{{({'|'.join(PLACES)})\}}")
    return places.sub(lambda place: str(judged_texts(entry)[PLACES[place[1]]]), prompt)


_NUMBER = r"([0-9]{1,3})(?:\s*/\s*100|\s+out\s+of\s+100|\s*%)?\s*[.!]?"
_LABEL = r"(?:(?:the|my|your|final|overall|total)\s+)*(?:score|rating|grade)\s*(?:is\b|[:=])?"
_BARE = re.compile(_NUMBER, re.IGNORECASE)
_LABELLED = re.compile(rf"{_LABEL}\s*{_NUMBER}", re.IGNORECASE)
_THOUGHTS = re.compile(r"\A(?:.*</think>|\s*<think>.*)", re.DOTALL)
_MARKS = re.compile(r"[*_`#\"\[\]]+")


def parse_score(reply: str) -> int | None:
    """The score that a judge's reply states, or None.

    A score is a line of its own, and nothing else stands on it: the first line may be just a
    number ("85", "85/100", "85 out of 100", "85%"); any line may be one with a label ("Score: 85",
    "**My rating:** 85/100."). Numbers inside of sentences never count, as they may count something
    else ("I give 3 reasons for a score of 90" has no score), nor do other scales ("8/10"),
    fractions, numbers in words, and those above 100. Lines that disagree are no score. What a
    model thinks aloud first (<think>...</think>) is not part of its reply; some servers put
    <think> at the end of the prompt, so that the reply has only </think>.
    """
    reply = _THOUGHTS.sub("", reply)
    lines = [line for text in reply.splitlines() if (line := _MARKS.sub(" ", text).strip())]
    found = [_LABELLED.fullmatch(line) for line in lines] + [_BARE.fullmatch(s) for s in lines[:1]]
    scores = {int(match[1]) for match in found if match}
    score = scores.pop() if len(scores) == 1 else None
    return score if score is not None and score <= 100 else None
