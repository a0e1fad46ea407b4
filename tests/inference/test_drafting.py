"""Guesses save passes and change nothing."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptlit.inference.drafting import PromptLookup
from gptlit.inference.generation import Sampling, stream_ids
from gptlit.model import GPTConfig, GPTModel
from tests.inference.decisive import decisive_model

CFG = GPTConfig(vocab_size=20, context_length=48, emb_dim=32, n_heads=4, n_layers=2)


@pytest.fixture(scope="module")
def model() -> GPTModel:
    return decisive_model(CFG)


@pytest.fixture(scope="module")
def echo() -> GPTModel:
    """Repeats the newest token: its blocks add nothing to the embedding."""
    torch.manual_seed(0)
    model = GPTModel(CFG)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "out_proj" in name or "ff.proj" in name or "pos_emb" in name:
                p.zero_()
    return model


def passes(
    model: GPTModel, prompts: list[list[int]], new: int, prompt_lookup: bool = True
) -> list[int]:
    """Positions of each pass of the model that greedy text takes."""
    widths = []
    with pytest.MonkeyPatch.context() as patch:
        plain = model.hidden

        def hidden(input_ids: Tensor, **kwargs: Any) -> Tensor:
            widths.append(input_ids.shape[1])
            return plain(input_ids, **kwargs)

        patch.setattr(model, "hidden", hidden)
        assert (
            len(list(stream_ids(model, prompts, new, Sampling(), prompt_lookup=prompt_lookup)))
            == new
        )
    return widths


few_tokens = st.lists(st.integers(0, 3), min_size=1, max_size=60)


@settings(max_examples=40)
@given(prompt=few_tokens, new=st.integers(1, 40), seed=st.integers(0, 9), hot=st.booleans())
def test_the_tokens_are_those_without_guesses(
    model: GPTModel, prompt: list[int], new: int, seed: int, hot: bool
) -> None:
    sampling = Sampling(temperature=0.9 if hot else 0.0, top_k=5, seed=seed)
    plain = list(stream_ids(model, [prompt], new, sampling, prompt_lookup=False))
    assert list(stream_ids(model, [prompt], new, sampling)) == plain
    assert len(plain) == new


def test_a_text_that_repeats_takes_fewer_passes(echo: GPTModel) -> None:
    assert [token for [token] in stream_ids(echo, [[1, 2]], 40, Sampling())] == [2] * 40
    # Nothing to guess from; one token guessed, and then more at a time; the last comes alone.
    assert passes(echo, [[1, 2]], 40) == [2, 1, 2, 3, 5, 9, 9, 9, 1]
    assert passes(echo, [[1, 2]], 40, prompt_lookup=False) == [2] + 39 * [1]


@pytest.mark.parametrize("prompts", [[[1, 1, 1], [1, 1, 1]], [[1] * 60]])
def test_no_guesses_for_several_prompts_or_behind_the_window(
    echo: GPTModel, prompts: list[list[int]]
) -> None:
    assert len(passes(echo, prompts, 5)) == 5


def test_guesses_end_at_the_window(echo: GPTModel) -> None:
    widths = passes(echo, [[1] * 40], 14)
    first = CFG.context_length - 40 + 1  # the tokens that passes without sliding can give
    assert sum(width == CFG.context_length for width in widths) == 14 - first
    assert len(widths) < 14


def test_the_guess_is_what_followed_the_last_time() -> None:
    lookup = PromptLookup([5, 6, 7, 8, 5, 6, 9, 5, 6])
    assert lookup.draft(4) == [9]
    lookup.adapt(1, kept=1)
    assert lookup.draft(4) == [9, 5]
    lookup.adapt(2, kept=2)
    assert lookup.draft(3) == [9, 5, 6]  # no more than asked for
    assert lookup.draft(4) == [9, 5, 6, 9]  # round again where the text ends
    lookup.append(7)
    assert lookup.draft(4) == [8, 5, 6, 9]


def test_nothing_is_guessed_from_nothing() -> None:
    for ids in [], [1], [1, 2], [1, 2, 3], [1, 1]:
        assert PromptLookup(ids).draft(8) == []


def test_guesses_grow_while_they_come_true_and_shrink_to_what_did() -> None:
    lookup = PromptLookup([1] * 50)
    sizes = []
    for kept in (1, 2, 4, 8, 8, 3, 0, 0, 1):
        sizes.append(len(lookup.draft(100)))
        lookup.adapt(sizes[-1], min(kept, sizes[-1]))
    assert sizes == [1, 2, 4, 8, 8, 8, 3, 1, 1]
    lookup.adapt(0, 0)  # no guess says nothing about guesses
    assert len(lookup.draft(100)) == 2
