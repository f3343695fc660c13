"""Mixture of experts with matrices for experts: expert-choice or token-choice routing.

Shape suffixes: T tokens, E experts, C tokens an expert takes, K experts a token takes, D width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.budget.costs import Cost, Mixing, Term
from experiments.config.constraints import (
    AtLeast0,
    AtLeast1,
    NotNegative,
    Positive,
    Within,
    check_fields,
)
from experiments.config.effects import Is
from experiments.config.fields import added, used
from experiments.kernels.autocast import in_autocast
from experiments.kernels.grouped import grouped_matmul
from experiments.kernels.mixture import Experts, Routing, mixture_half, why_not_mixture
from experiments.kernels.ops import Execution, gather_sum
from experiments.kernels.trunk import mlp_half
from experiments.models.ffn._base import ACTIVATIONS, FFN, WidthFactor, check_choice
from experiments.models.ffn._slots import Slots, Slotted
from experiments.models.roles import MAP, Role
from experiments.models.tokens import Tokens

ROUTINGS = ("expert_choice", "token_choice")
BALANCES = ("none", "loss", "bias")
GATES = ("softmax", "sigmoid")


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Defaults are the paper's baseline (He 2024, §3.1): 128 experts, expert-choice, each expert
    the size of the layer it replaces. The capacity factor is not stated there; 1 makes a token's
    mean compute that of the dense layer, 2 is Zhou 2022's (arXiv:2202.09368).

    routing: expert_choice: each expert takes the capacity_factor * T / n_experts tokens that
        score highest for it. It compares a token with later ones, so it is not causal, and its
        output depends on the rest of the batch. token_choice: each token takes its top_k.
    gate: softmax over the experts, or sigmoid.
    granularity: an expert has width_factor * d_model / granularity hidden units
        (Krajewski 2024, arXiv:2402.07871).
    n_shared_experts: experts of that size that every token uses (arXiv:2401.06066).
    balance, of token choice: none; loss: balance_rate times Fedus 2021's auxiliary loss
        (arXiv:2101.03961, Eq. 4), over the tokens of one forward pass: those of one process
        and one micro-batch; bias: a bias on the choice alone, moved by balance_rate against
        the load of the whole step, all processes' (Wang 2024, arXiv:2408.15664).
    glu: gated experts, (act(x W_gate) * x W_in) W_out, routed and shared ones alike.
    """

    n_experts: AtLeast1 = 128
    routing: str = "expert_choice"
    capacity_factor: Positive = used(Is("routing", "expert_choice"), idle=1.0, default=1.0)
    top_k: AtLeast1 = 1
    gate: str = "softmax"
    granularity: Annotated[float, Within(1e-3, 1e6)] = 1.0
    n_shared_experts: AtLeast0 = 0
    balance: str = "none"
    balance_rate: NotNegative = 0.0
    width_factor: WidthFactor = 4.0
    activation: str = "gelu"
    glu: bool = added(False)

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("routing", self.routing, ROUTINGS)
        check_choice("gate", self.gate, GATES)
        check_choice("balance", self.balance, BALANCES)
        check_choice("activation", self.activation, ACTIVATIONS)
        if self.top_k > self.n_experts:
            raise ValueError(f"top_k={self.top_k} must be at most n_experts={self.n_experts}")
        if self.capacity_factor > self.n_experts:
            raise ValueError(
                f"capacity_factor={self.capacity_factor} must be at most "
                f"n_experts={self.n_experts}: an expert can take every token once"
            )
        if self.routing == "expert_choice" and (self.balance != "none" or self.top_k != 1):
            raise ValueError(
                "routing=expert_choice is balanced by construction: balance and top_k are "
                "token_choice's; leave them at none and 1, and set capacity_factor instead"
            )
        if (self.balance == "none") != (self.balance_rate == 0):
            raise ValueError(
                f"balance={self.balance} with balance_rate={self.balance_rate}: "
                "give a rate above 0 to loss (1e-2) or bias (1e-3), and 0 to none"
            )

    @property
    def mixes(self) -> Mixing | None:
        """Expert choice compares a forward pass's tokens; the balance loss is over them."""
        mixing = self.routing == "expert_choice" or self.balance == "loss"
        return "process" if mixing else None

    @property
    def experts_per_token(self) -> float:
        """Routed experts a token uses on average."""
        return self.capacity_factor if self.routing == "expert_choice" else self.top_k

    def d_ff(self, d_model: int) -> int:
        """Hidden units of one expert."""
        return max(1, round(self.width_factor * d_model / self.granularity))

    def capacity(self, n_tokens: int) -> int:
        """Tokens an expert takes of a forward pass of n_tokens, rounded up; expert choice only."""
        return math.ceil(n_tokens * self.capacity_factor / self.n_experts)

    def check_batch(self, n_tokens: int) -> None:
        """Raises ValueError if a forward pass's n_tokens can't be shared out as the cost says."""
        exact = n_tokens * self.capacity_factor / self.n_experts
        if self.routing == "expert_choice" and self.capacity(n_tokens) > 1.01 * exact:
            raise ValueError(
                f"expert choice would give each of n_experts={self.n_experts} "
                f"{exact:g} of the {n_tokens} tokens of a forward pass, which is not a whole "
                "number of at least 1: its FLOPs would be off by more than 1 %; use fewer experts, "
                "or a larger ladder.batch_size or trainer.micro_batch_size"
            )

    def cost(self, d_model: int) -> Cost:
        """Router, experts, and the weighted sum of their outputs (2 d_model for each).

        A token's share of expert choice is capacity_factor on average.
        """
        d_ff = self.d_ff(d_model)
        one = (3 if self.glu else 2) * d_model * d_ff
        hidden = (4 if self.glu else 2) * d_ff  # before and after activations, and the product
        # inputs and outputs of an expert; of expert choice the weighted outputs too
        n_rows = 3 if self.routing == "expert_choice" else 2
        routed = Term(
            name="experts",
            n_params=self.n_experts * one,
            n_active_params=round(self.experts_per_token * one),
            flops=2 * self.experts_per_token * one,
            seen_by_torch=self.routing == "expert_choice",  # a batched product; not grouped_mm
            kept=self.experts_per_token * (hidden + n_rows * d_model),
        )
        shared = self.n_shared_experts * one
        return Cost(
            (
                Term(
                    name="router",
                    n_params=d_model * self.n_experts,
                    flops=2 * d_model * self.n_experts,
                    kept=0,
                    kept_wide=2 * self.n_experts,  # logits and gates
                ),
                routed,
                Term(
                    name="combine",
                    flops=2 * self.experts_per_token * d_model,
                    seen_by_torch=False,  # a gather or an index_add
                    kept=0,
                ),
                Term(
                    name="shared_experts",
                    n_params=shared,
                    flops=2 * shared,
                    kept=self.n_shared_experts * hidden,
                ),
            )
        )

    def build(self, d_model: int) -> "MoE":
        """Layer at this width."""
        return MoE(d_model, self)


class MoE(FFN, Slotted):
    """y = sum over a token's experts of gate_e W_out_e act(W_in_e x), plus the shared experts.

    Tensors: router.weight (E, D); w_in and with glu w_gate (E, D, d_ff); w_out (E, d_ff, D);
    shared_in, with glu shared_gate (D, n_shared * d_ff), shared_out back, or None;
    selection_bias (E,), a buffer.
    """

    selection_bias: Tensor
    load: Tensor

    param_roles: ClassVar[Mapping[str, Role]] = {
        "router.weight": MAP,
        "w_in": MAP,
        "w_gate": MAP,
        "w_out": MAP,
        "shared_in.weight": MAP,
        "shared_gate.weight": MAP,
        "shared_out.weight": MAP,
    }

    def __init__(self, d_model: int, config: MoEConfig) -> None:
        super().__init__()
        n, d_ff = config.n_experts, config.d_ff(d_model)
        self.config = config
        self.n_experts = n
        self.causal = config.routing == "token_choice"
        self.activation = ACTIVATIONS[config.activation]
        self.router = nn.Linear(d_model, n, bias=False)
        self.w_in = nn.Parameter(torch.randn(n, d_model, d_ff) * d_model**-0.5)
        self.w_out = nn.Parameter(torch.randn(n, d_ff, d_model) * d_ff**-0.5)
        nn.init.normal_(self.router.weight, std=d_model**-0.5)
        self.w_gate = None
        if config.glu:
            self.w_gate = nn.Parameter(torch.randn(n, d_model, d_ff) * d_model**-0.5)
        self.shared_in = self.shared_gate = self.shared_out = None
        if config.n_shared_experts:
            d_shared = config.n_shared_experts * d_ff
            self.shared_in = nn.Linear(d_model, d_shared, bias=False)
            self.shared_out = nn.Linear(d_shared, d_model, bias=False)
            nn.init.normal_(self.shared_in.weight, std=d_model**-0.5)
            nn.init.normal_(self.shared_out.weight, std=d_ff**-0.5)
            if config.glu:
                self.shared_gate = nn.Linear(d_model, d_shared, bias=False)
                nn.init.normal_(self.shared_gate.weight, std=d_model**-0.5)
        self.register_buffer("selection_bias", torch.zeros(n))
        self.register_buffer("load", torch.zeros(n), persistent=False)
        self._auxiliary: Tensor | None = None

    def output_weights(self) -> tuple[Tensor, ...]:
        shared = () if self.shared_out is None else (self.shared_out.weight,)
        return (self.w_out, *shared)

    def auxiliary_loss(self) -> Tensor | None:
        return self._auxiliary

    def after_step(self) -> None:
        """Moves the selection bias against the load since the last step (balance=bias)."""
        if self.config.balance == "bias":
            if torch.distributed.is_initialized():  # each rank has routed its own tokens
                torch.distributed.all_reduce(self.load)
            error = self.load.mean() - self.load
            self.selection_bias += self.config.balance_rate * error.sign()
            self.load.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        tokens = x.flatten(0, -2)
        route = (
            self._expert_choice if self.config.routing == "expert_choice" else self._token_choice
        )
        y = route(tokens, self._gates(tokens))
        shared = self.beside(tokens)
        if shared is not None:
            y = y + shared
        return y.to(x.dtype).view_as(x)

    def _gates(self, tokens: Tensor) -> Tensor:
        """Gates of all experts, in float32 or wider, whatever autocast says."""
        with torch.autocast(tokens.device.type, enabled=False):
            wide = torch.promote_types(self.router.weight.dtype, torch.float32)
            logits_TE = F.linear(tokens.to(wide), self.router.weight.to(wide))
            by_gate = {"softmax": lambda: logits_TE.softmax(-1), "sigmoid": logits_TE.sigmoid}
            return by_gate[self.config.gate]()

    def beside(self, x: Tensor, tokens: Tokens | None = None) -> Tensor | None:
        """Shared experts."""
        if self.shared_in is None or self.shared_out is None:
            return None
        gate = None if self.shared_gate is None else self.shared_gate(x)
        return self.shared_out(self._hidden(self.shared_in(x), gate))

    def why_no_slots(self) -> str | None:
        if self.config.routing == "token_choice":
            return None
        return "experts choose tokens, so that a token has none or several, by what others are"

    def slots(self, x: Tensor, tokens: Tokens | None = None) -> Slots:
        index_TK, gates_TK = self._chosen(self._gates(x))
        self.record_usage(index_TK, gates_TK)
        return Slots(experts=index_TK, gates=gates_TK, weights=gates_TK)

    def expert_rows(self) -> dict[str, Tensor]:
        gate = {} if self.w_gate is None else {"w_gate": self.w_gate}
        return {"w_in": self.w_in, **gate, "w_out": self.w_out}

    def written(self, x: Tensor, slots: Slots) -> Tensor:
        out_TKD = x.new_empty(*slots.experts.shape, x.shape[1])
        for expert in slots.experts.unique().tolist():
            token, slot = (slots.experts == expert).nonzero(as_tuple=True)
            taken = x[token]
            gate = None if self.w_gate is None else taken @ self.w_gate[expert]
            hidden = self._hidden(taken @ self.w_in[expert], gate)
            out_TKD[token, slot] = hidden @ self.w_out[expert]
        return slots.weights.unsqueeze(-1) * out_TKD

    def why_not_fused(self) -> str | None:
        if type(self) is not MoE:  # a subclass may compute something else
            return super().why_not_fused()
        linears = (self.router, self.shared_in, self.shared_gate, self.shared_out)
        tensors = (self.w_in, self.w_gate, self.w_out, self.selection_bias)
        return why_not_mixture(linears, tensors, self.config.activation)

    def fused_half(self, x: Tensor, norm: nn.RMSNorm, times: float) -> Tensor:
        """Shared experts as an MLP's half, to which the routed ones' outputs are added."""
        config, base = self.config, None
        if self.shared_in is not None and self.shared_out is not None:
            gate = None if self.shared_gate is None else self.shared_gate.weight
            shared = (self.shared_in.weight, gate, self.shared_out.weight)
            base = mlp_half(x, norm, shared, config.activation, times)
        chosen_by_experts = config.routing == "expert_choice"
        n_tokens = x.shape[:-1].numel()
        routing = Routing(
            experts_choose=chosen_by_experts,
            softmax=config.gate == "softmax",
            n_chosen=config.capacity(n_tokens) if chosen_by_experts else config.top_k,
            bias=self.selection_bias,
        )
        experts = Experts(self.router.weight, self.w_in, self.w_gate, self.w_out)
        mixed = mixture_half(x, norm, experts, routing, config.activation, times, base)
        if chosen_by_experts:
            expert_E1 = torch.arange(self.n_experts).unsqueeze(1)
            self.record_usage(expert_E1.expand_as(mixed.choices), mixed.chosen)
        else:
            self.record_usage(mixed.choices, mixed.chosen)
            if self.training and self.balances:
                self._balance(mixed.ends.diff(prepend=mixed.ends.new_zeros(1)), mixed.gates)
        return mixed.y

    def _hidden(self, inner: Tensor, gate: Tensor | None) -> Tensor:
        """Activated hidden units."""
        return self.activation(inner) if gate is None else self.activation(gate) * inner

    def _expert_choice(self, tokens: Tensor, gates_TE: Tensor) -> Tensor:
        """Zhou 2022, §3.2: each expert its best C tokens; a token may end with none or several."""
        capacity = self.config.capacity(len(tokens))
        gates_EC, index_EC = gates_TE.t().topk(capacity, dim=-1)
        expert_E1 = torch.arange(self.n_experts, device=tokens.device).unsqueeze(1)
        self.record_usage(expert_E1.expand_as(index_EC), gates_EC)
        # F.embedding, since its backward is a dense sum where that of tokens[index] is not
        taken_ECD = F.embedding(index_EC, tokens)
        inner = torch.bmm(taken_ECD, self.w_in.to(taken_ECD.dtype))
        gate = None
        if self.w_gate is not None:
            gate = torch.bmm(taken_ECD, self.w_gate.to(taken_ECD.dtype))
        hidden = self._hidden(inner, gate)
        out_ECD = torch.bmm(hidden, self.w_out.to(hidden.dtype))
        out_ECD = out_ECD * gates_EC.unsqueeze(-1)  # of the gates' type, and so are their sums
        y = out_ECD.new_zeros(tokens.shape)
        return y.index_add(0, index_EC.flatten(), out_ECD.flatten(0, 1))

    def _token_choice(self, tokens: Tensor, gates_TE: Tensor) -> Tensor:
        """Each token its top_k experts; with top_k > 1 the gates are made to sum to 1."""
        k = self.config.top_k
        index_TK, gates_TK = self._chosen(gates_TE)
        self.record_usage(index_TK, gates_TK)
        flat = index_TK.flatten()
        by_expert, order = torch.sort(flat, stable=True)
        experts_E = torch.arange(self.n_experts, device=flat.device)
        ends_E = torch.searchsorted(by_expert, experts_E, right=True)
        if self.training and self.balances:
            # not bincount, whose result's shape is unknown to a compiler
            self._balance(ends_E.diff(prepend=ends_E.new_zeros(1)), gates_TE)
        taken = in_autocast(
            F.embedding(order // k, tokens)
        )  # once for both products of gated experts
        kernel = self.execution.kernel
        inner = grouped_matmul(taken, self.w_in.to(taken.dtype), ends_E, kernel)
        gate = None
        if self.w_gate is not None:
            gate = grouped_matmul(taken, self.w_gate.to(taken.dtype), ends_E, kernel)
        hidden = self._hidden(inner, gate)
        out = grouped_matmul(hidden, self.w_out.to(hidden.dtype), ends_E, kernel)
        places = torch.arange(len(order), device=order.device)
        back = torch.empty_like(order).scatter_(0, order, places)
        # the weighted rows of a table: (T, K, D) is not held
        return gather_sum(out, back.view(-1, k), gates_TK, Execution(kernel=kernel))

    def _chosen(self, gates_TE: Tensor) -> tuple[Tensor, Tensor]:
        """Each token's experts and their gates, (T, K)."""
        k = self.config.top_k
        index_TK = (gates_TE.detach() + self.selection_bias).topk(k, dim=-1).indices
        gates_TK = gates_TE.gather(-1, index_TK)
        return index_TK, gates_TK / gates_TK.sum(-1, keepdim=True) if k > 1 else gates_TK

    def _balance(self, counts_E: Tensor, gates_TE: Tensor) -> None:
        """Counts the load, and sets Fedus 2021's Eq. 4: n_experts * sum_e share_e P_e.

        P_e is the mean of the gates divided by their sum over the experts, as in DeepSeek-V3
        (arXiv:2412.19437, Eq. 19-20; softmax's sum is 1 already). Sigmoid gates as they are could
        lower the loss by shrinking together, whatever the load.
        """
        self.load += counts_E
        if self.config.balance == "loss":
            share_E = counts_E / counts_E.sum()
            tiny = torch.finfo(gates_TE.dtype).tiny  # should all gates of a token vanish
            probability_E = F.normalize(gates_TE, p=1.0, dim=-1, eps=tiny).mean(0)
            loss = self.n_experts * (share_E * probability_E).sum()
            self._auxiliary = self.config.balance_rate * loss
