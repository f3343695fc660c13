"""A linear map in two factors: a query's, as sgatlin has it (arXiv:2606.07414)."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from experiments.models.roles import Role


class LowRank(nn.Module):
    """x (T, d_in) to up(down(x)) (T, d_out): a linear map of rank r at most, in two factors.

    Tensors: down.weight (r, d_in), up.weight (d_out, r). Outputs start as large as those of one
    matrix do, of N(0, d_in**-0.5).
    """

    param_roles: ClassVar[Mapping[str, Role]] = {
        "down.weight": Role(fan_in=1, group="key"),
        "up.weight": Role(fan_in=1, group="key"),
    }

    def __init__(self, d_in: int, rank: int, d_out: int) -> None:
        super().__init__()
        self.in_features, self.rank = d_in, rank
        self.down = nn.Linear(d_in, rank, bias=False)
        self.up = nn.Linear(rank, d_out, bias=False)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    @property
    def weight(self) -> Tensor:
        """Matrix that both are, (d_out, d_in)."""
        return self.up.weight @ self.down.weight

    def forward(self, x: Tensor) -> Tensor:
        """up(down(x))."""
        y: Tensor = self.up(self.down(x))
        return y
