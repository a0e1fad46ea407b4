"""The output of frozen blocks, in batches and by several processes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gptlit.tasks import features
from gptlit.tasks.features import FeatureCache

TEXTS = [np.arange(1, 1 + n) for n in (3, 40, 10, 9, 1, 30)]
BATCHES = [(1, 40), (1, 30), (3, 10), (1, 1)]
"""Of at most 30 tokens, if there are several texts."""


def compute(folder: Path, rank: int, world_size: int) -> tuple[FeatureCache, list[tuple[int, ...]]]:
    """Features that are the ids themselves, and the shapes of the batches."""
    shapes: list[tuple[int, ...]] = []

    def lower(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return ids[:, :, None].expand(-1, -1, 2)

    cpu = torch.device("cpu")
    return FeatureCache.compute(lower, TEXTS, 2, cpu, folder, rank, world_size), shapes


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CPU_BATCH_TOKENS", 30)
    monkeypatch.setattr(features, "EXCHANGED_TOKENS", 7)


def test_texts_of_about_the_same_length_are_computed_together(tmp_path: Path) -> None:
    cache, shapes = compute(tmp_path, 0, 1)
    assert shapes == BATCHES
    for row, text in enumerate(TEXTS):
        found = cache.batch(torch.tensor([row]), 41)
        assert found[0].T.tolist() == 2 * [[*text.tolist(), *[0] * (41 - len(text))]]


def test_processes_share_the_batches_and_exchange_every_token_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.add_(100))
    whole, _ = compute(tmp_path, 0, 1)
    (first, some), (second, others) = (compute(tmp_path, rank, 2) for rank in (0, 1))
    assert (some, others) == (BATCHES[::2], BATCHES[1::2])
    assert (first.store + second.store == whole.store + 200).all()
