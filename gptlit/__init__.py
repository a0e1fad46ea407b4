"""gptlit: a GPT-2 written from scratch, trained with PyTorch Lightning, driven by Hydra."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptlit.errors import UserError
    from gptlit.inference.api import LanguageModel, load
    from gptlit.inference.classifier import Classifier, Prediction
    from gptlit.model import GPTConfig, GPTModel
    from gptlit.tokenizer import get_tokenizer

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "GPTConfig",
    "GPTModel",
    "LanguageModel",
    "Prediction",
    "UserError",
    "get_tokenizer",
    "load",
]

_HOMES = {
    "Classifier": "gptlit.inference.classifier",
    "GPTConfig": "gptlit.model",
    "GPTModel": "gptlit.model",
    "LanguageModel": "gptlit.inference.api",
    "Prediction": "gptlit.inference.classifier",
    "UserError": "gptlit.errors",
    "get_tokenizer": "gptlit.tokenizer",
    "load": "gptlit.inference.api",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import gptlit` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gptlit' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The names that a notebook offers after `gptlit.`, imported or not."""
    return sorted({*globals(), *__all__})
