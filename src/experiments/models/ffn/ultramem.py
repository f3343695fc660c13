"""UltraMem: a memory of values whose keys are scored through a small core (Huang 2024).

arXiv:2411.12364. Written from its equations, as our notes have them, and held to the authors' code
of it: UltraMemLayerV1 in olmo/ultramem_layer.py of ZihaoHuang-notabot/Ultra-Sparse-Memory-Network,
at 6da52aae. PKM's product keys add a score of a row and one of a column; here each row and column
has two scores, and a pair's is a bilinear form of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.budget.costs import Cost, Term
from experiments.config.constraints import AtLeast1, NotNegative
from experiments.config.effects import Drawn
from experiments.config.fields import added
from experiments.kernels.ops import Execution, Indices, gather_dot, gather_sum
from experiments.kernels.product_keys import scores_of_halves
from experiments.models.ffn._base import WidthFactor, check_choice, identity
from experiments.models.ffn._product_keys import (
    SCORES,
    ProductKeyConfig,
    ProductKeyFFN,
    router_terms,
    table,
    values_term,
)
from experiments.models.ffn._slots import Routed, Slots
from experiments.models.roles import MAP, Role
from experiments.models.tokens import Tokens

RANK = 2  # of the core, as in the paper
KEY_NORMS = ("none", "layer", "rms")
CORE_STARTS = ("diagonal", "uniform")
_EPS = 1e-5  # of the norms with weights, as the authors have it


@dataclass(frozen=True, kw_only=True)
class UltraMemConfig(ProductKeyConfig):
    """n_experts: rows of the table, a perfect square. top_k: at most its root.

    score: raw, the authors': a retrieved score is the gate, whatever its sign. Or relu, sigmoid or
        softmax of them; the first two are divided by top_k, so that gates, and so steps of rows,
        are about as large as with a softmax.
    key_norm: none | layer, of each sub-key: then it has a mean of 0 and a length of 1. rms, the
        authors': RMS norm of each sub-key, and of each half of a query, with weights for all
        sub-keys and for all halves that start at (d_key / 2)**-0.33; query_norm is none then.
    heads_per_query: heads that have one query together, the authors' 2; keys and cores stay a
        head's own, the keys with share_keys=false.
    core_start: diagonal, diag(1, core_margin), or uniform in 0 to 1, the authors'.
    value_factor: rows have round(value_factor * d_model) numbers, which a map turns into d_model of
        them once they are summed, the authors' 1/2; null: d_model numbers, and no map.
    core_margin, core_loss_rate: the loss of a head is rate * max(0, second singular value of its
        core - margin)**2, which keeps the search near the best pairs. The margin is the paper's.

    The defaults are ours, of before that code was read, and conf/model has the authors' choices.
    docs/layers.md says what of theirs is not here, line by line.
    """

    scores: ClassVar[Mapping[str, Callable[[Tensor], Tensor]]] = {**SCORES, "raw": identity}

    n_heads: AtLeast1 = 2
    top_k: AtLeast1 = 32
    query_norm: str = "layer"
    key_norm: str = "layer"
    score: str = "relu"
    core_margin: NotNegative = 0.15
    core_loss_rate: NotNegative = 0.1
    heads_per_query: AtLeast1 = added(1)
    core_start: str = added("diagonal", Drawn(), varies=True)
    value_factor: WidthFactor | None = added(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("key_norm", self.key_norm, KEY_NORMS)
        check_choice("core_start", self.core_start, CORE_STARTS)
        if self.n_heads % self.heads_per_query:
            raise ValueError(
                f"n_heads={self.n_heads} must be a multiple of heads_per_query="
                f"{self.heads_per_query}, the heads that share a query"
            )
        if self.key_norm == "rms" and self.query_norm != "none":
            raise ValueError(
                f"query_norm={self.query_norm!r} with key_norm=rms, which norms the halves of "
                "queries too; set query_norm=none"
            )
        if self.top_k > min(self.key_sets):
            raise ValueError(
                f"top_k={self.top_k} must be at most {min(self.key_sets)}, the sub-keys of a half "
                f"of n_experts={self.n_experts}; give a smaller one, or more experts"
            )
        if self.key_norm == "layer" and self.d_key < 4:
            raise ValueError(
                f"d_key={self.d_key} with key_norm=layer leaves sub-keys of one number, whose norm "
                "is 0; give 4 or more, or key_norm=none"
            )

    @property
    def n_queries(self) -> int:
        return self.n_heads // self.heads_per_query

    def d_value(self, d_model: int) -> int:
        """Numbers of a row at this width."""
        return d_model if self.value_factor is None else round(self.value_factor * d_model) or 1

    def cost(self, d_model: int) -> Cost:
        """Queries, two scores of each sub-key, the search, h * k rows a token, and their map."""
        query, norm, keys, _ = router_terms(self, d_model)
        h, k = self.n_heads, self.top_k
        # along the first singular vectors; the core times the columns at both ends; candidates;
        # the scores of kept pairs' keys once more, with gradients; the kept pairs
        search = 2 * RANK * (sum(self.key_sets) + 2 * RANK * k + 2 * n_pairs(k) + k * self.d_key)
        search += 12 * k
        width = self.d_value(d_model)
        values, n_map = replace(values_term(self, width), d_row=width), width * d_model
        widen = Term(name="widen", n_params=n_map, flops=2 * n_map, kept=width)
        if self.key_norm == "rms":
            norm = replace(norm, n_params=self.d_key)  # for halves of queries, and for sub-keys
        if self.heads_per_query > 1:
            norm = replace(norm, kept_wide=norm.kept_wide + h * self.d_key)  # as heads have them
        return Cost(
            (
                query,
                norm,
                replace(keys, n_params=RANK * keys.n_params, flops=RANK * keys.flops),
                Term(name="core", n_params=h * RANK**2),
                Term(
                    name="pairs",
                    flops=h * search,
                    seen_by_torch=False,
                    kept=0,
                    # scores, rows of keys, C c and its addends; a gate and a row of values
                    kept_wide=h * k * (2 * RANK + 4 * RANK + RANK + RANK**2 + 4),
                ),
                values,
                *(() if self.value_factor is None else (widen,)),
            )
        )

    def build(self, d_model: int) -> "UltraMem":
        """Layer at this width."""
        return UltraMem(d_model, self)


class UltraMem(ProductKeyFFN, Routed):
    """y = sum over heads and their k best pairs (i, j) of gate(s_ij) values_ij.

    s_ij = sum over a, b in 1, 2 of r_ai C_ab c_bj, r_ai = q1 . K_a,i and c_bj = q2 . L_b,j, for the
    halves q1 and q2 of a head's query. Tensors: query.weight as in ProductKeyFFN, of n_queries in
    place of n_heads; sub_keys (2, 2, S, d_key / 2), the rank first, then the half, or
    (2, S1 + S2, d_key / 2), each with heads before it where they have keys of their own; core
    (n_heads, 2, 2); values (n_experts, d_model), or (n_experts, d_value) and w_out.weight
    (d_model, d_value). With key_norm=rms half_norm.weight and sub_key_norm.weight, (d_key / 2,).

    A raw score may be negative: what is recorded of a value's use is |s|. output_weights() are the
    values, through which all goes that w_out writes: so new ones start at zero, and tables learn
    alone, as PKM's.

    The k best of all S1 S2 pairs aren't known without looking at all. C = s u v' + s2 u2 v2', and
    candidates are searched by the first part, (u . r_i)(v . c_j), a product of two numbers; then
    they are scored by all of C, and the k best are kept. The k best products are always among the
    candidates (`candidates`), so a missed pair is better than the k-th kept one by 2 s2
    max |u2 . r_i| max |v2 . c_j| at most; tests hold both. Unlike a search of the largest u . r_i
    and v . c_j alone it finds pairs of two negative numbers, and doesn't depend on the signs that
    a decomposition happens to give to u and v.
    """

    by_columns = True
    param_roles: ClassVar[Mapping[str, Role]] = {
        **ProductKeyFFN.param_roles,
        "core": Role(fan_in=-1, group="key"),
        "values": Role(fan_in=None, group="table"),
        "w_out.weight": MAP,
    }

    config: UltraMemConfig
    w_out: nn.Linear | None

    def __init__(self, d_model: int, config: UltraMemConfig) -> None:
        super().__init__(config, d_model)
        keys = self.sub_keys.detach()
        heads = keys.shape[: 0 if config.share_keys else 1]
        both = torch.empty(*heads, RANK, *keys.shape[len(heads) :])
        bound = (self.d_key / 2) ** -0.5
        self.sub_keys = nn.Parameter(nn.init.uniform_(both, -bound, bound))
        start = torch.tensor([[1.0, 0.0], [0.0, config.core_margin]])
        self.core = nn.Parameter(start.repeat(self.n_heads, 1, 1))
        if config.core_start == "uniform":
            nn.init.uniform_(self.core)
        if config.key_norm == "rms":
            self.half_norm, self.sub_key_norm = (
                nn.RMSNorm(self.d_key // 2, eps=_EPS) for _ in range(2)
            )
            for one in (self.half_norm, self.sub_key_norm):
                nn.init.constant_(one.weight, (self.d_key / 2) ** -0.33)
        width = config.d_value(d_model)
        self.w_out = None
        if config.value_factor is not None:
            self.w_out = nn.Linear(width, d_model, bias=False)
            nn.init.normal_(self.w_out.weight, std=width**-0.5)
        self.values = table(config, width, config.value_init)

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def auxiliary_loss(self) -> Tensor | None:
        """A loss of the cores as they are, whatever the text."""
        config = self.config
        if not (config.core_loss_rate and self.balances):
            return None
        excess = F.relu(second_singular(self.core) - config.core_margin)
        return config.core_loss_rate * excess.square().sum()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        tokens = x.flatten(0, -2)
        indices, gates = self.route(tokens)
        weights = self.slot_weights(tokens, indices, gates)
        y = gather_sum(self.values, indices, weights, self.execution).to(x.dtype)
        return (y if self.w_out is None else self.w_out(y)).view_as(x)

    def queries(self, x: Tensor) -> Tensor:
        queries = super().queries(x)
        if self.config.key_norm == "rms":
            with torch.autocast(x.device.type, enabled=False):
                queries = self.half_norm(queries.unflatten(-1, (2, -1))).flatten(-2)
        shared_by = self.config.heads_per_query
        return queries if shared_by == 1 else queries.repeat_interleave(shared_by, dim=1)

    def record_usage(self, indices: Tensor, gates: Tensor) -> None:
        super().record_usage(indices, gates.abs() if self.config.score == "raw" else gates)

    def slot_weights(self, x: Tensor, experts: Indices, gates: Tensor) -> Tensor:
        whole = self.config.shares_gates or self.config.score == "raw"
        return gates if whole else gates / self.top_k

    def slots(self, x: Tensor, tokens: Tokens | None = None) -> Slots:
        slots = super().slots(x, tokens)
        return replace(slots, gates=slots.gates.abs())

    def written(self, x: Tensor, slots: Slots) -> Tensor:
        rows = super().written(x, slots)
        return rows if self.w_out is None else self.w_out(rows.to(x.dtype))

    def expert_rows(self) -> dict[str, Tensor]:
        return {"values": self.values}

    def _retrieve(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(queries.dtype, torch.float32)
        halves, core = queries.to(wide).unflatten(-1, (2, -1)), self.core.to(wide)
        first, second = self._keys(wide)
        with torch.no_grad():
            row, column = candidates(*all_scores(halves, first, second), core, self.top_k)
        left = self._scores(halves[:, :, 0], first, row)
        right = self._scores(halves[:, :, 1], second, column)
        return pair_scores(left, right, core), row * second.shape[2] + column

    def _keys(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """K (G, 2, S1, d) and L (G, 2, S2, d), G being 1 where heads share them."""
        keys = self.sub_keys.to(dtype)
        if self.config.key_norm == "layer":
            width = keys.shape[-1]
            keys = F.layer_norm(keys, (width,)) * width**-0.5
        elif self.config.key_norm == "rms":
            keys = F.rms_norm(keys, keys.shape[-1:], self.sub_key_norm.weight.to(dtype), _EPS)
        keys = keys if self.config.n_first_keys else keys.flatten(-3, -2)  # (..., 2, S1 + S2, d)
        first, second = keys.split(self.config.key_sets, dim=-2)
        if self.config.share_keys:
            return first.unsqueeze(0), second.unsqueeze(0)
        return first, second

    def _scores(self, queries: Tensor, keys: Tensor, at: Tensor) -> Tensor:
        """(T, H, d), (G, 2, S, d), (T, H, n) to the (T, H, 2, n) scores of these keys. Rows of a
        table are read, so that a gradient is of them alone.
        """
        n_groups, _, size, _ = keys.shape
        group = torch.arange(n_groups, device=at.device).view(-1, 1, 1) * RANK * size
        rank = torch.arange(RANK, device=at.device).view(-1, 1) * size
        rows = (at.unsqueeze(2) + (group + rank)).flatten(0, 1).flatten(1)
        how = Execution(kernel=self.execution.kernel)
        found = gather_dot(queries.flatten(0, 1), keys.flatten(0, 2), rows, how)
        return found.view(*at.shape[:2], RANK, -1)


def all_scores(halves: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(T, H, 2, d), K and L to r (T, H, 2, S1) and c (T, H, 2, S2)."""
    keys = torch.cat([first.flatten(1, 2), second.flatten(1, 2)], dim=1)
    found = scores_of_halves(halves, keys, RANK * first.shape[2], None)
    rows, columns = (scores.unflatten(-1, (RANK, -1)) for scores in found)
    return rows, columns


def pair_scores(left: Tensor, right: Tensor, core: Tensor) -> Tensor:
    """r (T, H, 2, n) and c of the same shape, of n pairs, to their scores (T, H, n)."""
    return (left * _by_core(core, right)).sum(2)


def candidates(rows: Tensor, columns: Tensor, core: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """r (T, H, 2, S1), c (T, H, 2, S2), C (H, 2, 2) to the rows and columns of top_k pairs, the
    best first, both (T, H, top_k). top_k is at most S1 and S2.

    They are the best, by s_ij, of 2 n_pairs(top_k) pairs, among which are the top_k largest
    products a_i b_j of a_i = u . r_i and b_j = v . c_j:

    - Of pairs of two numbers not below 0 one can be among the k largest only if (p + 1)(q + 1) <= k
      for its ranks p and q from the largest a and b, since all pairs of no lower ranks are at least
      as large (as it is with PEER's sums, Eq. 5). Of two numbers below 0: ranks from the smallest.
    - Products of one of each are not above 0. If a has numbers of both kinds, or b has, S or more
      pairs are of one kind, and so k. Else all pairs are of both: then the smallest in size are
      searched, ranks being from the smallest of what is not below 0, from the largest of the other.
    """
    u, v = leading(core)
    a, b = ((x * w.unsqueeze(-1)).sum(2) for x, w in ((rows, u), (columns, v)))
    (high_a, near_a), (low_a, far_a) = a.topk(top_k), a.topk(top_k, largest=False)
    (high_b, near_b), (low_b, far_b) = b.topk(top_k), b.topk(top_k, largest=False)
    # where no pair is of one kind
    up = (low_a[..., :1] >= 0) & (high_b[..., :1] < 0)
    down = (high_a[..., :1] < 0) & (low_b[..., :1] >= 0)
    # (T, H, 2 k): the large ones, then the small ones
    row = torch.cat([torch.where(up, far_a, near_a), far_a], dim=-1)
    column = torch.cat([torch.where(down, far_b, near_b), far_b], dim=-1)
    left, right = _picked(rows, row), _by_core(core, _picked(columns, column))
    p, q = (torch.cat([x, x + top_k]) for x in ranks(top_k, rows.device))
    scores = (left.index_select(-1, p) * right.index_select(-1, q)).sum(2)
    below_a, below_b = (
        (x.gather(-1, at) < 0).index_select(-1, rank)
        for x, at, rank in ((a, row, p), (b, column, q))
    )
    large, small = (below_a | below_b).logical_not_(), below_a & below_b
    n = n_pairs(top_k)  # each pair in one half of the candidates
    mine = torch.cat([large[..., :n] | up | down, small[..., n:]], dim=-1)
    best = scores.masked_fill(~mine, -torch.inf).topk(top_k).indices
    return row.gather(-1, p[best]), column.gather(-1, q[best])


def n_pairs(top_k: int) -> int:
    """Ranks (p, q) with (p + 1)(q + 1) <= top_k."""
    return sum(top_k // p for p in range(1, top_k + 1))


def ranks(top_k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ranks p, q of those pairs. Made where they are used, so that nothing is copied to a GPU."""
    counts = top_k // torch.arange(1, top_k + 1, device=device)
    ends = counts.cumsum(0)
    place = torch.arange(n_pairs(top_k), device=device)
    p = torch.searchsorted(ends, place, right=True)
    return p, place - (ends - counts)[p]


def leading(core: Tensor) -> tuple[Tensor, Tensor]:
    """First singular vectors u and v of (H, 2, 2) matrices, both (H, 2), with one sign or the
    other. A matrix of 2 by 2 is a sum of two multiples of rotations, one of them mirrored, which
    say its decomposition (and a GPU is asked for nothing, as a library's would be).
    """
    (same, turn), (mirror, cross) = _parts(core)
    first, second = torch.atan2(cross, mirror), torch.atan2(turn, same)
    u, v = (second + first) / 2, (first - second) / 2
    return torch.stack([u.cos(), u.sin()], -1), torch.stack([v.cos(), v.sin()], -1)


def second_singular(core: Tensor) -> Tensor:
    """Smaller singular values of (H, 2, 2) matrices, (H,)."""
    tiny = 1e-20  # a root's slope at 0
    of_both = [torch.sqrt(x.square() + y.square() + tiny) for x, y in _parts(core)]
    return (of_both[0] - of_both[1]).abs()


def _parts(core: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Rotation's multiple [[e, -h], [h, e]] as e and h, and the mirror's [[f, g], [g, -f]]."""
    (a, b), (c, d) = (row.unbind(-1) for row in core.unbind(-2))
    return ((a + d) / 2, (c - b) / 2), ((a - d) / 2, (c + b) / 2)


def _by_core(core: Tensor, right: Tensor) -> Tensor:
    """(H, 2, 2) times (T, H, 2, n)."""
    return (core.unsqueeze(-1) * right.unsqueeze(2)).sum(3)


def _picked(scores: Tensor, at: Tensor) -> Tensor:
    """(T, H, 2, S) at (T, H, n) to (T, H, 2, n)."""
    return scores.gather(-1, at.unsqueeze(2).expand(-1, -1, RANK, -1))
