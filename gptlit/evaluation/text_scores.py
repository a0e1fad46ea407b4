"""How close answers come to their references, by their words only: fast and reproducible."""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

_WORD = re.compile(r"\w+")


def score_answers(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over all answers.

    Args:
        entries: each with a reference (`output`) and an answer (`model_response`).

    Returns:
        `exact_match`, the share of answers equal to their reference but for space at the ends;
        `rouge_l`, the mean of `rouge_l`, from 0 to 1; and `answer_words_mean`,
        `answer_words_median`, `reference_words_mean`, `reference_words_median`, in words between
        spaces.

    Raises:
        ValueError: there is no entry.
    """
    if not entries:
        raise ValueError("there are no answers to score")
    pairs = [(str(entry["model_response"]), str(entry["output"])) for entry in entries]
    answer_words = [len(answer.split()) for answer, _ in pairs]
    reference_words = [len(reference.split()) for _, reference in pairs]
    return {
        "exact_match": fmean(answer.strip() == reference.strip() for answer, reference in pairs),
        "rouge_l": fmean(rouge_l(answer, reference) for answer, reference in pairs),
        "answer_words_mean": fmean(answer_words),
        "answer_words_median": float(median(answer_words)),
        "reference_words_mean": fmean(reference_words),
        "reference_words_median": float(median(reference_words)),
    }


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L of two texts as F1: precision and recall of their longest common subsequence of
    words, weighted alike, from 0 to 1.

    Words are runs of letters, digits and underscores, in lower case. If a text has no
    words, the score is 1 if both are the same but for space at the ends, else 0.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1.
    """
    a, b = _WORD.findall(answer.lower()), _WORD.findall(reference.lower())
    if not a or not b:
        return float(answer.strip() == reference.strip())
    # F1 is the harmonic mean of L / len(a) and L / len(b).
    return 2 * longest_common_subsequence(a, b) / (len(a) + len(b))


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest sequence that both become if some of their items are deleted."""
    row = [0] * (len(b) + 1)  # row[j]: for the items of a so far, and the first j of b
    for item in a:
        previous = row
        row = [0]
        for j, other in enumerate(b):
            row.append(previous[j] + 1 if item == other else max(previous[j + 1], row[j]))
    return row[-1]
