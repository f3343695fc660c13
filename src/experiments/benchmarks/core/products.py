"""Types that matrix products are computed in."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = ("mm", "bmm", "_grouped_mm")


class Products(TorchDispatchMode):
    """FLOPs of the matrix products in its block, by the type of their factors. Those of our own
    kernels are out of sight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = Counter[torch.dtype]()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.overloadpacket.__name__ in _PRODUCTS:
            left, right = args[:2]
            assert left.dtype == right.dtype
            self.flops[left.dtype] += 2 * left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))
