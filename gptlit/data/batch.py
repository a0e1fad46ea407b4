"""What one training step reads."""

from typing import NamedTuple

from torch import Tensor

IGNORE_INDEX = -100
"""The target that carries no loss."""


class TextBatch(NamedTuple):
    """Windows of running text.

    input_ids: (batch, time) int64
    targets: (batch, time) int64, the token after each input; -100 where there is no loss
    """

    input_ids: Tensor
    targets: Tensor


class InstructionBatch(NamedTuple):
    """Prompts with their responses.

    input_ids: (batch, time) int64, padded on the right with end-of-text
    targets: (batch, time) int64, the token after each input; -100 where there is no loss: within
        the prompt, unless it is trained on, and on padding
    positions: (batch, time) int64, the position of each token in its entry, from 0; None if each
        row is one entry
    segments: (batch, time) int64, 1, 2, ... for the entries of a row, so that a mask can keep them
        apart, and 0 for the beginning that they share and for padding; None if each row is one
        entry
    rows: (entries,) int64, the index of each entry in its split; None for packed rows
    """

    input_ids: Tensor
    targets: Tensor
    positions: Tensor | None
    segments: Tensor | None
    rows: Tensor | None


class LabelledBatch(NamedTuple):
    """Texts with one class each.

    input_ids: (batch, time) int64, padded on the right with the end-of-text id
    lengths: (batch,) int64, the tokens of each text, at least 1
    labels: (batch,) int64, the classes
    rows: (batch,) int64, the index of each text in its split
    """

    input_ids: Tensor
    lengths: Tensor
    labels: Tensor
    rows: Tensor
