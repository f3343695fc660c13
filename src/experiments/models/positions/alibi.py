"""Attention with linear biases. Press 2022, arXiv:2108.12409, §3."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.models.positions.positions import Positions


@dataclass(frozen=True, kw_only=True)
class ALiBi(Positions):
    """Scores of a key fall with its distance, in each head by a slope of its own.

    Under bfloat16 the bias has eight bits, as all scores do.
    """

    def bias(self, n_heads: int, n: int, n_keys: int, device: torch.device) -> Tensor:
        keys = torch.arange(n_keys, device=device)
        distance = (keys[-n:, None] - keys).float()
        return -torch.tensor(slopes(n_heads), device=device)[:, None, None] * distance


def slopes(n_heads: int) -> list[float]:
    """2^(-8 i / n) for i from 1 to n. Where n is no power of two, those of the power p below it,
    then every second one of 2 p: not in the paper, but in its authors' code.
    """
    p = 2 ** int(math.log2(n_heads))
    own = [2 ** (-8 * i / p) for i in range(1, p + 1)]
    return own + [2 ** (-4 * i / p) for i in range(1, 2 * p + 1, 2)][: n_heads - p]
