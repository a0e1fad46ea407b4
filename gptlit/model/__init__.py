"""The network and its parts. Imports torch, and nothing else of ours."""

from gptlit.model.cache import KVCache
from gptlit.model.config import GPTConfig
from gptlit.model.gpt import GPTModel
from gptlit.model.loss import IGNORE_INDEX, cross_entropy_sum

__all__ = ["IGNORE_INDEX", "GPTConfig", "GPTModel", "KVCache", "cross_entropy_sum"]
