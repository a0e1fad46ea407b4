"""The number format of matrix products."""

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """The type of matrix products of `x`: autocast's if it is enabled, else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
