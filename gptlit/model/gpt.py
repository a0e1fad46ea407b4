"""GPT-2, top to bottom.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners": a decoder-only
transformer (Vaswani et al. 2017) with the norms moved in front of each branch. The names of the
parts are those of Raschka, "Build a Large Language Model (From Scratch)".

Shapes: B batch, T time (tokens), C emb_dim, V vocabulary.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptlit.model.block import TransformerBlock, at_positions
from gptlit.model.cache import KVCache
from gptlit.model.config import GPTConfig
from gptlit.model.given import require_config, require_ids, require_targets
from gptlit.model.loss import IGNORE_INDEX, TiedTable, cross_entropy_sum
from gptlit.model.mask import as_bias
from gptlit.model.saved import PER_BLOCK, saved_in
from gptlit.model.segments import SegmentMask


class GPTModel(nn.Module):
    """Token and position embeddings, a stack of blocks, a final norm, and a head, which by default
    shares the weight of the token embedding.

    Embedding and head have `cfg.padded_vocab_size` rows, since matrix products are faster on round
    sizes; the rows past `cfg.vocab_size` never appear in logits or losses.

    If `saved_dtype` is set, the activations that blocks save for the backward pass are kept in it,
    unless the gradients that are computed from them take more memory. `compiled` says whether
    `compile_blocks` was called.

    Raises:
        TypeError: `cfg` is not a `GPTConfig`.
    """

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        require_config(cfg)
        self.cfg = cfg
        self.saved_dtype: torch.dtype | None = None
        self.compiled = False
        self.tok_emb = nn.Embedding(cfg.padded_vocab_size, cfg.emb_dim)
        self.pos_emb = nn.Embedding(cfg.context_length, cfg.emb_dim)
        self.drop_emb = nn.Dropout(cfg.drop_rate)
        self.trf_blocks = nn.ModuleList(TransformerBlock(cfg) for _ in range(cfg.n_layers))
        self.final_norm = nn.LayerNorm(cfg.emb_dim)
        self.out_head: nn.Module | None = None  # None: tied to the token embedding
        if not cfg.tied_head:
            self.out_head = nn.Linear(cfg.emb_dim, cfg.padded_vocab_size, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """GPT-2's initialisation: weights with standard deviation 0.02, embeddings with
        `cfg.emb_init_std`, biases 0. Projections that write to the residual stream are scaled
        down by sqrt(2 n_layers), so that its variance does not grow with depth."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.cfg.emb_init_std)
            if isinstance(module, nn.Linear):
                into_residual = name.endswith(("out_proj", "ff.proj"))
                std = 0.02 / math.sqrt(2 * self.cfg.n_layers) if into_residual else 0.02
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def hidden(
        self,
        input_ids: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | SegmentMask | None = None,
        cache: KVCache | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """The last hidden states, after the final norm.

        Args:
            input_ids: (B, T) int64.
            positions: (B, T) or (T,) int64, below the context length, which T itself may then
                exceed. Default: consecutive, from the cache's length on.
            mask: bool, broadcastable to (B, n_heads, T, cached + T), true where a query may look
                at a key; or `segment_mask`. Default: causal, for which the fused kernel needs no
                mask tensor.
            cache: keys and values of earlier tokens; this call's are appended to it. Only
                within `torch.no_grad()`.
            keep: (N,) int64, positions in the flattened (B T) to return. Default: all.

        Returns:
            (B, T, C), or (N, C) with `keep`.

        Raises:
            ValueError: the ids are not (B, T); `positions` is None, and cached and new tokens
                together exceed the context length; or what `KVCache.append` raises.
        """
        past = 0 if cache is None else cache.length
        x = self.embed(input_ids, positions=positions, past=past)
        return self.final_norm(self.run_blocks(x, mask=mask, cache=cache, keep=keep))

    def embed(
        self,
        input_ids: Tensor,
        *,
        positions: Tensor | None = None,
        past: int = 0,
        table: Tensor | None = None,
    ) -> Tensor:
        """The input of the first block: token plus position embeddings, with dropout.

        Args:
            input_ids: (B, T) int64.
            positions: (B, T) or (T,) int64, below the context length, which T itself may then
                exceed. Default: consecutive, from `past` on.
            past: how many tokens came before these.
            table: the token embedding's weight, if its gradient is to be sparse. Default: dense.

        Returns:
            (B, T, C).

        Raises:
            ValueError: the ids are not (B, T); or `positions` is None, and past and new tokens
                together exceed the context length.
        """
        require_ids(input_ids)
        if positions is None:
            end = past + input_ids.shape[1]
            if end > self.cfg.context_length:
                raise ValueError(
                    f"{end} tokens exceed the model's context of {self.cfg.context_length}"
                )
            positions = torch.arange(past, end, device=input_ids.device)
        sparse, weight = table is not None, self.tok_emb.weight if table is None else table
        tokens = F.embedding(input_ids, weight, sparse=sparse)
        return self.drop_emb(tokens + self.pos_emb(positions))

    def run_blocks(
        self,
        x: Tensor,
        *,
        start: int = 0,
        stop: int | None = None,
        mask: Tensor | SegmentMask | None = None,
        cache: KVCache | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """The residual stream after the last block that is run, before the final norm.

        Args:
            x: (B, T, C), the output of `embed`, or of block `start` - 1.
            start, stop: run only blocks `start` to `stop` - 1.
            mask, cache, keep: as in `hidden`; `keep` needs at least one block to run.

        Returns:
            (B, T, C), or (N, C) with `keep`.
        """
        past, T = (0 if cache is None else cache.length), x.shape[1]  # noqa: N806
        if mask is None and past > 0 and T > 1:
            # With is_causal, the kernel would align the first query with the oldest key.
            keys = torch.arange(past + T, device=x.device)
            mask = keys <= keys[past:, None]
        if isinstance(mask, Tensor) and x.device.type == "cuda":
            mask = as_bias(mask, x)  # once for all blocks
        blocks: list[tuple[int, Any]] = list(enumerate(self.trf_blocks))[start:stop]
        if keep is not None and not self.compiled:  # else it would be compiled once more for this
            layer, last = blocks[-1]
            blocks[-1] = layer, partial(last, keep=keep)
        recompute = self.cfg.activation_checkpointing and self.training and cache is None
        with self._saving(x):
            for layer, block in blocks:
                if recompute:
                    x = checkpoint(block, x, mask, use_reentrant=False)
                else:
                    x = block(x, mask, cache, layer)
        if keep is not None and self.compiled:
            x = at_positions(x, keep)
        if cache is not None:
            cache.length = past + T
        return x

    def _saving(self, x: Tensor) -> AbstractContextManager[Any]:
        if self.saved_dtype is None or not torch.is_grad_enabled():
            return nullcontext()
        to_come = sum(p.numel() for p in self.parameters() if p.requires_grad and p.grad is None)
        if PER_BLOCK * len(self.trf_blocks) * x.numel() <= to_come:
            return nullcontext()  # memory is at its peak when the gradients have taken their place
        return saved_in(self.saved_dtype, self.parameters(), at_least=x.numel())

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., C) -> unnormalised log-probabilities (..., V)."""
        head = self.out_head
        out = F.linear(hidden, self.tok_emb.weight) if head is None else head(hidden)
        return out[..., : self.cfg.vocab_size]

    def head_weight(self) -> Tensor:
        """The weight of the head, tied or not: (rows, C), rows >= vocab_size."""
        return (self.tok_emb if self.out_head is None else self.out_head).get_parameter("weight")

    def forward(
        self,
        input_ids: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | SegmentMask | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """input_ids (B, T) -> logits (B, T, V); arguments as in `hidden`."""
        return self.logits(self.hidden(input_ids, positions=positions, mask=mask, cache=cache))

    def loss_sum(
        self,
        input_ids: Tensor,
        targets: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | SegmentMask | None = None,
        dense: bool = False,
    ) -> Tensor:
        """Cross entropy in nats, summed over the targets that are not -100.

        Logits are computed only where there is a target, in chunks that are freed at once. For more
        than one backward pass, or a gradient of gradients, take the cross entropy of `forward`.

        Args:
            input_ids: (B, T) int64.
            targets: (B, T) int64, -100 where there is no loss.
            positions, mask: as in `hidden`.
            dense: promises that no target is -100, which saves waiting for a GPU to find out.

        Returns:
            a scalar in fp32; divide by the number of targets for the mean.

        Raises:
            ValueError: there are not as many targets as inputs, or what `embed` raises.
        """
        require_targets(targets, input_ids)
        weight, table = self.head_weight(), None
        if self.out_head is None and input_ids.device.type == "cpu":
            table, weight = TiedTable.apply(weight)
        targets, keep = targets.flatten(), None
        if not dense:
            keep = (targets != IGNORE_INDEX).nonzero()[:, 0]
            targets = targets[keep]
        x = self.embed(input_ids, positions=positions, table=table)
        h = self.final_norm(self.run_blocks(x, mask=mask, keep=keep))
        return cross_entropy_sum(h.view(-1, h.shape[-1]), weight, targets, self.cfg.vocab_size)

    def compile_blocks(self, **options: Any) -> None:
        """Compile each block in place, so parameters keep their names; all share one graph. The
        options are those of `torch.compile`."""
        for block in self.trf_blocks:
            block.compile(**options)
        self.compiled = True

    def num_parameters(self, *, embeddings: bool = True) -> int:
        """How many parameters there are, trainable and frozen, as published figures count them: a
        tied head once, padding rows and LoRA's additions not at all. `embeddings=False` leaves
        out the token and position tables."""
        cfg = self.cfg
        total = sum(p.numel() for name, p in self.named_parameters() if ".lora_" not in name)
        tables = 1 if cfg.tied_head else 2
        total -= tables * (cfg.padded_vocab_size - cfg.vocab_size) * cfg.emb_dim
        if not embeddings:
            total -= (cfg.vocab_size + cfg.context_length) * cfg.emb_dim
        return total
