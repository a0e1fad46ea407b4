"""Pieces of text to token ids, on all cores.

For much text each core gets a process of its own, which reads jobs from its standard input and
answers on its standard output: the encoder is about a third faster in the main threads of several
processes than in several threads of one. The processes are not started by multiprocessing, which
would run a user's script again.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO, NamedTuple

import numpy as np

from gptlit.data.jobs import SPLITS, Items, Job
from gptlit.errors import UserError
from gptlit.tokenizer import Tokenizer, get_tokenizer

MOST_WORKERS = 16  # about as many as one reader can feed
PROCESS_BYTES = 2**25  # less text than this is encoded before processes would have started
WORKER = "from gptlit.data.encoder import main; main()"


class Counts(NamedTuple):
    """The size of a split. A document is counted where it ends; its end-of-text token is no
    character or byte."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    tokens: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """The sum."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class Encoded(NamedTuple):
    """The tokens of a job for one split."""

    ids: np.ndarray
    """(tokens,), of the type in which they are stored."""
    counts: Counts


Encode = Callable[[Items], list[Encoded]]


def encode_items(tokenizer: Tokenizer, dtype: np.dtype, items: Items) -> list[Encoded]:
    """The tokens of a job for each split, an end-of-text id after each document."""
    end = np.array([tokenizer.eot_id], dtype)
    answer = []
    for split in range(len(SPLITS)):
        pieces = [piece for there, piece in items if there == split]
        ids = [end if piece is None else tokenizer.encode_to_numpy(piece) for piece in pieces]
        joined = np.concatenate([end[:0], *ids], dtype=dtype, casting="unsafe")
        texts = [piece for piece in pieces if piece is not None]
        answer.append(
            Encoded(
                joined,
                Counts(
                    documents=len(pieces) - len(texts),
                    characters=sum(map(len, texts)),
                    bytes=sum(map(_n_bytes, texts)),
                    tokens=len(joined),
                ),
            )
        )
    return answer


def _n_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def encode_in_order(
    jobs: Iterator[Job], tokenizer: Tokenizer, dtype: np.dtype, size: int, workers: int | None
) -> Iterator[tuple[Job, list[Encoded]]]:
    """Each job with its tokens, in the order of `jobs`; only a few are in memory at a time.

    size: bytes of text in all, which decide between threads and processes
    workers: how many; None: one for each core that this process may use, up to MOST_WORKERS
    """
    workers = workers or min(usable_cores(), MOST_WORKERS)
    # A process builds its tokenizer from the name, which is not possible for one of the user's own.
    apart = size >= PROCESS_BYTES and _is_known(tokenizer)
    with contextlib.ExitStack() as stack:
        encode: Encode = partial(encode_items, tokenizer, dtype)
        if apart:
            encode = stack.enter_context(_processes(tokenizer.name, dtype, workers))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        pending: deque[tuple[Job, Future[list[Encoded]]]] = deque()
        for job in jobs:
            if len(pending) == 2 * workers:
                first, answer = pending.popleft()
                yield first, answer.result()
            pending.append((job, pool.submit(encode, job.items)))
        while pending:
            first, answer = pending.popleft()
            yield first, answer.result()


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Slurm and containers may grant only some of the cores
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_known(tokenizer: Tokenizer) -> bool:
    try:
        return get_tokenizer(tokenizer.name) is tokenizer
    except ValueError:
        return False


@contextlib.contextmanager
def _processes(tokenizer: str, dtype: np.dtype, workers: int) -> Iterator[Encode]:
    """A function to call from `workers` threads, which passes jobs on to as many processes."""
    running: list[subprocess.Popen[bytes]] = []
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "PYTHONSAFEPATH": "1",  # a user's folder may hold a numpy.py
        "OPENBLAS_NUM_THREADS": "1",
    }

    def encode(items: Items) -> list[Encoded]:
        process = idle.get()
        try:
            return _ask(process, items)
        finally:
            idle.put(process)

    try:
        for _ in range(workers):
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, tokenizer, dtype.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=env,
            )
            running.append(process)
            idle.put(process)
        yield encode
    finally:
        for process in running:
            process.kill()  # all answers are there, or nobody waits for them any more
            process.communicate()


def _ask(process: subprocess.Popen[bytes], items: Items) -> list[Encoded]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        _send(items, process.stdin)
        answer: list[Encoded] = pickle.load(process.stdout)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        code = process.wait()
        reason = f"signal {-code}, perhaps for want of memory" if code < 0 else f"exit code {code}"
        raise UserError(
            f"a tokenizing process has ended ({reason}); the same command goes on where it stopped"
        ) from error
    return answer


def _send(what: object, stream: IO[bytes]) -> None:
    pickle.dump(what, stream, protocol=5)
    stream.flush()


def main() -> None:
    """Answer jobs until there are no more; a Ctrl-C in the terminal is for the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tokenizer, dtype = get_tokenizer(sys.argv[1]), np.dtype(sys.argv[2])
    while True:
        try:
            items: Items = pickle.load(sys.stdin.buffer)
            _send(encode_items(tokenizer, dtype, items), sys.stdout.buffer)
        except (EOFError, BrokenPipeError):  # the parent has gone
            os._exit(0)  # without flushing into its pipe
