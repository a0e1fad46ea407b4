"""How fast text becomes tokens, and tokens become batches."""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import Contestant, Measurement, positive, write_text

BASELINE = "tiktoken"
COSTS = {"tokenize_corpus over tiktoken alone": ("gptlit", "tiktoken")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Size of the corpus and of the batches."""
    parser.add_argument("--mb", type=positive, default=20, help="megabytes of text")
    parser.add_argument("--batch-size", type=positive, default=8, help="windows per batch")
    parser.add_argument("--context", type=positive, default=1024, help="tokens per window")
    parser.add_argument("--seconds", type=float, default=1, help="time to read batches for")


def gptlit(args: argparse.Namespace) -> Measurement:
    """`tokenize_corpus`: hash, read, cut, encode, write, count."""
    from gptlit.data.corpus import TextFiles
    from gptlit.data.shards import tokenize_corpus
    from gptlit.tokenizer import get_tokenizer

    tokenizer = get_tokenizer("gpt2")
    with _corpus(args) as file:
        start = time.perf_counter()
        tokenize_corpus(TextFiles(str(file)), tokenizer, file.parent / "cache", show_progress=False)
        seconds = time.perf_counter() - start
    return _rate(args.mb / seconds, "MB/s")


def tiktoken(args: argparse.Namespace) -> Measurement:
    """Nothing but tiktoken's encoder on the same pieces, already in memory, in as many threads."""
    from gptlit.data.corpus import TextFiles
    from gptlit.tokenizer import get_tokenizer

    encode = get_tokenizer("gpt2").encode_to_numpy
    with _corpus(args) as file:
        pieces = [piece for text in TextFiles(str(file)).documents() for piece in text]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        start = time.perf_counter()
        for _ in pool.map(encode, pieces):
            pass
        seconds = time.perf_counter() - start
    return _rate(args.mb / seconds, "MB/s")


def loader(args: argparse.Namespace) -> Measurement:
    """The training loader, epoch after epoch."""
    from gptlit.data.text import TextDataModule
    from gptlit.tokenizer import get_tokenizer

    with _corpus(args) as file:
        data = TextDataModule(
            tokenizer=get_tokenizer("gpt2"),
            context_length=args.context,
            batch_size=args.batch_size,
            seed=0,
            path=str(file),
            cache_dir=file.parent,
        )
        data.prepare_data()
        data.setup("fit")
        batches = 0
        start = time.perf_counter()
        while (seconds := time.perf_counter() - start) < args.seconds:
            batches += sum(1 for _ in data.train_dataloader())
    return _rate(batches / seconds, "batches/s")


CONTESTANTS: dict[str, Contestant] = {
    "gptlit": gptlit,
    "tiktoken": tiktoken,
    "loader": loader,
}


@contextmanager
def _corpus(args: argparse.Namespace) -> Iterator[Path]:
    """A text file in a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_text(Path(folder) / "corpus.txt", args.mb * 10**6)


def _rate(value: float, unit: str) -> Measurement:
    from gptlit.device import peak_memory_gb

    return Measurement(value, unit, memory_gb=peak_memory_gb("cpu"))
