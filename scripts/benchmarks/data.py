"""How fast text becomes tokens, and tokens become batches."""

import argparse
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Contestant, Measurement, positive, positive_float

BASELINE = "tiktoken"
COSTS = {"tokenize_corpus over tiktoken alone": ("gptlit", "tiktoken")}
BASE_BYTES = 2**24  # text repeats this much of it, with its lines shuffled each time
FILE_BYTES = 2**27
SAMPLE_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Size of the corpus and of the batches."""
    parser.add_argument("--mb", type=positive, default=200, help="megabytes of text")
    loader = "of the loader"
    parser.add_argument("--batch-size", type=positive, default=8, help=f"windows, {loader}")
    parser.add_argument("--context", type=positive, default=1024, help=f"tokens, {loader}")
    parser.add_argument("--seconds", type=positive_float, default=1.0, help=f"time {loader}")


def check(_args: argparse.Namespace) -> str:
    """The device that it is measured on."""
    return "cpu"


def gptlit(args: argparse.Namespace) -> Measurement:
    """`tokenize_corpus`: hash, read, cut, encode, write. Memory is that of all its processes."""
    from gptlit.data.corpus import TextFiles
    from gptlit.data.tokenizing import tokenize_corpus
    from gptlit.tokenizer import get_tokenizer

    tokenizer = get_tokenizer("gpt2")
    with _corpus(args) as folder, _peak_memory() as peak:
        start = time.perf_counter()
        tokenize_corpus(TextFiles(str(folder)), tokenizer, folder / ".cache", show_progress=False)
        seconds = time.perf_counter() - start
    return Measurement(args.mb / seconds, "MB/s", memory_gb=peak[0] / 1e9)


def tiktoken(args: argparse.Namespace) -> Measurement:
    """Nothing but tiktoken's `encode_ordinary`, in a process for each core, on text of the same
    kind that is in memory already."""
    from gptlit.data.encoder import usable_cores

    cores = usable_cores()
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(cores), context.SimpleQueue()
    n_bytes = min(args.mb * 10**6 // cores, 4 * BASE_BYTES)
    with _peak_memory() as peak:
        processes = [
            context.Process(target=_encode_alone, args=(n_bytes, seed, start, answers))
            for seed in range(cores)
        ]
        for process in processes:
            process.start()
        seconds = max(answers.get() for _ in processes)
        for process in processes:
            process.join()
    return Measurement(cores * n_bytes / seconds / 1e6, "MB/s", memory_gb=peak[0] / 1e9)


def _encode_alone(n_bytes: int, seed: int, start: Any, answers: Any) -> None:
    from gptlit.tokenizer import get_tokenizer

    encode = vars(get_tokenizer("gpt2"))["_encoding"].encode_ordinary
    pieces = list(_texts(n_bytes, seed))
    start.wait()
    began = time.perf_counter()
    for piece in pieces:
        encode(piece)
    answers.put(time.perf_counter() - began)


def loader(args: argparse.Namespace) -> Measurement:
    """The training loader, epoch after epoch."""
    from gptlit.data.text import TextDataModule
    from gptlit.device import peak_memory_gb
    from gptlit.tokenizer import get_tokenizer

    with _corpus(args) as folder:
        data = TextDataModule(
            tokenizer=get_tokenizer("gpt2"),
            context_length=args.context,
            batch_size=args.batch_size,
            seed=0,
            path=str(folder),
            cache_dir=folder / ".cache",
        )
        data.prepare_data()
        data.setup("fit")
        batches = 0
        start = time.perf_counter()
        while (seconds := time.perf_counter() - start) < args.seconds:
            for _ in data.train_dataloader():
                batches += 1
                if time.perf_counter() - start >= args.seconds:
                    break
    return Measurement(batches / seconds, "batches/s", memory_gb=peak_memory_gb("cpu"))


CONTESTANTS: dict[str, Contestant] = {
    "gptlit": gptlit,
    "tiktoken": tiktoken,
    "loader": loader,
}


@contextmanager
def _corpus(args: argparse.Namespace) -> Iterator[Path]:
    """A temporary folder of text files, the same each time."""
    with tempfile.TemporaryDirectory() as name:
        folder, left = Path(name), args.mb * 10**6
        for number in range(-(-left // FILE_BYTES)):
            with (folder / f"{number:04d}.txt").open("w", encoding="utf-8") as file:
                file.writelines(_texts(min(left, FILE_BYTES), number))
            left -= FILE_BYTES
        yield folder


def _texts(n_bytes: int, seed: int) -> Iterator[str]:
    """Text in pieces of about 1 MB: Python's documentation in disorder, with numbers and with words
    that no vocabulary knows."""
    from pydoc_data.topics import topics

    rng = np.random.default_rng(seed)
    words = np.array(re.findall(r"\S+", " ".join(topics.values())), object)
    lines: list[str] = []
    size = 0
    while size < min(n_bytes, BASE_BYTES):
        chosen = words[rng.integers(len(words), size=(10_000, 12))]
        chosen[:, 3] = rng.integers(10**6, size=len(chosen)).astype(str)
        chosen[:, 7] = ["".join(map(chr, word)) for word in rng.integers(97, 123, (len(chosen), 7))]
        lines += [" ".join(line) for line in chosen]
        size += sum(len(line) + 1 for line in lines[-len(chosen) :])
    done = 0
    while True:
        rng.shuffle(lines)
        for start in range(0, len(lines), 10_000):
            text = "\n".join(lines[start : start + 10_000]) + "\n"
            yield text[: n_bytes - done]
            done += len(text)
            if done >= n_bytes:
                return


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """The most memory that this process and its children had at once, in bytes: the sum of their
    PSS, in which each counts its share of a shared page, read five times a second. 0 if the system
    does not tell."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            peak[0] = max(peak[0], sum(map(_pss, [os.getpid(), *_children(os.getpid())])))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _children(pid: int) -> list[int]:
    found = [
        int(child)
        for file in Path(f"/proc/{pid}/task").glob("*/children")
        for child in file.read_text().split()
    ]
    return found + [below for child in found for below in _children(child)]


def _pss(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended, or this is no Linux
        return 0.0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0.0
