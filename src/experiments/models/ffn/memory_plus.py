"""Product-key memory with a gate of its input: Memory+ (Berges 2024, arXiv:2412.09764)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from experiments.budget.costs import Cost
from experiments.config.constraints import AtLeast1
from experiments.config.effects import InSeveralBlocks
from experiments.config.fields import used
from experiments.kernels.ops import gather_sum
from experiments.models.ffn._output_gate import gate_maps, gate_terms, gated
from experiments.models.ffn._product_keys import (
    ProductKeyConfig,
    ProductKeyFFN,
    router_terms,
    table,
    values_term,
)
from experiments.models.ffn._slots import Routed, Slots
from experiments.models.roles import MAP, Role


@dataclass(frozen=True, kw_only=True)
class MemoryPlusConfig(ProductKeyConfig):
    """Four heads of 32 values are the paper's. Keys, their widths and norm are as PKM has them.

    share_values: all layers of this config in a model have one table of values, as the three of
        the paper; keys and maps are each one's own.
    """

    n_heads: AtLeast1 = 4
    top_k: AtLeast1 = 32
    share_values: bool = used(InSeveralBlocks(), idle=False, default=False)

    @property
    def shared_by_blocks(self) -> str | None:
        return "share_values" if self.share_values else None

    def cost(self, d_model: int) -> Cost:
        """Routing, h * k value rows a token, and two maps of d_model to itself."""
        shared = self if self.share_values else None
        values = replace(values_term(self, d_model), shared=shared, kept=d_model)  # their sum
        return Cost((*router_terms(self, d_model), values, *gate_terms(d_model)))

    def build(self, d_model: int) -> "MemoryPlus":
        """Layer at this width."""
        return MemoryPlus(d_model, self)


class MemoryPlus(ProductKeyFFN, Routed):
    """y = w_out (m * silu(w_gate x)), m = sum over heads and their k best keys of gate_i values_i.

    Tensors, beside the router's: values (n_experts, d_model), w_gate.weight and w_out.weight, each
    (d_model, d_model).

    output_weights() are the values, through which all goes that w_out writes: so new values start
    at zero, and tables learn alone, as PKM's.
    """

    by_columns = True
    param_roles: ClassVar[Mapping[str, Role]] = {
        **ProductKeyFFN.param_roles,
        "values": Role(fan_in=None, group="table"),
        "w_gate.weight": MAP,
        "w_out.weight": MAP,
    }

    config: MemoryPlusConfig

    def __init__(self, d_model: int, config: MemoryPlusConfig) -> None:
        super().__init__(config, d_model)
        self.w_gate, self.w_out = gate_maps(d_model)
        self.values = table(config, d_model, config.value_init)

    def shared(self) -> tuple[str, ...]:
        return ("values",) if self.config.share_values else ()

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        tokens = x.flatten(0, -2)
        indices, gates = self.route(tokens)
        read = gather_sum(self.values, indices, gates, self.execution)
        return gated(read, tokens, self.w_gate, self.w_out).view_as(x)

    def expert_rows(self) -> dict[str, Tensor]:
        return {"values": self.values}

    def written(self, x: Tensor, slots: Slots) -> Tensor:
        return gated(super().written(x, slots), x.unsqueeze(1), self.w_gate, self.w_out)
