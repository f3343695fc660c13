"""Parameter-efficient expert retrieval: He 2024, "Mixture of A Million Experts", Alg. 1.

arXiv:2407.04153. An expert is one neuron, e_i(x) = act(w_down_i . x) w_up_i (Eq. 6); every
head retrieves k of N by product keys, and heads share the experts and the sub-keys (Eq. 7).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from experiments.budget.costs import Cost, Term
from experiments.kernels.ops import gather_dot, gather_sum
from experiments.models.ffn._base import ACTIVATIONS, check_choice
from experiments.models.ffn._product_keys import (
    ProductKeyConfig,
    ProductKeyFFN,
    router_terms,
    table,
)
from experiments.models.roles import Role


@dataclass(frozen=True, kw_only=True)
class PEERConfig(ProductKeyConfig):
    """Defaults are the paper's (§3.1): N=1024**2, h=8, k=16, query batch-norm, shared keys.

    Not stated there, chosen here: GELU, d_key=256, no biases, tables N(0, d_model**-0.5).
    glu: gated experts act(w_gate_i . x)(w_down_i . x) w_up_i, named in §2 as an easy extension.
    """

    activation: str = "gelu"
    glu: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, ACTIVATIONS)

    def cost(self, d_model: int) -> Cost:
        """Routing, and h * k experts of two (with glu three) rows a token."""
        rows = 3 if self.glu else 2
        experts = Term(
            name="experts",
            n_params=rows * self.n_experts * d_model,
            n_active_params=rows * min(self.n_retrieved, self.n_experts) * d_model,
            flops=2 * rows * self.n_retrieved * d_model,
            seen_by_torch=False,
            n_tables=rows,
            kept=0,
            # its input; products with rows, before and after activations
            kept_wide=d_model + (2 * rows - 2) * self.n_retrieved,
        )
        return Cost((*router_terms(self, d_model), experts))

    def build(self, d_model: int) -> "PEER":
        """The layer at this width."""
        return PEER(d_model, self)


class PEER(ProductKeyFFN):
    """y = sum over heads and their k best keys of gate_i act(w_down_i . x) w_up_i.

    Tensors, beside the router's: w_down, w_up and with glu w_gate, each (n_experts, d_model).
    """

    param_roles: ClassVar[Mapping[str, Role]] = {
        **ProductKeyFFN.param_roles,
        "w_down": Role(fan_in=1, group="table"),  # a row is a map of d_model to 1
        "w_gate": Role(fan_in=1, group="table"),
        "w_up": Role(fan_in=None, group="table"),  # and here of 1 to d_model
    }

    config: PEERConfig

    def __init__(self, d_model: int, config: PEERConfig) -> None:
        super().__init__(config, d_model)
        self.activation = ACTIVATIONS[config.activation]
        self.w_down = table(config, d_model)
        self.w_gate = table(config, d_model) if config.glu else None
        self.w_up = table(config, d_model, config.value_init)

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.w_up,)

    def _tables(self) -> tuple[Tensor | None, Tensor | None, Tensor]:
        return self.w_down, self.w_gate, self.w_up

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        tokens = x.flatten(0, -2)
        indices, gates = self.route(tokens)
        how = self.execution
        experts = how.retrieved(indices, self.w_down)
        hidden = gather_dot(tokens, self.w_down, experts, how)
        if self.w_gate is None:
            hidden = self.activation(hidden)
        else:
            hidden = self.activation(gather_dot(tokens, self.w_gate, experts, how)) * hidden
        return gather_sum(self.w_up, experts, hidden * gates, how).to(x.dtype).view_as(x)
