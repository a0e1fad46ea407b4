"""From hidden states to classes: which position is read, and which tokens attend to which.

Shapes: B batch, T time (tokens), C emb_dim.
"""

import re
from typing import TypeGuard

import torch
from torch import Tensor, nn

from gptlit.model.block import TransformerBlock
from gptlit.model.gpt import GPTModel

POOLS = ("last", "first", "mean")
"""What hidden states the head can get, see `TextClassifier`."""


def trained_blocks(trainable: str, n_layers: int) -> int:
    """How many of the last blocks train besides the head.

    Args:
        trainable: head, last_block, last_2_blocks and so on, all or lora.
        n_layers: how many blocks there are.

    Raises:
        ValueError: `trainable` is none of these.
    """
    match = re.fullmatch(r"last_(?:block|([1-9][0-9]*)_blocks)", str(trainable))
    named = {"head": 0, "all": n_layers, "lora": n_layers}
    blocks = int(match[1] or 1) if match else named.get(trainable, -1)
    if not 0 <= blocks <= n_layers:
        raise ValueError(
            f"task.trainable={trainable}: allowed are head, last_block, last_2_blocks ..."
            f" last_{n_layers}_blocks, all, lora"
        )
    return blocks


class TextClassifier:
    """A GPT and a head that predicts the class of a text from its pooled hidden state. It owns no
    weights: both parts belong to whoever trains or uses them.

    No token of a text attends to padding, so the prediction for a text does not depend on the rest
    of its batch.

    Args:
        model: the body.
        head: C -> classes.
        pool: the hidden state that the head gets: that of the text's "last" or "first" token, or
            the "mean" over its tokens.
        causal: whether a token attends only to itself and those before it; otherwise it attends to
            its whole text.
        split: index of the first block that belongs to `upper`; those before it belong to `lower`.

    Raises:
        ValueError: `pool` is none of these.
    """

    def __init__(
        self, model: GPTModel, head: nn.Linear, pool: str, causal: bool, split: int = 0
    ) -> None:
        if pool not in POOLS:
            raise ValueError(f"task.pool={pool}: allowed are {', '.join(POOLS)}")
        self.model, self.head = model, head
        self.pool, self.causal, self.split = pool, causal, split

    def logits(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """input_ids (B, T) padded on the right, lengths (B,) -> logits (B, classes), fp32."""
        return self.upper(self.lower(input_ids, lengths), lengths).float()

    def lower(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """input_ids (B, T), lengths (B,) -> residual stream before block `split` (B, T, C)."""
        x = self.model.embed(input_ids)
        mask = self._mask(lengths, input_ids.shape[1])
        return self.model.run_blocks(x, stop=self.split, mask=mask)

    def upper(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Residual stream before block `split` (B, T, C), lengths (B,) -> logits (B, classes)."""
        model, T = self.model, x.shape[1]  # noqa: N806
        mask, columns = self._mask(lengths, T), torch.arange(T, device=x.device)
        if self.pool == "mean":
            x = model.final_norm(model.run_blocks(x, start=self.split, mask=mask))
            real = (columns < lengths[:, None])[..., None]
            # The sum over a thousand tokens may overflow fp16.
            x = (x * real).sum(dim=1, dtype=torch.float32) / lengths[:, None]
        else:
            positions = lengths - 1 if self.pool == "last" else torch.zeros_like(lengths)
            last = model.cfg.n_layers - 1
            if self.split <= last and _can_be_cut(block := model.trf_blocks[last]):
                x = model.run_blocks(x, start=self.split, stop=last, mask=mask)
                reach = positions + 1 if self.causal else lengths
                x = block.at(x, positions, columns < reach[:, None])[:, 0]
            else:
                x = model.run_blocks(x, start=self.split, mask=mask)
                x = x[torch.arange(len(x), device=x.device), positions]
            x = model.final_norm(x)
        logits: Tensor = self.head(x)
        return logits

    def _mask(self, lengths: Tensor, time: int) -> Tensor | None:
        """None for causal attention, in which no token sees the padding after it; otherwise every
        position of a row, also one of padding, attends to the whole text: (B, 1, T, T)."""
        if self.causal:
            return None
        columns = torch.arange(time, device=lengths.device)
        mask = columns < lengths[:, None]
        return mask[:, None, None].expand(-1, 1, time, -1)


def _can_be_cut(block: nn.Module) -> TypeGuard[TransformerBlock]:
    """Whether a block can be computed at a single position, for which `att.qkv` is cut in parts.
    That of a packed block, or with LoRA, cannot be cut."""
    return isinstance(block, TransformerBlock) and type(block.att.qkv) is nn.Linear
