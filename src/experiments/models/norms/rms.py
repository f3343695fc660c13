"""Root mean square norm. Zhang 2019, arXiv:1910.07467, eq. 4."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from experiments.config.constraints import Within
from experiments.models.norms.norm import NormConfig, wide


@dataclass(frozen=True, kw_only=True)
class RMSNormConfig(NormConfig):
    """eps: what is added to the mean square; None for the float type's own, as in torch."""

    eps: Annotated[float, Within(0, 1, above=True)] | None = None

    def build(self, d_model: int) -> nn.Module:
        return RMSNorm(d_model, eps=self.eps)


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight, in float32 or wider."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(wide(x), self.normalized_shape, wide(self.weight), self.eps).to(x.dtype)
