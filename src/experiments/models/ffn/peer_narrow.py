"""PEER in a narrow width, between two maps: the memory layer of UltraMemV2 (Huang 2025).

arXiv:2508.18756. The experts are PEER's (He 2024, arXiv:2407.04153, Eq. 6), of rows of d_value
numbers: a row costs d_value / d_model of PEER's in parameters, FLOPs and bytes that are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from experiments.budget.costs import Cost, Term
from experiments.config.constraints import AtLeast1
from experiments.kernels.ops import Indices, gather_dot, gather_sum
from experiments.models.ffn._base import ACTIVATIONS, check_choice
from experiments.models.ffn._product_keys import (
    ProductKeyConfig,
    ProductKeyFFN,
    router_terms,
    table,
)
from experiments.models.ffn._slots import Routed, Slots
from experiments.models.roles import MAP, Role


@dataclass(frozen=True, kw_only=True)
class PeerNarrowConfig(ProductKeyConfig):
    """d_value: the width of the experts' rows. One head of 32 and d_value=192 are the paper's.

    Ours is the router: product keys with the gates that `score` says, as PEER and PKM have them,
    where the paper has UltraMem's Tucker scores (arXiv:2411.12364); no convolution of queries.
    """

    n_heads: AtLeast1 = 1
    top_k: AtLeast1 = 32
    d_value: AtLeast1 = 192
    activation: str = "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, ACTIVATIONS)

    def cost(self, d_model: int) -> Cost:
        """Routing, both maps, and h * k experts of two narrow rows a token."""
        width, n_retrieved = self.d_value, self.n_retrieved
        n_map = d_model * width
        experts = Term(
            name="experts",
            n_params=2 * self.n_experts * width,
            n_active_params=2 * min(n_retrieved, self.n_experts) * width,
            flops=4 * n_retrieved * width,
            seen_by_torch=False,
            n_tables=2,
            d_row=width,
            kept=0,
            # their input; products with rows, before and after activations
            kept_wide=width + 2 * n_retrieved,
        )
        return Cost(
            (
                *router_terms(self, d_model),
                Term(name="narrow", n_params=n_map, flops=2 * n_map, kept=0),
                experts,
                Term(name="widen", n_params=n_map, flops=2 * n_map, kept=width),
            )
        )

    def build(self, d_model: int) -> "PeerNarrow":
        """Layer at this width."""
        return PeerNarrow(d_model, self)


class PeerNarrow(ProductKeyFFN, Routed):
    """y = w_out m, m = sum over heads and their k best keys of gate_i act(w_down_i . p) w_up_i, and
    p = w_in x.

    Queries are of x, all of it: p has d_value numbers of it, chosen for what experts read.
    Tensors, beside the router's: w_in.weight (d_value, d_model), w_out.weight (d_model, d_value),
    w_down and w_up, each (n_experts, d_value).

    output_weights() are the rows w_up, through which all goes that w_out writes: so new experts
    start at zero, and tables learn alone, as PEER's.
    """

    by_columns = True
    param_roles: ClassVar[Mapping[str, Role]] = {
        **ProductKeyFFN.param_roles,
        "w_in.weight": MAP,
        "w_out.weight": MAP,
        "w_down": Role(fan_in=1, group="table"),  # a row is a map of d_value to 1
        "w_up": Role(fan_in=None, group="table"),  # and here of 1 to d_value
    }

    config: PeerNarrowConfig

    def __init__(self, d_model: int, config: PeerNarrowConfig) -> None:
        super().__init__(config, d_model)
        width = config.d_value
        self.activation = ACTIVATIONS[config.activation]
        self.w_in = nn.Linear(d_model, width, bias=False)
        self.w_out = nn.Linear(width, d_model, bias=False)
        for linear in (self.w_in, self.w_out):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        self.w_down = table(config, width)
        self.w_up = table(config, width, config.value_init)

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.w_up,)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        tokens = x.flatten(0, -2)
        indices, gates = self.route(tokens)
        experts = self.execution.retrieved(indices, self.w_down)
        weights = self.slot_weights(tokens, experts, gates)
        narrow = gather_sum(self.w_up, experts, weights, self.execution)
        return self.w_out(narrow.to(x.dtype)).view_as(x)

    def slot_weights(self, x: Tensor, experts: Indices, gates: Tensor) -> Tensor:
        read = gather_dot(self.w_in(x), self.w_down, experts, self.execution)
        return self.activation(read) * gates

    def expert_rows(self) -> dict[str, Tensor]:
        return {"w_down": self.w_down, "w_up": self.w_up}

    def written(self, x: Tensor, slots: Slots) -> Tensor:
        return self.w_out(super().written(x, slots).to(x.dtype))
