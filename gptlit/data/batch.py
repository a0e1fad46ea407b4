"""What one training step reads."""

from typing import NamedTuple

from torch import Tensor


class TextBatch(NamedTuple):
    """Windows of running text.

    input_ids: (batch, time) int64
    targets: (batch, time) int64, the token after each input; -100 where there is no loss
    """

    input_ids: Tensor
    targets: Tensor
