from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from gptlit.inference import generation
from gptlit.inference.generation import (
    Sampler,
    Sampling,
    TextStream,
    filtered_probabilities,
    generate_text,
    stream_ids,
)
from gptlit.model import GPTConfig, GPTModel
from gptlit.tokenizer import get_tokenizer
from tests.inference.decisive import decisive_model

CFG = GPTConfig(vocab_size=257, context_length=16, emb_dim=32, n_heads=4, n_layers=2)


@pytest.fixture(scope="module")
def model() -> GPTModel:
    return decisive_model(CFG)


def book_loop(model: GPTModel, prompt: list[int], steps: int) -> list[int]:
    """The plain way: the last `context_length` tokens, all computed anew at each step."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            logits = model.eval()(torch.tensor([ids[-CFG.context_length :]]))
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


@settings(max_examples=15)
@given(st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=20), min_size=1, max_size=4))
def test_batched_generation_equals_one_by_one_past_the_window(
    model: GPTModel, prompts: list[list[int]]
) -> None:
    steps = list(stream_ids(model, prompts, 12, Sampling()))
    for row, prompt in enumerate(prompts):
        assert [step[row] for step in steps] == book_loop(model, prompt, 12)


def test_what_a_row_draws_does_not_depend_on_the_batch(model: GPTModel) -> None:
    hot = Sampling(temperature=1.0, seed=5)
    prompts = [[1, 2, 3], [9], [4, 4, 4, 4, 4]]
    together = list(stream_ids(model, prompts, 8, hot))
    for row, prompt in enumerate(prompts):
        alone = stream_ids(model, [prompt], 8, Sampling(temperature=1.0, seed=5 + row))
        assert [step[row] for step in together] == [token for [token] in alone]


class Looks(TorchFunctionMode):
    """Counts how often somebody looks at numbers, for which a GPU would have to be waited for."""

    LOOKING = (torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.__bool__, torch.Tensor.nonzero)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in self.LOOKING
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[1, 2, 3], [9]]], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_token_is_waited_for_once(
    model: GPTModel, prompts: list[list[int]], temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, top_k=5, top_p=0.9)
    with Looks() as looks:
        steps = list(stream_ids(model, prompts, 18, sampling))
    assert looks.count == len(steps) == 18


def test_samples_follow_the_filtered_distribution() -> None:
    sampling = Sampling(temperature=0.7, top_k=4, top_p=0.9, seed=3)
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.2, 0.1, -1.0]])
    expected = filtered_probabilities(logits, sampling)[0]
    sampler = Sampler(sampling, 1, torch.device("cpu"))
    draws = torch.stack([sampler(logits) for _ in range(4000)]).flatten()
    measured = torch.bincount(draws, minlength=6) / 4000
    torch.testing.assert_close(measured, expected, atol=0.03, rtol=0)
    assert (measured[expected == 0] == 0).all()


def test_noise_of_zero_draws_no_token_that_is_filtered_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's GPUs draw one of 30 million as 0, or, in other versions, the smallest number."""

    def drawn(row: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return row.copy_(torch.tensor([0.5, -0.0, torch.finfo(row.dtype).tiny, 0.4, 0.0]))

    monkeypatch.setattr(torch.Tensor, "exponential_", drawn)
    sampler = Sampler(Sampling(temperature=1.0, top_k=3), 1, torch.device("cpu"))
    assert sampler(torch.tensor([[2.0, 0.0, 1.5, 1.5, 0.0]])).tolist() == [0]


@settings(max_examples=60)
@example(logits=[0.0, 2.0**-52], top_k=1, top_p=1.0)  # the same probability for both
@example(logits=[0.0, 2.0**-52], top_k=0, top_p=0.5)
@given(
    logits=st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12),
    top_k=st.integers(0, 14),
    top_p=st.floats(0.01, 1.0),
)
def test_top_k_and_top_p_keep_the_likeliest(logits: list[float], top_k: int, top_p: float) -> None:
    row = torch.tensor([logits])
    kept = filtered_probabilities(row, Sampling(temperature=1.0, top_k=top_k, top_p=top_p))[0]
    plain = row[0].softmax(0)
    assert kept.sum().item() == pytest.approx(1, abs=1e-4)
    assert plain[kept > 0].max() == plain.max()  # or that of another one that is as likely
    lowest_kept = plain[kept > 0].min()
    assert (plain[kept == 0] <= lowest_kept + 1e-6).all()
    if top_k and len(set(logits)) == len(logits):
        assert (kept > 0).sum() <= top_k


@given(
    st.floats(0, 1e-6, exclude_min=True),
    st.lists(st.integers(-200, 200).map(float), min_size=2, max_size=9, unique=True),
)
@example(5e-324, [0.0, 1.0])
@example(1e-38, [-100.0, -90.0, -80.0])
def test_a_tiny_temperature_takes_the_likeliest_token(
    temperature: float, logits: list[float]
) -> None:
    row = torch.tensor([logits])
    found = filtered_probabilities(row, Sampling(temperature=temperature, top_p=0.9))
    assert found.argmax() == row.argmax() and found.max() == 1


def test_an_infinite_temperature_makes_what_is_kept_alike() -> None:
    found = filtered_probabilities(
        torch.tensor([[3.0, 1.0, 2.0]]), Sampling(temperature=float("inf"), top_k=2)
    )
    assert found.tolist() == [[0.5, 0, 0.5]]


def test_the_model_is_left_in_its_mode(model: GPTModel) -> None:
    model.train()
    list(stream_ids(model, [[1]], 2, Sampling()))
    assert model.training
    model.eval()


def test_an_empty_prompt_is_the_start_of_a_document(model: GPTModel) -> None:
    tokenizer = get_tokenizer("byte")
    [text] = generate_text(model, tokenizer, [""], 5, Sampling())
    expected = tokenizer.decode(book_loop(model, [tokenizer.eot_id], 5))
    assert text == expected.split("<|endoftext|>")[0]


@settings(max_examples=100)
@given(text=st.text(max_size=30), stop=st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_streamed_text_is_cut_at_the_first_stop_string(text: str, stop: list[str]) -> None:
    tokenizer = get_tokenizer("byte")
    stream = TextStream(tokenizer, stop)
    shown = "".join(stream.push(token) for token in tokenizer.encode(text)) + stream.flush()
    # The first stop string to be complete ends the text, where it begins.
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    first = min(ends)[0] if ends else None
    expected = text if first is None else text[: min(at for end, at in ends if end == first)]
    assert shown == expected


def test_characters_of_several_tokens_are_shown_whole() -> None:
    tokenizer = get_tokenizer("byte")
    stream = TextStream(tokenizer)
    parts = [stream.push(token) for token in tokenizer.encode("é😀")]
    assert parts == ["", "é", "", "", "", "😀"]


def test_end_of_text_ends_a_row() -> None:
    tokenizer = get_tokenizer("byte")
    stream = TextStream(tokenizer)
    assert stream.push(ord("a")) == "a"
    stream.push(tokenizer.eot_id)
    assert stream.finished
    assert stream.push(ord("b")) == ""


@pytest.mark.parametrize(
    ("stop", "texts", "steps"),
    [
        ("abc", ["ab.ab", "a.bab"], 5),  # what may have become a stop string is text after all
        (".", ["ab", "a"], 3),  # no token is computed after the last row has ended
        ("b", ["a", "a."], 3),
    ],
)
def test_rows_end_with_their_text_and_the_batch_with_its_last_row(
    model: GPTModel, monkeypatch: pytest.MonkeyPatch, stop: str, texts: list[str], steps: int
) -> None:
    taken: list[list[int]] = []

    def tokens(*_: Any) -> Iterator[list[int]]:
        for row in zip(b"ab.ab", b"a.bab", strict=True):
            taken.append(list(row))
            yield taken[-1]

    monkeypatch.setattr(generation, "stream_ids", tokens)
    found = generate_text(model, get_tokenizer("byte"), ["", ""], 5, Sampling(), stop)
    assert (found, len(taken)) == (texts, steps)


def test_one_string_is_one_stop_string_and_no_list_of_prompts(model: GPTModel) -> None:
    tokenizer = get_tokenizer("byte")
    stream = TextStream(tokenizer, "ab")
    assert "".join(stream.push(token) for token in b"b a abc") == "b a "
    with pytest.raises(TypeError, match=r"prompts: expected a list, got a text; give \['ab'\]"):
        generate_text(model, tokenizer, "ab", 3, Sampling())
    assert generate_text(model, tokenizer, [], 3, Sampling()) == []


@pytest.mark.parametrize("bad", [-1, 257, 300, 9999])
def test_an_id_that_the_model_does_not_know_is_named(model: GPTModel, bad: int) -> None:
    with pytest.raises(ValueError, match=rf"token id {bad}, but the model knows 0 to 256: take"):
        next(stream_ids(model, [[1, bad], [1]], 2, Sampling()))


@pytest.mark.parametrize(
    ("prompts", "new", "line"),
    [
        ([[1], []], 2, "a prompt must hold at least one token"),
        ([[1]], -1, "max_new_tokens must be a whole number from 0 on, got -1"),
        ([[1]], 1.5, "max_new_tokens must be a whole number from 0 on, got 1.5"),
    ],
)
def test_what_cannot_be_continued_is_told(
    model: GPTModel, prompts: list[list[int]], new: Any, line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        next(stream_ids(model, prompts, new, Sampling()))
    assert list(stream_ids(model, [[1]], 0, Sampling())) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_impossible_sampling_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)
