"""Which metric says what is best, and in which direction."""

import math
from typing import Any

import pytest

from gptlit.training.monitored import LOSS, Monitored


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, LOSS),
        ({"monitor": "val/loss", "monitor_mode": "auto"}, LOSS),
        ({"monitor": "val/perplexity", "monitor_mode": "auto"}, Monitored("val/perplexity", "min")),
        ({"monitor": "val/accuracy", "monitor_mode": "auto"}, Monitored("val/accuracy", "max")),
        ({"monitor": "val/errors", "monitor_mode": "min"}, Monitored("val/errors", "min")),
        ({"monitor": "val/loss", "monitor_mode": "max"}, Monitored("val/loss", "max")),
    ],
    ids=str,
)
def test_the_direction_follows_from_the_name_unless_it_is_given(
    settings: dict[str, Any], expected: Monitored
) -> None:
    assert Monitored.of({"trainer": settings}) == expected


def test_the_best_score_has_the_lowest_rank() -> None:
    scores = [0.5, None, 0.25, math.nan, 0.75]
    assert sorted(scores[::2], key=LOSS.rank) == [0.25, 0.5, 0.75]
    assert sorted(scores[::2], key=Monitored("val/f1", "max").rank) == [0.75, 0.5, 0.25]
    assert [LOSS.rank(score) for score in scores[1::2]] == [math.inf, math.inf]
