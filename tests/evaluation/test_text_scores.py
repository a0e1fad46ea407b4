from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlit.evaluation.text_scores import longest_common_subsequence, rouge_l, score_answers

WORDS = st.lists(st.sampled_from("abc"), max_size=7)


def by_hand(a: Sequence[str], b: Sequence[str]) -> int:
    """The longest of all subsequences of a that is one of b."""
    parts_of_b = {part for n in range(len(b) + 1) for part in combinations(b, n)}
    return max(n for n in range(len(a) + 1) for part in combinations(a, n) if part in parts_of_b)


@settings(derandomize=True)
@given(WORDS, WORDS)
def test_the_common_subsequence_is_the_longest_there_is(a: list[str], b: list[str]) -> None:
    assert longest_common_subsequence(a, b) == by_hand(a, b)


@pytest.mark.parametrize(
    ("answer", "reference", "f1"),
    [
        # Section 3.1 of the paper: 3 of 4 words against 2 of 4.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("The capital is PARIS!", "the capital, is: Paris", 1),
        ("Paris", "The capital is Paris.", 2 * 1 * 0.25 / 1.25),
        ("Élan vital", "élan VITAL", 1),
        ("one", "two", 0),
        ("", "two", 0),
        ("one", "", 0),
        ("", " ", 1),
        ("?!", "?!", 1),
        ("?", "!", 0),
    ],
)
def test_rouge_l(answer: str, reference: str, f1: float) -> None:
    assert rouge_l(answer, reference) == pytest.approx(f1)
    assert rouge_l(reference, answer) == pytest.approx(f1)


def test_all_answers_count_alike() -> None:
    entries = [
        {"output": "Paris", "model_response": " Paris\n"},
        {"output": "a b c d", "model_response": "x"},
        {"output": "the cat sat", "model_response": "The cat sat"},
    ]
    assert score_answers(entries) == pytest.approx(
        {
            "exact_match": 1 / 3,  # case counts
            "rouge_l": 2 / 3,
            "answer_words_mean": 5 / 3,
            "answer_words_median": 1,
            "reference_words_mean": 8 / 3,
            "reference_words_median": 3,
        }
    )


def test_no_answers_have_no_score() -> None:
    with pytest.raises(ValueError, match="no answers"):
        score_answers([])
