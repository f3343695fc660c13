"""No feed-forward layer at all: the control without which no one-slot comparison can be read."""

from dataclasses import dataclass

from torch import Tensor

from experiments.budget.costs import Cost
from experiments.models.ffn._base import FFN


@dataclass(frozen=True, kw_only=True)
class NoneConfig:
    """A block that keeps only its attention."""

    def cost(self, d_model: int) -> Cost:
        """Nothing."""
        return Cost(())

    def build(self, d_model: int) -> "NoFFN":
        """A module that adds nothing to the residual stream."""
        return NoFFN()


class NoFFN(FFN):
    """Returns zeros of its input's shape, so that the residual passes unchanged."""

    def why_not_fused(self) -> str | None:
        return None  # there is nothing to fuse

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to zeros of that shape.

        By way of x: under DDP every parameter before it must get a gradient, be it zero.
        """
        return 0 * x
