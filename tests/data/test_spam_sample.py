import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptlit.data.spam_sample import SpamSampleDataModule, made_up_messages
from gptlit.tokenizer import get_tokenizer


def module(tmp_path: Path, tokenizer: str = "gpt2", **given: Any) -> SpamSampleDataModule:
    data = SpamSampleDataModule(
        tokenizer=get_tokenizer(tokenizer),
        context_length=128,
        batch_size=16,
        seed=1,
        cache_dir=tmp_path,
        **given,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def test_the_messages_are_short_all_different_and_always_the_same() -> None:
    table = made_up_messages()
    assert len(set(table.texts)) == len(table.texts) == 1200
    assert Counter(table.labels) == {"ham": 600, "spam": 600}
    assert max(len(text.split()) for text in table.texts) <= 25
    assert made_up_messages().texts == table.texts != made_up_messages(seed=1).texts
    assert not any(mark in text for text in table.texts for mark in "{}|_")
    mixed = Counter(table.labels[:200])
    assert min(mixed.values()) > 70


@pytest.mark.parametrize("tokenizer", ["words", "gpt2", "byte"])
def test_no_single_token_tells_the_classes_apart(tokenizer: str) -> None:
    table = made_up_messages()

    def tokens(text: str) -> set[Any]:
        if tokenizer == "words":
            return set(re.findall(r"\w+", text.lower()))
        return set(get_tokenizer(tokenizer).encode(text))

    seen: dict[str, Counter[Any]] = {"ham": Counter(), "spam": Counter()}
    for text, label in zip(table.texts, table.labels, strict=True):
        seen[label].update(tokens(text))
    for token in seen["ham"] | seen["spam"]:
        right = 600 + abs(seen["spam"][token] - seen["ham"][token])
        assert right / 1200 < 0.8, token


def test_words_together_do(tmp_path: Path) -> None:
    """There is something to learn, even for naive Bayes over the words."""
    data = module(tmp_path)
    train, test = data.splits["train"], data.splits["test"]
    words = sorted({word for text in train.texts for word in text.lower().split()})

    def table(texts: list[str]) -> np.ndarray:
        rows = [set(text.lower().split()) for text in texts]
        return np.array([[word in row for word in words] for row in rows], dtype=float)

    there = table(train.texts)
    share = np.stack([(there[train.labels == c].sum(0) + 1) for c in (0, 1)])
    share /= np.bincount(train.labels)[:, None] + 2
    seen = table(test.texts)
    score = seen @ np.log(share).T + (1 - seen) @ np.log(1 - share).T
    assert (score.argmax(axis=1) == test.labels).mean() > 0.95


@pytest.mark.parametrize("tokenizer", ["gpt2", "byte"])
def test_nothing_is_cut_or_left_out(tmp_path: Path, tokenizer: str) -> None:
    data = module(tmp_path, tokenizer)
    assert data.describe() == (
        "made-up messages: 1,200 rows; 600 ham + 600 spam; 840 train, 120 validation, 240 test"
    )
    assert data.labels == ["ham", "spam"]
    assert max(split.lengths.max() for split in data.splits.values()) <= 100


def test_a_path_takes_their_place(tmp_path: Path) -> None:
    rows = "".join(f"text {number},{number % 2}\n" for number in range(20))
    (tmp_path / "mine.csv").write_text("text,label\n" + rows)
    data = module(tmp_path, path=str(tmp_path / "mine.csv"))
    assert data.labels == ["0", "1"]
