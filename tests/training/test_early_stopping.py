"""What a checkpoint says about the end of a run that no longer gets better."""

from typing import Any

import pytest

from gptlit.training.early_stopping import saved_wait
from gptlit.training.monitored import LOSS, Monitored


@pytest.mark.parametrize(
    ("callbacks", "wait"),
    [
        ({}, 0),
        ({"Checkpoints": {"best_score": 2.0}}, 0),  # of a run without patience
        ({"EarlyStopping{'monitor': 'val/loss', 'mode': 'min'}": {"wait_count": 2}}, 2),
    ],
)
def test_a_run_has_waited_as_long_as_its_callback_says(
    callbacks: dict[str, Any], wait: int
) -> None:
    assert saved_wait({"callbacks": callbacks}, LOSS) == wait
    assert saved_wait({"callbacks": callbacks}, Monitored("val/f1", "max")) == 0
