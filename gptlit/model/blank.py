"""Modules without numbers, to be filled from a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _NoInitialisation(TorchFunctionMode):
    """Leaves tensors as they are where torch.nn.init would fill them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def blank_parameters() -> Iterator[None]:
    """Modules made in this context have parameters on the meta device: shapes, and no memory.

    Nothing draws initial values for them. On the meta device that would only cost time: PyTorch
    imports its compiler for it.
    """
    with torch.device("meta"), _NoInitialisation():
        yield
