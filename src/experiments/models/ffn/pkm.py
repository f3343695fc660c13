"""Product-key memory: the weighted sum of retrieved value rows (Lample 2019, arXiv:1907.05242)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from experiments.budget.costs import Cost
from experiments.config.constraints import AtLeast1
from experiments.kernels.ops import gather_sum
from experiments.models.ffn._product_keys import (
    ProductKeyConfig,
    ProductKeyFFN,
    router_terms,
    table,
    values_term,
)
from experiments.models.ffn._slots import Routed
from experiments.models.roles import Role


@dataclass(frozen=True, kw_only=True)
class PKMConfig(ProductKeyConfig):
    """He 2024 §3.1 compares with 1024**2 memories, h=8, k=32, query batch-norm.

    Lample gives each head its own sub-keys; share_keys=False is that.
    """

    top_k: AtLeast1 = 32

    def cost(self, d_model: int) -> Cost:
        """Routing, and h * k value rows a token."""
        return Cost((*router_terms(self, d_model), values_term(self, d_model)))

    def build(self, d_model: int) -> "PKM":
        """Layer at this width."""
        return PKM(d_model, self)


class PKM(ProductKeyFFN, Routed):
    """y = sum over heads and their k best keys of gate_i values_i.

    Tensors, beside the router's: values (n_experts, d_model).
    """

    by_columns = True
    param_roles: ClassVar[Mapping[str, Role]] = {
        **ProductKeyFFN.param_roles,
        "values": Role(fan_in=None, group="table"),
    }

    def __init__(self, d_model: int, config: PKMConfig) -> None:
        super().__init__(config, d_model)
        self.values = table(config, d_model, config.value_init)

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def _tables(self) -> tuple[Tensor | None, Tensor | None, Tensor]:
        return None, None, self.values

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        indices, gates = self.route(x.flatten(0, -2))
        y = gather_sum(self.values, indices, gates, self.execution)
        return y.to(x.dtype).view_as(x)

    def expert_rows(self) -> dict[str, Tensor]:
        return {"values": self.values}
