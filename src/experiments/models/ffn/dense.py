"""Dense feed-forward layer: two matrices around an activation, or three with a gate (GLU)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from experiments.budget.costs import Cost, Term
from experiments.config.constraints import check_fields
from experiments.kernels.trunk import mlp_half, why_not_mlp
from experiments.models.ffn._base import ACTIVATIONS, MLP, WidthFactor, check_choice
from experiments.models.ffn._slots import Slots, Slotted
from experiments.models.roles import MAP, Role
from experiments.models.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """d_ff = width_factor * d_model hidden units (Vaswani 2017 uses 4), no biases.

    glu: gate the hidden units, (act(x W_g) * x W_in) W_out (Shazeer 2020, arXiv:2002.05202).
        A GLU of width_factor 8/3 costs what a plain layer of 4 costs.
    """

    is_mlp: ClassVar[bool] = True

    width_factor: WidthFactor = 4.0
    activation: str = "gelu"
    glu: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("activation", self.activation, ACTIVATIONS)

    def d_ff(self, d_model: int) -> int:
        """Hidden units at this width."""
        return round(self.width_factor * d_model)

    def cost(self, d_model: int) -> Cost:
        """Two (three with glu) products of d_model x d_ff."""
        d_ff = self.d_ff(d_model)
        n_params = (3 if self.glu else 2) * d_model * d_ff
        kept = (4 if self.glu else 2) * d_ff  # before and after activations, and the product
        of = Term(name="dense", n_params=n_params, flops=2 * n_params, kept=kept, half="layer")
        return Cost((of,))

    def build(self, d_model: int) -> "Dense":
        """Layer at this width."""
        return Dense(d_model, self)


class Dense(MLP, Slotted):
    """y = act(x W_in) W_out, or its gated form."""

    recomputes = True
    adaptable: ClassVar[tuple[str, ...]] = ("w_in", "w_gate", "w_out")
    param_roles: ClassVar[Mapping[str, Role]] = {
        "w_in.weight": MAP,
        "w_gate.weight": MAP,
        "w_out.weight": MAP,
    }

    def __init__(self, d_model: int, config: DenseConfig) -> None:
        super().__init__()
        d_ff = config.d_ff(d_model)
        self.activation = ACTIVATIONS[config.activation]
        self.w_in = nn.Linear(d_model, d_ff, bias=False)
        self.w_gate = nn.Linear(d_model, d_ff, bias=False) if config.glu else None
        self.w_out = nn.Linear(d_ff, d_model, bias=False)
        for linear in (self.w_in, self.w_gate, self.w_out):
            if linear is not None:
                nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.w_out.weight,)

    def why_not_fused(self) -> str | None:
        if type(self) is not Dense:  # a subclass may compute something else
            return super().why_not_fused()
        return why_not_mlp((self.w_in, self.w_gate, self.w_out), _find_name(self.activation))

    def fused_half(self, x: Tensor, norm: nn.RMSNorm, times: float) -> Tensor:
        gate = None if self.w_gate is None else self.w_gate.weight
        weights = (self.w_in.weight, gate, self.w_out.weight)
        return mlp_half(x, norm, weights, _find_name(self.activation), times)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        return self.w_out(self._hidden(x))

    def _hidden(self, x: Tensor) -> Tensor:
        if self.w_gate is None:
            return self.activation(self.w_in(x))
        return self.activation(self.w_gate(x)) * self.w_in(x)

    def why_no_slots(self) -> str | None:
        if type(self.w_out) is nn.Linear:
            return None
        return "low-rank adapters beside w_out write too, and no hidden unit has a row of theirs"

    def slots(self, x: Tensor, tokens: Tokens | None = None) -> Slots:
        hidden = self._hidden(x)
        units = torch.arange(hidden.shape[1], device=x.device).expand_as(hidden)
        sizes = hidden.abs() * self.slot_rows().norm(dim=1)
        return Slots(experts=units, gates=sizes, weights=hidden, all_experts=True)

    def expert_rows(self) -> dict[str, Tensor]:
        gate = {} if self.w_gate is None else {"w_gate": self.w_gate.weight}
        return {"w_in": self.w_in.weight, **gate, "w_out": self.w_out.weight.t()}


def _find_name(activation: Callable[[Tensor], Tensor]) -> str:
    return next(name for name, function in ACTIVATIONS.items() if function is activation)
