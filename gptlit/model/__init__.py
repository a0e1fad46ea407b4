"""The network and its parts. Imports torch, and nothing else of ours."""

from gptlit.model.autocast import product_dtype
from gptlit.model.blank import blank_parameters
from gptlit.model.cache import KVCache
from gptlit.model.classifier import TextClassifier, trained_blocks
from gptlit.model.config import GPTConfig
from gptlit.model.gpt import GPTModel
from gptlit.model.lora import (
    LoRAConfig,
    LoRALinear,
    add_lora,
    base_fingerprint,
    is_lora_parameter,
    merge_lora,
)
from gptlit.model.loss import IGNORE_INDEX, cross_entropy_sum, narrow_head
from gptlit.model.segments import SegmentMask, block_causal_mask, segment_mask

__all__ = [
    "IGNORE_INDEX",
    "GPTConfig",
    "GPTModel",
    "KVCache",
    "LoRAConfig",
    "LoRALinear",
    "SegmentMask",
    "TextClassifier",
    "add_lora",
    "base_fingerprint",
    "blank_parameters",
    "block_causal_mask",
    "cross_entropy_sum",
    "is_lora_parameter",
    "merge_lora",
    "narrow_head",
    "product_dtype",
    "segment_mask",
    "trained_blocks",
]
