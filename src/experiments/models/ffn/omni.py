"""OmniMoE: a shared gated MLP, and one-neuron experts by a router over their rows and columns.

Shi 2026, arXiv:2602.05711, held to the authors' omni_moe/modules/omni_moe.py (HKUSTDial/omni-moe at
78f0c86c). The N = S * S experts are the cells of a grid. A score for each of its S rows and S
columns is a probability by a softmax over all of them, and a pair's gate is the product of its two,
so that the gates of all N experts add up to one. There are no queries: keys are as wide as the
model, 4 d S FLOPs a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from experiments.budget.costs import Cost, Mixing, Term
from experiments.config.constraints import AtLeast1, check_fields
from experiments.config.effects import Drawn
from experiments.config.fields import used
from experiments.kernels.ops import Indices, gather_dot, gather_sum
from experiments.models.batch_norm import BatchNorm
from experiments.models.ffn._base import ACTIVATIONS, FFN, WidthFactor, check_choice
from experiments.models.ffn._product_keys import KeyedConfig, table
from experiments.models.ffn._slots import Routed
from experiments.models.ffn.dense import DenseConfig
from experiments.models.roles import Role
from experiments.models.tokens import Tokens

ROUTER_NORMS = ("none", "batch", "batch_plain")


@dataclass(frozen=True, kw_only=True)
class OmniConfig:
    """n_experts: N, a perfect square. top_k: of them for a token; one head.

    shared_width_factor: the shared MLP has round(shared_width_factor * d_model) hidden units, and
        SwiGLU (Shazeer 2020, arXiv:2002.05202). Two make 3/4 of a dense layer's parameters.
    router_norm: none | batch | batch_plain, of a score over the tokens: batch norm mixes positions
        in training. batch_plain, the authors', has no weights; those of batch are trained.
    activation: of the experts. value_init, table_dtype: as PEER's.
    """

    n_experts: AtLeast1 = 1024**2
    top_k: AtLeast1 = 128
    shared_width_factor: WidthFactor = 2.0
    router_norm: str = "batch"
    activation: str = "silu"
    value_init: str = used(Drawn(), default="normal")
    table_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_fields(self)
        _ = self.keyed  # raises
        check_choice("router_norm", self.router_norm, ROUTER_NORMS)
        check_choice("activation", self.activation, ACTIVATIONS)

    @property
    def mixes(self) -> Mixing | None:
        """Batch norm in training is over the tokens of all processes."""
        return None if self.router_norm == "none" else "all_processes"

    @property
    def keyed(self) -> KeyedConfig:
        """Config of its tables and keys. Not a base class: one more key changes the gates of
        all experts, so that it can't grow as layers of product keys do.
        """
        return KeyedConfig(
            n_experts=self.n_experts,
            top_k=self.top_k,
            value_init=self.value_init,
            table_dtype=self.table_dtype,
        )

    @property
    def mlp(self) -> DenseConfig:
        """MLP that every token has."""
        return DenseConfig(width_factor=self.shared_width_factor, activation="silu", glu=True)

    def cost(self, d_model: int) -> Cost:
        """Shared MLP, 2 sqrt(N) scores, k**2 sums of them, and k experts of two rows."""
        (shared,) = self.mlp.cost(d_model).terms
        n_keys, k = sum(self.keyed.key_sets), self.top_k
        normed, weighted = self.router_norm != "none", self.router_norm == "batch"
        return Cost(
            (
                replace(shared, name="shared"),
                Term(
                    name="router",
                    n_params=n_keys * d_model,
                    flops=2 * n_keys * d_model,
                    kept=0,
                    kept_wide=d_model
                    + (3 if normed else 2) * n_keys,  # input; scores at each stage
                ),
                Term(name="router_norm", n_params=2 * n_keys if weighted else 0),
                Term(name="pairs", flops=k**2, seen_by_torch=False, kept=0, kept_wide=9 * k),
                Term(
                    name="experts",
                    n_params=2 * self.n_experts * d_model,
                    n_active_params=2 * k * d_model,
                    flops=4 * k * d_model,
                    seen_by_torch=False,
                    n_tables=2,
                    kept=0,
                    kept_wide=d_model + 2 * k,
                ),
            )
        )

    def build(self, d_model: int) -> "Omni":
        """Layer at this width."""
        return Omni(d_model, self)


class Omni(FFN, Routed):
    """y = shared(x) + sum over the k pairs (i, j) of the highest p_i q_j of
    p_i q_j act(w_down_ij . x) w_up_ij, where p and q are softmaxes over rows and columns.

    Tensors: router (2 S, d_model), the rows' keys first, uniform as sub-keys of PEER are; w_down,
    w_up (S * S, d_model).
    """

    by_columns = True
    param_roles: ClassVar[Mapping[str, Role]] = {
        "router": Role(fan_in=1, group="key"),
        "w_down": Role(fan_in=1, group="table"),
        "w_up": Role(fan_in=None, group="table"),
    }

    def __init__(self, d_model: int, config: OmniConfig) -> None:
        super().__init__()
        self.config, self.n_experts = config, config.n_experts
        self.activation = ACTIVATIONS[config.activation]
        self.side = config.keyed.key_sets[1]
        self.mlp = config.mlp.build(d_model)
        self.router = nn.Parameter(torch.empty(2 * self.side, d_model))
        bound = (3 / d_model) ** 0.5  # a variance of 1 / d_model
        nn.init.uniform_(self.router, -bound, bound)
        kind = config.router_norm
        self.router_norm = (
            nn.Identity() if kind == "none" else BatchNorm(2 * self.side, affine=kind == "batch")
        )
        self.w_down = table(config.keyed, d_model)
        self.w_up = table(config.keyed, d_model, config.value_init)

    def output_weights(self) -> tuple[Tensor, ...]:
        return (*self.mlp.output_weights(), self.w_up)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, d_model) to expert indices and gates, both (T, top_k), the highest first.

        In float32 or wider, whatever autocast says.
        """
        with torch.autocast(x.device.type, enabled=False):
            scores = self.router_norm(x.to(self.router.dtype) @ self.router.t())
            logs = scores.view(len(x), 2, self.side).log_softmax(dim=-1)
            best, near = logs.topk(min(self.config.top_k, self.side), dim=-1)  # (T, 2, K)
            pairs = (best[:, 0, :, None] + best[:, 1, None, :]).flatten(1)
            values, chosen = pairs.topk(self.config.top_k, dim=-1)
            row = near[:, 0].gather(1, chosen // best.shape[-1])
            column = near[:, 1].gather(1, chosen % best.shape[-1])
            indices, gates = row * self.side + column, values.exp()
        self.record_usage(indices, gates)
        return indices, gates

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        tokens = x.flatten(0, -2)
        indices, gates = self.route(tokens)
        experts = self.execution.retrieved(indices, self.w_down)
        weights = self.slot_weights(tokens, experts, gates)
        routed = gather_sum(self.w_up, experts, weights, self.execution)
        return self.mlp(x) + routed.to(x.dtype).view_as(x)

    def slot_weights(self, x: Tensor, experts: Indices, gates: Tensor) -> Tensor:
        return self.activation(gather_dot(x, self.w_down, experts, self.execution)) * gates

    def expert_rows(self) -> dict[str, Tensor]:
        return {"w_down": self.w_down, "w_up": self.w_up}

    def grid(self) -> tuple[int, int]:
        return self.side, self.side

    def beside(self, x: Tensor, tokens: Tokens | None = None) -> Tensor:
        return self.mlp(x)
