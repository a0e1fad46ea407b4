"""Modules whose parameters have no values yet: a file will fill them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _NoInitialisation(TorchFunctionMode):
    """Makes the functions of torch.nn.init return their tensor unchanged."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def blank_parameters() -> Iterator[None]:
    """Modules made in this context have parameters on the meta device: shapes without memory.

    Their initialisation is skipped. On the meta device it has no effect, but PyTorch would import
    its compiler for it, which takes time.
    """
    with torch.device("meta"), _NoInitialisation():
        yield
