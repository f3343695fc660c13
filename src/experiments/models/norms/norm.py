"""A norm of the residual stream, as the trunk knows it. README.md has how to add one.

Torch alone: an export has this file and that of the model's own norm.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class NormConfig(ABC):
    """A frozen dataclass, which a yaml of conf/norm names by its `_target_`."""

    @abstractmethod
    def build(self, d_model: int) -> nn.Module:
        """A module of (..., d_model) to the same. The fused trunk knows RMSNorm; with another one
        all runs as it is written (fused.py).
        """

    def n_params(self, d_model: int) -> int:
        """Those of the module. Its FLOPs are not counted, as those of other sums over a row."""
        return d_model


def wide(x: Tensor) -> Tensor:
    """float32, or float64 as it is: what means over a row are taken in."""
    return x if x.dtype == torch.float64 else x.float()
