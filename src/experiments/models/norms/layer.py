"""Layer norm. Ba 2016, arXiv:1607.06450, §3; without a bias, as in PaLM (arXiv:2204.02311, §2)."""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from experiments.config.constraints import Within
from experiments.models.norms.norm import NormConfig, wide


@dataclass(frozen=True, kw_only=True)
class LayerNormConfig(NormConfig):
    """eps: what is added to the variance."""

    eps: Annotated[float, Within(0, 1, above=True)] = 1e-5

    def build(self, d_model: int) -> nn.Module:
        return LayerNorm(d_model, eps=self.eps, bias=False)


class LayerNorm(nn.LayerNorm):
    """(x - mean(x)) / sd(x) * weight, in float32 or wider."""

    def forward(self, x: Tensor) -> Tensor:
        weight = wide(self.weight)
        return F.layer_norm(wide(x), self.normalized_shape, weight, None, self.eps).to(x.dtype)
