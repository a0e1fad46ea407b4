import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.data.corpus import Advance, Document, Part, TextFiles
from gptlit.data.shards import Split, TokenizedCorpus
from gptlit.data.stream import Segment, ShardWriter, TokenStream, cut_segments
from gptlit.data.tokenizing import tokenize_corpus
from gptlit.errors import UserError
from gptlit.tokenizer import ByteTokenizer, get_tokenizer

BYTES = get_tokenizer("byte")
END = BYTES.eot_id


class Texts:
    """Documents from memory, each of one piece."""

    name = "some texts"
    size = done = part = 0

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def parts(self, cache_dir: Path, seen: Advance) -> list[Part]:
        return [Part(self.name, 0, repr(self.texts), "")]

    def documents(self, first_part: int = 0) -> Iterator[Document]:
        return ([text] for text in self.texts)


class NoTokenizer(ByteTokenizer):
    """For what must not be tokenized again."""

    def encode_to_numpy(self, text: str) -> np.ndarray:
        raise AssertionError("tokenized again")


def tokens(corpus: TokenizedCorpus, split: Split) -> list[int]:
    return corpus.stream(split).read(0, split.tokens).tolist()


def documents(corpus: TokenizedCorpus, split: Split) -> list[str]:
    *texts, rest = bytes_before_ends(tokens(corpus, split))
    assert not rest
    return texts


def bytes_before_ends(ids: list[int]) -> list[str]:
    texts = [bytearray()]
    for token in ids:
        if token == END:
            texts.append(bytearray())
        else:
            texts[-1].append(token)
    return [text.decode() for text in texts]


@pytest.mark.parametrize("name", ["gpt2", "byte"])
def test_a_file_is_the_ids_of_its_text_and_an_end(tmp_path: Path, name: str) -> None:
    tokenizer = get_tokenizer(name)
    path = tmp_path / "text.txt"
    text = "Some prose, naïve 日本 and 😀; numbers 12345.\n" * 40_000
    path.write_text(text, encoding="utf-8")
    corpus = tokenize_corpus(TextFiles(str(path)), tokenizer, tmp_path, shard_tokens=100_003)
    ids = tokens(corpus, corpus.train) + tokens(corpus, corpus.validation)
    assert ids == [*tokenizer.encode(text), tokenizer.eot_id]
    assert corpus.dtype == np.uint16
    *full, _ = sorted(corpus.folder.glob("*.bin"))
    assert {file.stat().st_size for file in full} == {2 * 100_003}
    assert corpus.train.characters + corpus.validation.characters == len(text)
    assert corpus.train.bytes + corpus.validation.bytes == len(text.encode())
    assert corpus.train.documents + corpus.validation.documents == 1


def test_a_large_vocabulary_gets_wider_ids(tmp_path: Path) -> None:
    class Wide(ByteTokenizer):
        vocab_size = 2**16 + 1
        eot_id = 2**16

        def _token(self, token_id: int) -> bytes:
            return bytes((token_id % 256,))

    corpus = tokenize_corpus(Texts("abc"), Wide(), tmp_path, val_fraction=0.5)
    assert corpus.dtype == np.uint32
    assert tokens(corpus, corpus.validation) == [ord("c"), 2**16]


@pytest.mark.parametrize("val_fraction", [0.01, 0.1, 1 / 3, 0.5, 0.9])
def test_one_document_is_split_by_position(tmp_path: Path, val_fraction: float) -> None:
    text = "".join(chr(97 + i % 26) for i in range(999))
    corpus = tokenize_corpus(Texts(text), BYTES, tmp_path, val_fraction=val_fraction)
    cut = int((1 - Fraction(str(val_fraction))) * 1000)
    ids = [*BYTES.encode(text), END]
    assert tokens(corpus, corpus.train) == ids[:cut]
    assert tokens(corpus, corpus.validation) == ids[cut:]
    assert (corpus.train.characters, corpus.validation.characters) == (cut, 999 - cut)


@settings(derandomize=True, max_examples=60)
@given(
    n=st.integers(2, 60),
    val_fraction=st.sampled_from([0.01, 0.1, 0.25, 0.4, 0.5, 0.75, 0.95]),
    seed=st.integers(0, 3),
)
def test_several_documents_are_split_whole(
    tmp_path_factory: pytest.TempPathFactory, n: int, val_fraction: float, seed: int
) -> None:
    texts = [f"document {i}" for i in range(n)]
    corpus = tokenize_corpus(
        Texts(*texts), BYTES, tmp_path_factory.mktemp("cache"), val_fraction=val_fraction, seed=seed
    )
    train = documents(corpus, corpus.train)
    validation = documents(corpus, corpus.validation)
    assert train
    assert validation
    assert sorted(train + validation) == sorted(texts)
    assert train == [text for text in texts if text in train]
    assert (corpus.train.documents, corpus.validation.documents) == (len(train), len(validation))
    # No block of 1 / fraction documents lacks its one, but for the first and a last incomplete one.
    assert abs(len(validation) - n * val_fraction) <= 2


def test_the_seed_draws_which_documents_validate(tmp_path: Path) -> None:
    texts = Texts(*map(str, range(100)))
    drawn = {
        tuple(documents(corpus, corpus.validation))
        for seed in range(5)
        for corpus in [tokenize_corpus(texts, BYTES, tmp_path, seed=seed)]
    }
    assert len(drawn) == 5
    for chosen in drawn:
        assert [int(text) // 10 for text in chosen] == list(range(10))


def test_a_separate_corpus_may_validate(tmp_path: Path) -> None:
    corpus = tokenize_corpus(Texts("a", "b"), BYTES, tmp_path, val_source=Texts("c"))
    assert documents(corpus, corpus.train) == ["a", "b"]
    assert documents(corpus, corpus.validation) == ["c"]


def test_the_literal_end_of_text_in_a_document_ends_nothing(tmp_path: Path) -> None:
    gpt2 = get_tokenizer("gpt2")
    corpus = tokenize_corpus(Texts("a<|endoftext|>b"), gpt2, tmp_path, val_source=Texts("c"))
    assert tokens(corpus, corpus.train) == [*gpt2.encode("a<|endoftext|>b"), gpt2.eot_id]


@pytest.mark.parametrize("texts", [(), ("",), ("", "")])
def test_a_corpus_without_text_is_refused_and_not_kept(
    tmp_path: Path, texts: tuple[str, ...]
) -> None:
    class Empty(Texts):
        def documents(self, first_part: int = 0) -> Iterator[Document]:
            return ([] for _ in self.texts)

    with pytest.raises(UserError, match=r"some texts holds no text; give a corpus with some"):
        tokenize_corpus(Empty(*texts), BYTES, tmp_path)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 2])
def test_a_fraction_out_of_range_is_refused(tmp_path: Path, val_fraction: float) -> None:
    with pytest.raises(UserError, match=rf"data\.val_fraction={val_fraction}"):
        tokenize_corpus(Texts("abc"), BYTES, tmp_path, val_fraction=val_fraction)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write the token cache in .*data\.cache_dir="):
        tokenize_corpus(Texts("abc"), BYTES, tmp_path / "file" / "cache")


def test_what_is_in_the_cache_is_not_tokenized_again(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("some text")
    first = tokenize_corpus(TextFiles(str(path)), BYTES, tmp_path)
    written = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    again = tokenize_corpus(TextFiles(str(path)), NoTokenizer(), tmp_path)
    assert (first.cached, again.cached) == (False, True)
    assert tokens(again, again.train) == tokens(first, first.train)
    assert written == {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}


def test_a_changed_file_is_tokenized_again_even_with_its_old_times(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("old text")
    tokenize_corpus(TextFiles(str(path)), BYTES, tmp_path)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("new text")
    os.utime(path, ns=times)
    corpus = tokenize_corpus(TextFiles(str(path)), BYTES, tmp_path)
    assert not corpus.cached
    assert BYTES.decode(tokens(corpus, corpus.train)).startswith("new te")


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"val_fraction": 0.2}, {"val_source": Texts("more")}]
)
def test_other_settings_are_another_entry(tmp_path: Path, change: dict) -> None:
    first = tokenize_corpus(Texts("some", "texts"), BYTES, tmp_path)
    other = tokenize_corpus(Texts("some", "texts"), BYTES, tmp_path, **change)
    assert not other.cached
    assert other.folder != first.folder


def test_another_tokenizer_is_another_entry(tmp_path: Path) -> None:
    first = tokenize_corpus(Texts("some", "texts"), BYTES, tmp_path)
    other = tokenize_corpus(Texts("some", "texts"), get_tokenizer("gpt2"), tmp_path)
    assert other.folder != first.folder


@pytest.mark.parametrize("damage", ["cut", "missing", "manifest"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    first = tokenize_corpus(Texts("some", "texts"), BYTES, tmp_path)
    ids = tokens(first, first.train)
    shard = first.folder / first.train.segments[0].file
    if damage == "cut":
        os.truncate(shard, 3)
    elif damage == "missing":
        shard.unlink()
    else:
        (first.folder / "manifest.json").write_text("{")
    again = tokenize_corpus(Texts("some", "texts"), BYTES, tmp_path)
    assert not again.cached
    assert tokens(again, again.train) == ids


def test_the_manifest_says_what_is_there(tmp_path: Path) -> None:
    corpus = tokenize_corpus(Texts("é", "bc"), BYTES, tmp_path, val_fraction=0.5, seed=3)
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    assert manifest["fingerprint"] == corpus.folder.name
    assert (manifest["tokenizer"], manifest["dtype"]) == ("byte", "uint16")
    assert (manifest["seed"], manifest["val_fraction"]) == (3, 0.5)
    assert {name: split["bytes"] for name, split in manifest["splits"].items()} == {
        "train": 2,
        "validation": 2,
    }
    assert sorted(split["characters"] for split in manifest["splits"].values()) == [1, 2]
    assert manifest["splits"]["train"]["segments"] == [["train-00000.bin", 0, 3]]


SLOW = """
import sys, time
from pathlib import Path
from gptlit.data.corpus import TextFiles
from gptlit.data.tokenizing import tokenize_corpus
from gptlit.tokenizer import ByteTokenizer

class Slow(ByteTokenizer):
    def encode_to_numpy(self, text):
        time.sleep(float(sys.argv[2]))
        return super().encode_to_numpy(text)

corpus = tokenize_corpus(TextFiles(sys.argv[1] + "/*.txt"), Slow(), Path(sys.argv[1]))
print(corpus.cached)
"""


def slow_run(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_run_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"text {i} " * 200_000)
    run = slow_run(tmp_path, 0.2)
    while not list(tmp_path.glob("*.tmp/*.bin")):
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path.suffix != ".tmp"]

    corpus = tokenize_corpus(TextFiles(str(tmp_path / "*.txt")), BYTES, tmp_path)
    assert not corpus.cached
    assert corpus.train.tokens + corpus.validation.tokens == 3 * (7 * 200_000 + 1)
    assert not list(tmp_path.glob("*.tmp"))


def test_of_two_processes_one_tokenizes_and_the_other_waits(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text")
    runs = [slow_run(tmp_path, 1.0) for _ in range(2)]
    assert sorted(run.communicate()[0].strip() for run in runs) == ["False", "True"]


MEMORY = """
import resource, sys
from pathlib import Path
from gptlit.data.corpus import TextFiles
from gptlit.data.tokenizing import tokenize_corpus
from gptlit.tokenizer import get_tokenizer

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 10**6

folder = Path(sys.argv[1])
gpt2 = get_tokenizer("gpt2")
tokenize_corpus(TextFiles(str(folder / "small.txt")), gpt2, folder)
before = peak()
corpus = tokenize_corpus(TextFiles(str(folder / "large.txt")), gpt2, folder)
print(peak() - before, corpus.train.bytes + corpus.validation.bytes)
"""


def test_memory_stays_flat(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    prose = " ".join("".join(map(chr, rng.integers(97, 123, 5))) for _ in range(50_000))
    (tmp_path / "small.txt").write_text(prose)
    with (tmp_path / "large.txt").open("w") as file:
        for _ in range(200):
            file.write(prose)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    grown, read = map(int, run.stdout.split())
    assert read == (tmp_path / "large.txt").stat().st_size == 200 * len(prose)
    assert grown < 150


@settings(derandomize=True, max_examples=60)
@given(
    parts=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    shard_tokens=st.integers(1, 12),
    data=st.data(),
)
def test_a_stream_reads_across_its_files(
    tmp_path_factory: pytest.TempPathFactory,
    parts: list[int],
    shard_tokens: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    ids = np.arange(sum(parts), dtype=np.uint16)
    writer = ShardWriter(folder, "part", shard_tokens, ids.dtype)
    for end, n in zip(np.cumsum(parts), parts, strict=True):
        writer.write(ids[end - n : end])
    share = Fraction(data.draw(st.integers(1, 9)), 10)
    before, after = (
        TokenStream(folder, ids.dtype, segments)
        for segments in cut_segments(writer.segments, share)
    )
    stream = TokenStream(folder, ids.dtype, writer.segments)
    assert len(stream) == len(ids)
    assert [*before.read(0, len(before)), *after.read(0, len(after))] == ids.tolist()
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start, len(ids)))
    assert stream.read(start, stop).tolist() == ids[start:stop].tolist()
    assert stream.read(start, stop).dtype == np.int64


def test_a_stream_ends_where_it_ends(tmp_path: Path) -> None:
    np.arange(10, dtype=np.uint16).tofile(tmp_path / "a.bin")
    stream = TokenStream(tmp_path, np.dtype("uint16"), [Segment("a.bin", 2, 7)])
    assert stream.read(0, 5).tolist() == [2, 3, 4, 5, 6]
    for start, stop in [(0, 6), (-1, 2), (6, 7)]:
        with pytest.raises(IndexError):
            stream.read(start, stop)


def test_a_stream_pickles_without_its_tokens(tmp_path: Path) -> None:
    np.arange(100_000, dtype=np.uint32).tofile(tmp_path / "a.bin")
    stream = TokenStream(tmp_path, np.dtype("uint32"), [Segment("a.bin", 0, 100_000)])
    stream.read(0, 1)
    assert len(pickle.dumps(stream)) < 1000
    assert pickle.loads(pickle.dumps(stream)).read(99_999, 100_000).tolist() == [99_999]
