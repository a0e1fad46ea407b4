import math
import tempfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gpt2 import pair
from torch.nn.functional import cross_entropy

from gptlit.data.corpus import Advance, Document, Part, TextFiles
from gptlit.errors import UserError
from gptlit.evaluation.perplexity import perplexity, tokenize_text, windows
from gptlit.model import GPTConfig, GPTModel
from gptlit.tokenizer import ByteTokenizer, get_tokenizer

CONTEXT = 12
CFG = GPTConfig(vocab_size=257, context_length=CONTEXT, emb_dim=32, n_heads=4, n_layers=2)
TEXT = np.random.default_rng(0).integers(0, 257, 61).astype(np.uint16)


@pytest.fixture(scope="module")
def model() -> GPTModel:
    torch.manual_seed(0)
    model = GPTModel(CFG)
    with torch.no_grad():  # far from uniform, and no token like the other
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model


def one_by_one(model: GPTModel, tokens: np.ndarray, context_of: list[int]) -> float:
    """Mean loss, each token predicted on its own from the `context_of` it tokens before it."""
    losses = []
    for place, context in enumerate(context_of, 1):
        ids = torch.tensor(tokens[place - context : place].tolist())
        with torch.no_grad():
            logits = model.eval()(ids[None])[0, -1]
        losses.append(cross_entropy(logits, torch.tensor(int(tokens[place]))).item())
    return sum(losses) / len(losses)


@settings(derandomize=True, max_examples=300)
@given(n=st.integers(0, 200), context=st.integers(1, 40), data=st.data())
def test_each_token_but_the_first_is_scored_once_with_enough_context(
    n: int, context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, context))
    cut = list(windows(n, context, stride))
    scored = [place for _, first, stop in cut for place in range(first, stop)]
    assert scored == list(range(1, n))
    for start, first, stop in cut:
        assert start < first < stop <= start + context + 1
        assert first - start == first or first - start > context - stride


@settings(derandomize=True, max_examples=25)
@given(n=st.integers(2, len(TEXT)), stride=st.integers(1, CONTEXT), batch_size=st.integers(1, 7))
def test_it_is_the_loss_of_tokens_predicted_one_by_one(
    model: GPTModel, n: int, stride: int, batch_size: int
) -> None:
    result = perplexity(model, TEXT[:n], stride, batch_size)
    # The first window's tokens see all before them; each later one scores `stride` tokens.
    context_of = [
        place if place <= CONTEXT else CONTEXT - stride + 1 + (place - CONTEXT - 1) % stride
        for place in range(1, n)
    ]
    assert result.loss == pytest.approx(one_by_one(model, TEXT[:n], context_of), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert (result.tokens, result.context_length, result.stride) == (n - 1, CONTEXT, stride)


def test_without_a_stride_half_the_context_overlaps(model: GPTModel) -> None:
    assert perplexity(model, TEXT) == replace(
        perplexity(model, TEXT, CONTEXT // 2),
        seconds=pytest.approx(0, abs=60),
        tokens_per_second=pytest.approx(0, abs=1e9),
    )


def test_a_stride_of_the_context_is_the_plain_loss_over_rows(model: GPTModel) -> None:
    tokens = TEXT[: 4 * CONTEXT + 1].astype(np.int64)
    ids = torch.from_numpy(tokens[:-1]).view(4, CONTEXT)
    targets = torch.from_numpy(tokens[1:]).view(4, CONTEXT)
    with torch.no_grad():
        expected = model.eval().loss_sum(ids, targets) / targets.numel()
    assert perplexity(model, tokens, CONTEXT).loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("stride", [1, 7, 16, 32])
def test_it_is_that_of_the_loop_in_the_guide_of_transformers(stride: int) -> None:
    max_length = 33
    ours, theirs = pair(
        GPTConfig(vocab_size=101, context_length=max_length, emb_dim=32, n_heads=4, n_layers=3)
    )
    # A window of the guide counts the last target, for which nothing is predicted any more.
    ours.cfg = replace(ours.cfg, context_length=max_length - 1)
    tokens = torch.randint(101, (1, 150))
    nll_sum, n_scored, previous_end = 0.0, 0, 0
    for begin in range(0, tokens.shape[1], stride):
        end = min(begin + max_length, tokens.shape[1])
        input_ids = tokens[:, begin:end]
        labels = input_ids.clone()
        labels[:, : previous_end - begin if previous_end else 0] = -100
        n_labels = int((labels[:, 1:] != -100).sum())  # the model shifts them by one
        with torch.no_grad():
            nll_sum += theirs.eval()(input_ids, labels=labels).loss.item() * n_labels
        n_scored, previous_end = n_scored + n_labels, end
        if end == tokens.shape[1]:
            break
    assert n_scored == 149
    result = perplexity(ours, tokens[0].numpy(), stride)
    assert result.loss == pytest.approx(nll_sum / n_scored, rel=1e-6)


def test_bits_per_byte_count_the_bytes_of_what_is_scored(model: GPTModel) -> None:
    tokens = np.array([*b"abc", 256, *b"de", 256], dtype=np.uint16)
    result = perplexity(model, tokens, token_bytes=get_tokenizer("byte").token_bytes())
    assert (result.tokens, result.bytes) == (6, 4)  # not the first, nor the two ends
    assert result.bits_per_byte == pytest.approx(result.loss * 6 / math.log(2) / 4)
    assert result.tokens_per_second == pytest.approx(6 / result.seconds)
    assert perplexity(model, tokens).bits_per_byte is None


def test_a_head_of_its_own_is_the_one_that_is_scored(model: GPTModel) -> None:
    head = torch.nn.Linear(CFG.emb_dim, CFG.padded_vocab_size, bias=False)
    model.out_head = head
    try:
        result = perplexity(model, TEXT[: CONTEXT + 1])
        with torch.no_grad():
            logits = model(torch.from_numpy(TEXT[:CONTEXT].astype(np.int64))[None])[0]
    finally:
        model.out_head = None
    targets = torch.from_numpy(TEXT[1 : CONTEXT + 1].astype(np.int64))
    assert result.loss == pytest.approx(float(cross_entropy(logits, targets)), rel=1e-6)


def test_logits_far_from_0_are_as_good_in_bf16() -> None:
    """Those of the published GPT-2 are around -100, where bf16 knows halves alone."""
    torch.manual_seed(0)
    model = GPTModel(CFG)
    with torch.no_grad():
        model.final_norm.bias.fill_(1.0)
        model.tok_emb.weight.mul_(5).sub_(3.0)
    exact = perplexity(model, TEXT).loss
    with torch.autocast("cpu", torch.bfloat16):
        assert perplexity(model, TEXT).loss == pytest.approx(exact, rel=5e-4)


def test_dropout_is_off_and_the_model_is_left_in_its_mode() -> None:
    model = GPTModel(replace(CFG, drop_rate=0.5)).train()
    assert perplexity(model, TEXT).loss == perplexity(model, TEXT).loss
    assert model.training


@pytest.mark.parametrize("stride", [-1, 0, CONTEXT + 1])
def test_a_stride_out_of_range_is_refused(model: GPTModel, stride: int) -> None:
    with pytest.raises(UserError, match=rf"stride={stride}: must be from 1 to {CONTEXT}"):
        perplexity(model, TEXT, stride)


def test_batches_of_nothing_are_refused(model: GPTModel) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        perplexity(model, TEXT, batch_size=0)
    assert perplexity(model, TEXT, batch_size=1).tokens == len(TEXT) - 1


def test_a_perplexity_beyond_numbers_is_infinite() -> None:
    torch.manual_seed(0)
    model = GPTModel(CFG)
    with torch.no_grad():
        model.final_norm.weight.fill_(1e5)
    result = perplexity(model, TEXT)
    assert 710 < result.loss < math.inf and result.perplexity == math.inf


@pytest.mark.parametrize("n", [0, 1])
def test_a_text_without_a_target_is_refused(model: GPTModel, n: int) -> None:
    with pytest.raises(UserError, match=rf"has {n} tokens, but needs 2"):
        perplexity(model, TEXT[:n])


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_ids_of_a_large_vocabulary_are_kept_whole(
    tmp_path: Path, vocab_size: int, dtype: type
) -> None:
    tokenizer = ByteTokenizer()
    tokenizer.vocab_size, tokenizer.eot_id = vocab_size, vocab_size - 1
    (tmp_path / "a.txt").write_text("a")
    tokens = tokenize_text(TextFiles(str(tmp_path)), tokenizer)
    assert tokens.tolist() == [ord("a"), vocab_size - 1] and tokens.dtype == dtype


@pytest.mark.parametrize("name", ["byte", "gpt2"])
def test_documents_are_joined_with_the_end_of_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("One é.")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.jsonl").write_text('{"text": "Two."}\n{"text": ""}\n{"text": "3"}\n')
    tokenizer = get_tokenizer(name)
    tokens = tokenize_text(TextFiles(str(tmp_path)), tokenizer)
    end = tokenizer.eot_id
    assert tokens.tolist() == [
        token for text in ("One é.", "Two.", "3") for token in [*tokenizer.encode(text), end]
    ]
    assert tokens.dtype == np.uint16


def test_nothing_is_left_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("text")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert len(tokenize_text(TextFiles(str(tmp_path / "text.txt")), get_tokenizer("byte"))) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_text_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"empty\.txt holds no text"):
        tokenize_text(TextFiles(str(tmp_path / "empty.txt")), get_tokenizer("byte"))


def test_a_temporary_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("text")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"cannot keep the tokens in .*gone: .*TMPDIR"):
        tokenize_text(TextFiles(str(tmp_path / "text.txt")), get_tokenizer("byte"))


class Letters:
    """Documents of 50,000 bytes from nowhere."""

    name = "letters"
    size = done = part = 0

    def __init__(self, n_documents: int) -> None:
        self.n_documents = n_documents

    def parts(self, cache_dir: Path, seen: Advance) -> list[Part]:
        return [Part(self.name, 0, str(self.n_documents), "")]

    def documents(self, first_part: int = 0) -> Iterator[Document]:
        return (["letter by letter " * 2500, "end." * 1875] for _ in range(self.n_documents))


def test_memory_of_tokenizing_does_not_grow_with_the_text() -> None:
    def peak(n_documents: int) -> int:
        tracemalloc.start()
        tokens = tokenize_text(Letters(n_documents), get_tokenizer("byte"))
        assert len(tokens) == n_documents * 50_001
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(400) < peak(4) + 100_000


class Mapped:
    """Tokens that may only be read in parts."""

    longest = 0

    def __len__(self) -> int:
        return len(TEXT)

    def __getitem__(self, part: slice) -> np.ndarray:
        ids = TEXT[part]
        self.longest = max(self.longest, len(ids))
        return ids


def test_no_more_than_a_window_is_read_at_once(model: GPTModel) -> None:
    mapped = Mapped()
    assert perplexity(model, mapped).loss == perplexity(model, TEXT).loss
    assert mapped.longest <= CONTEXT
