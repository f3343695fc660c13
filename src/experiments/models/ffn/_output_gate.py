"""A gate of the input on what experts or values sum up to, and a map of both, as Memory+ has them.

y = W_out (m * silu(W_gate x)): Berges 2024, arXiv:2412.09764.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from experiments.budget.costs import Term
from experiments.models.roles import MAP, Role


def gate_terms(d_model: int) -> tuple[Term, Term]:
    """Both maps, each of d_model to itself."""
    n_map = d_model**2
    return (
        # before and after its activation
        Term(name="gate", n_params=n_map, flops=2 * n_map, kept=2 * d_model),
        Term(name="out", n_params=n_map, flops=2 * n_map, kept=d_model),
    )


def gate_maps(d_model: int) -> tuple[nn.Linear, nn.Linear]:
    """W_gate and W_out, N(0, d_model**-0.5)."""
    maps = nn.Linear(d_model, d_model, bias=False), nn.Linear(d_model, d_model, bias=False)
    for linear in maps:
        nn.init.normal_(linear.weight, std=d_model**-0.5)
    return maps


def gated(summed: Tensor, x: Tensor, w_gate: nn.Linear, w_out: nn.Linear) -> Tensor:
    """y of m and x, each (T, d_model)."""
    opened = F.silu(w_gate(x))
    y: Tensor = w_out(summed.to(opened.dtype) * opened)
    return y


class OutputGate(nn.Module):
    """Both maps as a module: w_gate.weight and w_out.weight, each (d_model, d_model)."""

    param_roles: ClassVar[Mapping[str, Role]] = {"w_gate.weight": MAP, "w_out.weight": MAP}

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.w_gate, self.w_out = gate_maps(d_model)

    def forward(self, summed: Tensor, x: Tensor) -> Tensor:
        """(T, d_model) of both to the same."""
        return gated(summed, x, self.w_gate, self.w_out)
