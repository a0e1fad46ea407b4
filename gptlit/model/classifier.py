"""From hidden states to classes: where a text is read off, and who may look at whom.

Shapes: B batch, T time (tokens), C emb_dim.
"""

import re
from typing import TypeGuard

import torch
from torch import Tensor, nn

from gptlit.model.gpt import GPTModel, TransformerBlock

POOLS = ("last", "first", "mean")
"""Positions that the head can see."""


def trained_blocks(trainable: str, n_layers: int) -> int:
    """How many of the last blocks train besides the head.

    Args:
        trainable: head, last_block, last_2_blocks and so on, all or lora.
        n_layers: how many blocks there are.

    Raises:
        ValueError: there is no such choice.
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
    """A GPT and a head that says which class a text is of, from the hidden state at its pooled
    position. It owns no weights: both parts belong to whoever trains or uses them.

    Padding is never looked at: what a text is taken for depends on nothing else in its batch.

    Args:
        model: the body.
        head: C -> classes.
        pool: the position that the head sees: "last" (of the text's tokens), "first" or "mean".
        causal: whether a token sees only those before it; otherwise the whole of its text.
        split: the block before which `lower` ends and `upper` begins.

    Raises:
        ValueError: there is no such position.
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
            # A thousand tokens' sum may be more than fp16 can hold.
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
        """None for causal attention, in which no text sees the padding behind it; otherwise every
        position of a row, padding too, sees the whole text: (B, 1, T, T)."""
        if self.causal:
            return None
        columns = torch.arange(time, device=lengths.device)
        mask = columns < lengths[:, None]
        return mask[:, None, None].expand(-1, 1, time, -1)


def _can_be_cut(block: nn.Module) -> TypeGuard[TransformerBlock]:
    """Whether a block can be computed at one position alone: a packed one, or one with LoRA, has no
    projection that could be cut in parts."""
    return isinstance(block, TransformerBlock) and type(block.att.qkv) is nn.Linear
