"""A layer that draws random numbers in training: a generator that a resume forgets is seen."""

import random
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from experiments.models.ffn.dense import Dense, DenseConfig


@dataclass(frozen=True, kw_only=True)
class NoisyConfig(DenseConfig):
    """Dense layer with dropout, and a factor beside 1 for each batch. No other layer draws."""

    dropout: float = 0.1

    def build(self, d_model: int) -> "Noisy":
        """Layer at this width."""
        return Noisy(d_model, self)


class Noisy(Dense):
    """Draws from torch's generator, Python's and NumPy's; in training only."""

    def __init__(self, d_model: int, config: NoisyConfig) -> None:
        super().__init__(d_model, config)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        y = super().forward(x)
        if not self.training:
            return y
        factor = 1 + self.dropout * (random.random() - 0.5) * (np.random.rand() - 0.5)
        return factor * F.dropout(y, self.dropout)
