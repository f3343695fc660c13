"""Parameter-efficient expert retrieval: He 2024, "Mixture of A Million Experts", Alg. 1.

arXiv:2407.04153. An expert is one neuron, e_i(x) = act(w_down_i . x) w_up_i (Eq. 6); every
head retrieves k of N by product keys, and heads share the experts and the sub-keys (Eq. 7).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from torch import Tensor, nn

from experiments.budget.costs import Cost, Term
from experiments.config.constraints import AtLeast1, Within
from experiments.config.effects import Above, InSeveralBlocks
from experiments.config.fields import added
from experiments.kernels.ops import Indices, gather_dot, gather_sum
from experiments.models.ffn._base import ACTIVATIONS, check_choice
from experiments.models.ffn._output_gate import OutputGate, gate_terms
from experiments.models.ffn._product_keys import (
    ProductKeyConfig,
    ProductKeyFFN,
    router_terms,
    table,
)
from experiments.models.ffn._slots import Routed, Slots
from experiments.models.ffn.dense import DenseConfig
from experiments.models.roles import Role
from experiments.models.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class PEERConfig(ProductKeyConfig):
    """Defaults are the paper's (§3.1): N=1024**2, h=8, k=16, query batch-norm, shared keys.

    Not stated there, chosen here: GELU, d_key=256, no biases, tables N(0, d_model**-0.5).
    glu: gated experts act(w_gate_i . x)(w_down_i . x) w_up_i, named in §2 as an easy extension.

    Options that layers have which are said to be better, off by default:

    d_query_rank: the map to the queries of all heads is two factors of this rank. sgatlin
        (arXiv:2606.07414) has one narrow query for all channels, and no second factor.
    share_experts: false: each head has n_experts / n_heads experts of its own, as sgatlin's
        channels have. Sub-keys are still those that share_keys says.
    output_gate: a gate of the input on what the experts sum up to, and a map (Memory+,
        arXiv:2412.09764).
    shared_width_factor: an MLP of so many times d_model hidden units for every token, beside the
        retrieved experts, as OmniMoE has one (arXiv:2602.05711); `activation` and `glu` are its
        too. 0: none.
    blocks_share_keys: all layers of this config in a model have one set of sub-keys; queries,
        their norm and experts are each one's own.
    """

    activation: str = "gelu"
    glu: bool = False
    d_query_rank: AtLeast1 | None = added(None)
    share_experts: bool = added(True, Above("n_heads", 1))
    output_gate: bool = added(False)
    shared_width_factor: Annotated[float, Within(0, 1e4)] = added(0.0)
    blocks_share_keys: bool = added(False, InSeveralBlocks())

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, ACTIVATIONS)
        n_features = self.n_heads * self.d_key
        if self.d_query_rank is not None and self.d_query_rank >= n_features:
            raise ValueError(
                f"d_query_rank={self.d_query_rank} must be below n_heads * d_key = {n_features}, "
                "where two factors are no narrower than one matrix; leave it out (null)"
            )

    @property
    def n_groups(self) -> int:
        return 1 if self.share_experts else self.n_heads

    @property
    def query_rank(self) -> int | None:
        return self.d_query_rank

    @property
    def shared_by_blocks(self) -> str | None:
        return "blocks_share_keys" if self.blocks_share_keys else None

    @property
    def mlp(self) -> DenseConfig | None:
        """MLP that every token has."""
        if not self.shared_width_factor:
            return None
        width = self.shared_width_factor
        return DenseConfig(width_factor=width, activation=self.activation, glu=self.glu)

    def cost(self, d_model: int) -> Cost:
        """Routing, and h * k experts of two (with glu three) rows a token; a gate and an MLP."""
        rows = 3 if self.glu else 2
        experts = Term(
            name="experts",
            n_params=rows * self.n_experts * d_model,
            n_active_params=rows * min(self.n_retrieved, self.n_experts) * d_model,
            flops=2 * rows * self.n_retrieved * d_model,
            seen_by_torch=False,
            n_tables=rows,
            kept=d_model if self.output_gate else 0,  # their sum
            # its input; products with rows, before and after activations
            kept_wide=d_model + (2 * rows - 2) * self.n_retrieved,
        )
        keys = self if self.blocks_share_keys else None
        router = (
            replace(term, shared=keys) if term.name == "keys" else term
            for term in router_terms(self, d_model)
        )
        gate = gate_terms(d_model) if self.output_gate else ()
        mlp = () if self.mlp is None else self.mlp.cost(d_model).terms
        shared = (replace(term, name="shared") for term in mlp)
        return Cost((*router, experts, *gate, *shared))

    def build(self, d_model: int) -> "PEER":
        """Layer at this width."""
        return PEER(d_model, self)


class PEER(ProductKeyFFN, Routed):
    """y = sum over heads and their k best keys of gate_i act(w_down_i . x) w_up_i.

    With output_gate y = w_out (that sum * silu(w_gate x)); with shared_width_factor an MLP of x is
    added.

    Tensors, beside the router's: w_down, w_up and with glu w_gate, each (n_experts, d_model); those
    of `output` (OutputGate) and `mlp` (Dense) where there are such. Where each of H heads has
    experts of its own, the expert of head h's pair (i, j) is row (i * H + h) * S2 + j.

    output_weights() are the rows w_up, through which all goes that an output gate writes, and the
    MLP's w_out.
    """

    by_columns = True
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
        self.output = OutputGate(d_model) if config.output_gate else None
        self.mlp = None if config.mlp is None else config.mlp.build(d_model)

    def shared(self) -> tuple[str, ...]:
        return ("sub_keys",) if self.config.blocks_share_keys else ()

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.w_up,) if self.mlp is None else (self.w_up, *self.mlp.output_weights())

    def _tables(self) -> tuple[Tensor | None, Tensor | None, Tensor]:
        return self.w_down, self.w_gate, self.w_up

    def why_not_fused(self) -> str | None:
        if self.output is not None:
            return "a map of what experts sum up to (output_gate) has no fused form"
        return super().why_not_fused()

    def fused_half(self, x: Tensor, norm: nn.RMSNorm, times: float) -> Tensor:
        """Retrieved experts; an MLP beside them as it is written."""
        y = super().fused_half(x, norm, times)
        return y if self.mlp is None else y + times * self.mlp(norm(x))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        tokens = x.flatten(0, -2)
        indices, gates = self.route(tokens)
        experts = self.execution.retrieved(indices, self.w_down)
        weights = self.slot_weights(tokens, experts, gates)
        summed = gather_sum(self.w_up, experts, weights, self.execution).to(x.dtype)
        y = (summed if self.output is None else self.output(summed, tokens)).view_as(x)
        return y if self.mlp is None else y + self.mlp(x)

    def slot_weights(self, x: Tensor, experts: Indices, gates: Tensor) -> Tensor:
        how = self.execution
        hidden = gather_dot(x, self.w_down, experts, how)
        if self.w_gate is None:
            return self.activation(hidden) * gates
        return self.activation(gather_dot(x, self.w_gate, experts, how)) * hidden * gates

    def expert_rows(self) -> dict[str, Tensor]:
        gate = {} if self.w_gate is None else {"w_gate": self.w_gate}
        return {"w_down": self.w_down, **gate, "w_up": self.w_up}

    def written(self, x: Tensor, slots: Slots) -> Tensor:
        rows = super().written(x, slots)
        return rows if self.output is None else self.output(rows, x.unsqueeze(1))

    def beside(self, x: Tensor, tokens: Tokens | None = None) -> Tensor | None:
        return None if self.mlp is None else self.mlp(x)
