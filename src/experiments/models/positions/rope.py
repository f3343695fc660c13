"""Rotary positions: scores depend on the distance alone. Su 2021, arXiv:2104.09864, §3.2.2."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from experiments.config.constraints import Within
from experiments.models.positions.positions import Positions

_BASE = 10_000.0


@dataclass(frozen=True, kw_only=True)
class RoPE(Positions):
    """base: the slowest pair turns by about 1 / base a position; transformers' rope_theta."""

    base: Annotated[float, Within(1, 1e12, above=True)] = _BASE

    def check(self, d_head: int) -> None:
        if d_head % 2:
            raise ValueError(f"ladder.d_head={d_head} must be even, for rotary positions")

    def angles(self, places: Tensor, d_head: int) -> Tensor:
        """float32, in a model in float64 too: it is right to 1e-7 by them, and to 1e-15 in all
        else.
        """
        steps = torch.arange(0, d_head, 2, device=places.device) / d_head
        # At another base than ours by the operations of Llama in transformers: the last bit of a
        # frequency is 1.5e-4 in SmolLM2's logits. At ours as ever: runs stay the same to the bit.
        frequency = self.base**-steps if self.base == _BASE else 1.0 / self.base**steps
        return places[..., None].float() * frequency
