"""Type of products under autocast, for those that autocast does not know."""

import torch
from torch import Tensor


def in_autocast(x: Tensor) -> Tensor:
    """x in the type that autocast gives to products; float64 as it is, as torch leaves it."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))
