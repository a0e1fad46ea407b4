from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from gptlit.model import (
    GPTConfig,
    GPTModel,
    LoRAConfig,
    SegmentMask,
    add_lora,
    block_causal_mask,
    segment_mask,
)


def numbered(*rows: Sequence[int]) -> Tensor:
    """Rows of entries, by their lengths: the first is the shared beginning, the last padding."""
    return torch.stack(
        [
            torch.cat([torch.full((n,), i % (len(lengths) - 1)) for i, n in enumerate(lengths)])
            for lengths in rows
        ]
    )


def make_model(**given: Any) -> GPTModel:
    torch.manual_seed(0)
    return GPTModel(GPTConfig(70, 64, emb_dim=16, n_heads=2, n_layers=2, emb_init_std=0.5, **given))


SHARED = numbered([3, 5, 6, 4, 6, 5, 3], [1, 6, 6, 6, 6, 6, 1])
ALONE = numbered([0, 5, 6, 4, 6, 5, 6], [0, 6, 6, 6, 6, 6, 2])
MIXED = numbered([0, 5, 6, 4, 6, 5, 6], [3, 6, 6, 6, 6, 5, 0])


@pytest.mark.parametrize("segments", [SHARED, ALONE, MIXED], ids=["shared", "alone", "mixed"])
@pytest.mark.parametrize("lora", [False, True])
def test_entries_gathered_from_their_rows_give_what_the_mask_gives(
    segments: Tensor, lora: bool
) -> None:
    model, ids = make_model().double(), torch.randint(70, segments.shape)
    if lora:
        add_lora(model, LoRAConfig(rank=2, alpha=4.0, targets=("q", "v", "proj")))
        model.double()
    before_padding = segments.flip(1).cumsum(1).flip(1) > 0
    targets = torch.where(before_padding, torch.randint(70, segments.shape), -100)
    gathered = segment_mask(segments)
    assert isinstance(gathered, SegmentMask)
    found = []
    for mask in (gathered, block_causal_mask(segments)):
        model.zero_grad()
        loss = model.loss_sum(ids, targets, mask=mask)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        found.append((loss.detach(), gradients))
    torch.testing.assert_close(*found)


def test_the_form_with_fewer_scores_is_taken() -> None:
    assert segment_mask(None) is None
    assert isinstance(segment_mask(SHARED), SegmentMask)
    for lengths in ([0, 32, 0], [0, 17, 16, 0], [24, 4, 4, 0], [0, 1, 1, 1, 28, 1, 0]):
        segments = numbered(lengths)
        mask = segment_mask(segments)
        assert isinstance(mask, Tensor)
        assert torch.equal(mask, block_causal_mask(segments))


def test_no_query_sees_another_entry_or_a_later_token() -> None:
    mask = block_causal_mask(numbered([2, 2, 3, 1]))[0, 0]
    assert [row.int().tolist() for row in mask] == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 1, 0],
        [1, 1, 0, 0, 0, 0, 0, 1],
    ]
