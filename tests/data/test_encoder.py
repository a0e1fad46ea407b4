"""Processes and threads give the same tokens."""

import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gptlit.data import encoder
from gptlit.data.encoder import Encoded, encode_in_order
from gptlit.data.jobs import TRAIN, VALIDATION, Items, Job, Place
from gptlit.errors import UserError
from gptlit.tokenizer import ByteTokenizer, Tokenizer, get_tokenizer

GPT2 = get_tokenizer("gpt2")
UINT16 = np.dtype("uint16")
ITEMS: list[Items] = [
    [(TRAIN, "naïve 日本 😀"), (TRAIN, None), (VALIDATION, "one "), (VALIDATION, "\ud83d two")],
    [(VALIDATION, None)],
    [],
    *([(TRAIN, f"text {i} "), (TRAIN, None)] for i in range(30)),
]


def jobs() -> Iterator[Job]:
    return (Job(items, Place(), 0) for items in ITEMS)


def encoded(tokenizer: Tokenizer, size: int, workers: int) -> list[list[Encoded]]:
    return [answer for _, answer in encode_in_order(jobs(), tokenizer, UINT16, size, workers)]


@pytest.mark.parametrize("size", [0, encoder.PROCESS_BYTES], ids=["threads", "processes"])
@pytest.mark.parametrize("workers", [1, 3])
def test_jobs_come_back_in_order_as_ids_and_counts(size: int, workers: int) -> None:
    answers = encoded(GPT2, size, workers)
    assert len(answers) == len(ITEMS)
    for items, answer in zip(ITEMS, answers, strict=True):
        for split, (ids, counts) in enumerate(answer):
            pieces = [piece for there, piece in items if there == split]
            expected = [i for p in pieces for i in (GPT2.encode(p) if p else [GPT2.eot_id])]
            assert ids.tolist() == expected
            assert ids.dtype == UINT16
            read = "".join(piece or "" for piece in pieces)
            n_bytes = len(read.encode("utf-8", "surrogatepass"))
            assert counts == (pieces.count(None), len(read), n_bytes, len(expected))


def test_a_tokenizer_of_the_user_s_works_in_threads() -> None:
    class Shouting(ByteTokenizer):
        name = "shouting"

        def encode_to_numpy(self, text: str) -> np.ndarray:
            return super().encode_to_numpy(text.upper())

    answers = encoded(Shouting(), encoder.PROCESS_BYTES, 1)
    assert bytes(answers[3][TRAIN].ids[:-1].tolist()) == b"TEXT 0 "


def noted(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that will be started."""
    running: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            running.append(self)

    monkeypatch.setattr(encoder.subprocess, "Popen", Noted)
    return running


def test_a_process_that_dies_is_told_with_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    running = noted(monkeypatch)
    answers = encode_in_order(jobs(), GPT2, UINT16, encoder.PROCESS_BYTES, 1)
    next(answers)
    running[0].kill()
    with pytest.raises(UserError, match=r"has ended \(signal 9, perhaps for want of memory\)"):
        list(answers)


def test_processes_end_where_the_work_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    running = noted(monkeypatch)
    answers = encode_in_order(jobs(), GPT2, UINT16, encoder.PROCESS_BYTES, 2)
    next(answers)
    answers.close()  # as an error in the middle does
    assert len(running) == 2
    assert all(process.poll() is not None for process in running)
