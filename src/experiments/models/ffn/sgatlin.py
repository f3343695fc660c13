"""Sparsely gated linear neurons: Schug 2026, "Sparsely gated tiny linear experts".

arXiv:2606.07414. Written from its equations, as our notes have them. PEER's one-neuron experts with
three changes: one narrow query for all, no softmax, and experts of its own for each of C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from experiments.budget.costs import Cost, Term
from experiments.config.constraints import AtLeast1
from experiments.kernels.ops import Indices, gather_dot, gather_sum
from experiments.models.ffn._base import ACTIVATIONS, check_choice
from experiments.models.ffn._product_keys import KeyedConfig, KeyedFFN, table
from experiments.models.ffn._slots import Slots, Slotted
from experiments.models.roles import Role
from experiments.models.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class SgatlinConfig(KeyedConfig):
    """Defaults are the paper's: C=16 channels, k=8, d_key=128, no activation.

    n_experts: of all channels together, C times a perfect square; the paper has (16 + 12 s)**2 a
        channel at scale s, and 1024**2 is s=20. d_key: width of the query that all channels share,
        and of each sub-key: here a sub-key is of the whole query, not of half of it.
    activation: of a hidden unit that its score has multiplied; identity is the paper's choice.

    Not known to us of the paper, chosen here: w_down N(0, d_model**-0.5), and w_up smaller by
    (C * k)**0.5, as so many rows are summed without gates that add up to 1; no biases.
    """

    top_k: AtLeast1 = 8
    n_channels: AtLeast1 = 16
    d_key: AtLeast1 = 128
    activation: str = "identity"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, ACTIVATIONS)

    @property
    def n_groups(self) -> int:
        return self.n_channels

    @property
    def n_retrieved(self) -> int:
        """Experts a token reads, all of them distinct: C * k."""
        return self.n_channels * self.top_k

    def cost(self, d_model: int) -> Cost:
        """Narrow query, C product searches of it, and C * k experts of two rows a token."""
        d_key, n_channels, n_retrieved = self.d_key, self.n_channels, self.n_retrieved
        n_keys = n_channels * sum(self.key_sets) * d_key
        # the query for each half of each channel; a score, and the indices of both sub-keys and of
        # the expert
        queries, per_pair = 2 * n_channels * d_key, 7 * n_retrieved
        # products with rows, and with scores, before and after the activation
        hidden = (2 if self.activation == "identity" else 3) * n_retrieved
        return Cost(
            (
                Term(
                    name="query",
                    n_params=d_model * d_key,
                    flops=2 * d_model * d_key,
                    kept=0,
                    kept_wide=queries,
                ),
                Term(name="keys", n_params=n_keys, flops=2 * n_keys, kept=0),
                Term(
                    name="pairs",
                    flops=n_retrieved * self.top_k,
                    seen_by_torch=False,
                    kept=0,
                    kept_wide=per_pair,
                ),
                Term(
                    name="experts",
                    n_params=2 * self.n_experts * d_model,
                    n_active_params=2 * n_retrieved * d_model,
                    flops=4 * n_retrieved * d_model,
                    seen_by_torch=False,
                    n_tables=2,
                    kept=0,
                    kept_wide=d_model + hidden,
                ),
            )
        )

    def build(self, d_model: int) -> "Sgatlin":
        """Layer at this width."""
        return Sgatlin(d_model, self)


class Sgatlin(KeyedFFN, Slotted):
    """y = sum over channels and their k best keys of act(s_i * (w_down_i . x)) w_up_i.

    s_i = A_c,a . z + B_c,b . z for z = W_d x, whose rows A_c and B_c are a channel's sub-keys.
    Tensors: query.weight (d_key, d_model), which is W_d; sub_keys (C, 2, S, d_key), or
    (C, S1 + S2, d_key) where a channel has S1 of A and S2 of B; w_down and w_up
    (n_experts, d_model). The expert of a channel's pair (a, b) is row (a * C + c) * S2 + b, so that
    rows of further sub-keys in A, of all channels, come after those that there were (init/growth).
    Sub-keys start uniform in +-d_key**-0.5.

    A score may be negative, and no gate is left out: what is recorded of an expert's use is |s|.
    """

    param_roles: ClassVar[Mapping[str, Role]] = {
        "query.weight": Role(fan_in=1, group="key"),
        "sub_keys": Role(fan_in=-1, group="key"),
        "w_down": Role(fan_in=1, group="table"),
        "w_up": Role(fan_in=None, group="table"),
    }

    config: SgatlinConfig

    def __init__(self, d_model: int, config: SgatlinConfig) -> None:
        super().__init__()
        self.config, self.n_experts = config, config.n_experts
        self.n_channels, self.top_k = config.n_channels, config.top_k
        self.activation = ACTIVATIONS[config.activation]
        (n_first, n_second), d_key = config.key_sets, config.d_key
        sets = (2, n_first) if config.n_first_keys is None else (n_first + n_second,)
        self.query = nn.Linear(d_model, d_key, bias=False)
        self.sub_keys = nn.Parameter(torch.empty(self.n_channels, *sets, d_key))
        nn.init.normal_(self.query.weight, std=d_model**-0.5)
        nn.init.uniform_(self.sub_keys, -(d_key**-0.5), d_key**-0.5)
        self.w_down = table(config, d_model)
        self.w_up = table(config, d_model, config.value_init, n_summed=config.n_retrieved)

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.w_up,)

    def why_not_fused(self) -> str | None:
        return f"{type(self).__name__}: channels share a query, and gates are inside activations"

    def queries(self, x: Tensor) -> Tensor:
        """x (T, d_model) to (T, C, 2 d_key): both halves of each channel's are the same z."""
        z: Tensor = self.query(x).to(self.sub_keys.dtype)
        return z.repeat(1, 2).unsqueeze(1).expand(-1, self.n_channels, -1)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, d_model) to experts and scores, both (T, C * top_k), channels outermost.

        Scores are computed in float32 or wider, whatever autocast says.
        """
        queries = self.queries(x)
        with torch.autocast(x.device.type, enabled=False):
            scores, indices = self._retrieve(queries)
        indices, scores = indices.flatten(1), scores.flatten(1)
        self.record_usage(indices, scores.abs())
        return indices, scores

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        tokens = x.flatten(0, -2)
        indices, scores = self.route(tokens)
        experts = self.execution.retrieved(indices, self.w_down)
        hidden = self._hidden(tokens, experts, scores)
        return gather_sum(self.w_up, experts, hidden, self.execution).to(x.dtype).view_as(x)

    def _hidden(self, tokens: Tensor, experts: Indices, scores: Tensor) -> Tensor:
        return self.activation(scores * gather_dot(tokens, self.w_down, experts, self.execution))

    def slots(self, x: Tensor, tokens: Tokens | None = None) -> Slots:
        experts, scores = self.route(x)
        weights = self._hidden(x, experts, scores)
        return Slots(experts=experts, gates=scores.abs(), weights=weights)

    def expert_rows(self) -> dict[str, Tensor]:
        return {"w_down": self.w_down, "w_up": self.w_up}
