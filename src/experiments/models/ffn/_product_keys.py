"""Base of all layers of product keys, and that of PKM and PEER: queries, norm, gates, costs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from experiments.budget.costs import Mixing, Term
from experiments.config.constraints import AtLeast1, check_fields
from experiments.config.effects import Above, Drawn
from experiments.config.fields import added, used
from experiments.kernels.ops import product_key_topk
from experiments.kernels.product_key_layer import product_key_half, why_not_product_keys
from experiments.kernels.product_keys import QUERY_NORMS, ProductKeyParts
from experiments.models.batch_norm import BatchNorm
from experiments.models.ffn._base import FFN, check_choice
from experiments.models.ffn._low_rank import LowRank
from experiments.models.ffn._rows import check_rows, new_rows
from experiments.models.roles import Role


def softmax(scores: Tensor) -> Tensor:
    """Over the k retrieved, per head (Alg. 1)."""
    return scores.softmax(dim=-1)


# by name, so that a layer can be pickled
SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": softmax,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}


@dataclass(frozen=True, kw_only=True)
class KeyedConfig:
    """Fields of every layer whose experts are found by product keys.

    n_experts: size of the table, S1 * S2 for S1 and S2 sub-keys of the two halves of a key, times
        n_groups. n_first_keys: S1; null: as many as S2, a perfect square of keys. A layer that has
        grown has more (init/growth). top_k: experts retrieved by each head.
    value_init: the rows that write to the residual stream start normal (std d_model**-0.5) or
        zero. At small scale zero is a little better (docs/small-scale.md).
    table_dtype: float32 | bfloat16, of the tables' rows. Sums over rows are float32 in either case.
    """

    n_experts: AtLeast1 = 1024**2
    top_k: AtLeast1 = 16
    value_init: str = used(Drawn(), default="normal")
    table_dtype: str = "float32"
    n_first_keys: AtLeast1 | None = added(None)

    def __post_init__(self) -> None:
        check_fields(self)
        n, groups, first = self.n_experts, self.n_groups, self.n_first_keys
        root = math.isqrt(n // groups)
        if first is None and groups * root**2 != n:
            nearest = f"{groups * root**2}, {groups * (root + 1) ** 2}"
            times = "" if groups == 1 else f"{groups} times "
            raise ValueError(
                f"n_experts={n} must be {times}a perfect square; nearest: "
                f"{nearest.removeprefix('0, ')}"
            )
        if first is not None and n % (groups * first):
            lower = n // (groups * first) * groups * first
            times = "" if groups == 1 else f"{groups} times "
            raise ValueError(
                f"n_experts={n} must be a multiple of {times}n_first_keys={first}; nearest: "
                f"{lower or groups * first}, {lower + groups * first}"
            )
        if self.top_k > n // groups:
            each = "" if groups == 1 else f", {n // groups} for each of {groups}"
            raise ValueError(f"top_k={self.top_k} must be at most n_experts={n}{each}")
        check_rows(self.value_init, self.table_dtype)

    @property
    def n_groups(self) -> int:
        """Sets of product keys with experts of their own: n_experts = n_groups * S1 * S2."""
        return 1

    @property
    def shared_by_blocks(self) -> str | None:
        """Setting by which blocks have parameters of such a layer together (FFN.shared)."""
        return None

    @property
    def key_sets(self) -> tuple[int, int]:
        """S1 and S2, the sub-keys of the two halves."""
        n_keys = self.n_experts // self.n_groups
        first = self.n_first_keys or math.isqrt(n_keys)
        return first, n_keys // first

    @property
    def shares_gates(self) -> bool:
        """Whether a head's gates add up to the same for any top_k."""
        return False


@dataclass(frozen=True, kw_only=True)
class ProductKeyConfig(KeyedConfig):
    """Fields that PKM and PEER have in common.

    d_key: width of a whole query; the two sub-keys have half of it each. The paper does not
    state it; 256 is Lample 2019's (arXiv:1907.05242, §4.2).
    query_norm: none | layer | batch. share_keys: one set of sub-keys for all heads.
    score: softmax | sigmoid | relu over the retrieved scores of a head.
    """

    n_heads: AtLeast1 = 8
    d_key: AtLeast1 = 256
    query_norm: str = "batch"
    score: str = "softmax"
    scores: ClassVar[Mapping[str, Callable[[Tensor], Tensor]]] = SCORES
    share_keys: bool = used(Above("n_heads", 1), idle=True, default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_key % 2:
            raise ValueError(f"d_key={self.d_key} must be even, half for each sub-key")
        check_choice("query_norm", self.query_norm, QUERY_NORMS)
        check_choice("score", self.score, self.scores)

    @property
    def mixes(self) -> Mixing | None:
        """Batch norm in training is over the tokens of all processes."""
        return "all_processes" if self.query_norm == "batch" else None

    @property
    def n_queries(self) -> int:
        """One for each head, unless heads share them."""
        return self.n_heads

    @property
    def n_retrieved(self) -> int:
        """Experts a token reads, repeats among heads included: h * k."""
        return self.n_heads * self.top_k

    @property
    def shares_gates(self) -> bool:
        return self.score == "softmax"

    @property
    def query_rank(self) -> int | None:
        """Rank of the map to the queries of all heads, where it is two factors (LowRank)."""
        return None


def router_terms(config: ProductKeyConfig, d_model: int) -> tuple[Term, ...]:
    """Queries, their norm, sub-key scores, and the k**2 sums of Eq. 5 per head.

    The pruned search here adds fewer than k**2 pairs; the paper's count is kept.
    """
    h, k, d_key = config.n_heads, config.top_k, config.d_key
    n_both, n_features = sum(config.key_sets), config.n_queries * d_key
    norm_params = {"none": 0, "layer": 2 * d_key, "batch": 2 * n_features}[config.query_norm]
    rank = config.query_rank
    n_query = d_model * n_features if rank is None else rank * (d_model + n_features)
    n_keys = (1 if config.share_keys else h) * n_both * d_key // 2
    before_and_after = 2 * n_features  # the norm
    per_pair = 7 * h * k  # a gate, and the indices of both sub-keys and of the expert
    return (
        Term(name="query", n_params=n_query, flops=2 * n_query, kept=rank or 0),
        Term(name="query_norm", n_params=norm_params, kept_wide=before_and_after),
        Term(name="keys", n_params=n_keys, flops=h * n_both * d_key, kept=0),
        Term(name="pairs", flops=h * k**2, seen_by_torch=False, kept=0, kept_wide=per_pair),
    )


def values_term(config: ProductKeyConfig, d_model: int) -> Term:
    """One table, of which a token sums h * k rows."""
    return Term(
        name="values",
        n_params=config.n_experts * d_model,
        n_active_params=min(config.n_retrieved, config.n_experts) * d_model,
        flops=2 * config.n_retrieved * d_model,
        seen_by_torch=False,
        n_tables=1,
        kept=0,
    )


def table(
    config: KeyedConfig, d_model: int, init: str = "normal", n_summed: int = 1
) -> nn.Parameter:
    """An (n_experts, d_model) table of rows, N(0, (n_summed * d_model)**-0.5) or zero."""
    return new_rows(config.n_experts, d_model, config.table_dtype, init, n_summed)


class QueryNorm(nn.Module):
    """Normalises (T, H, d_key) queries.

    layer: over d_key, one set of weights for all heads. batch: over the tokens, per feature of
    (H, d_key) (Lample 2019, §3.1; the paper's default). In training mode batch statistics mix
    positions, later ones included; evaluation uses running statistics and is causal. The batch is
    that of all ranks together.
    """

    def __init__(self, kind: str, n_heads: int, d_key: int) -> None:
        super().__init__()
        self.kind = kind
        self.norm: nn.Module
        if kind == "batch":
            self.norm = BatchNorm(n_heads * d_key)
        elif kind == "layer":
            self.norm = nn.LayerNorm(d_key)
        else:
            self.norm = nn.Identity()

    def forward(self, queries: Tensor) -> Tensor:
        if self.kind == "batch":
            return self.norm(queries.flatten(1)).view_as(queries)
        return self.norm(queries)


class KeyedFFN(FFN, ABC):
    """Base of layers whose experts are found by product keys, as init/growth knows them.

    sub_keys: (..., 2, S, d), or (..., S1 + S2, d) where the halves have different numbers of them.
    late: of the first half's sub-keys.
    """

    config: KeyedConfig
    top_k: int
    query: nn.Linear | LowRank
    sub_keys: nn.Parameter

    @abstractmethod
    def queries(self, x: Tensor) -> Tensor:
        """x (T, d_model) to (T, H, 2 d): H queries of two halves each."""

    def grid(self) -> tuple[int, int] | None:
        """As Slotted has it. Where groups have experts of their own, a row is of one of them, and
        those of a column share its place in their groups alone.
        """
        _, n_second = self.config.key_sets
        return self.config.n_experts // n_second, n_second

    def _retrieve(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """(T, H, 2 d) to the (T, H, top_k) best scores and their experts.

        Of the pair (i, j) that is row i * S2 + j. Where each of G groups of heads, one head each,
        has experts of its own, it is row (i * G + g) * S2 + j: so rows of further sub-keys of the
        first half, for all groups, come after those that there were (init/growth).
        """
        search = partial(product_key_topk, queries, top_k=self.top_k, execution=self.execution)
        sub_keys, n_first, bias = self._searched()
        scores, pairs = search(sub_keys, n_first=n_first, bias=bias)
        n_groups, (_, n_second) = self.config.n_groups, self.config.key_sets
        if n_groups == 1:
            return scores, pairs
        group = torch.arange(n_groups, device=pairs.device).unsqueeze(1)
        first = pairs.div(n_second, rounding_mode="floor")
        return scores, pairs + n_second * ((n_groups - 1) * first + group)

    def _searched(self) -> tuple[Tensor, int | None, Tensor | None]:
        """Sub-keys that are searched, how many of them are of the first half (None: half of
        them), and what is added to these ones' scores.
        """
        if self.late is None:
            return self.sub_keys, self.config.n_first_keys, None
        n_first = self.config.n_first_keys
        assert n_first is not None, "layers that have grown say how"
        n_old, bias = self.late.n_old, self.late.bias
        if bias is None:
            old = self.sub_keys[..., :n_old, :], self.sub_keys[..., n_first:, :]
            return torch.cat(old, dim=-2), n_old, None
        zeros = bias.new_zeros(n_old)
        return self.sub_keys, n_first, torch.cat([zeros, bias.expand(n_first - n_old)])


class ProductKeyFFN(KeyedFFN):
    """Base of PKM and PEER: it maps tokens to experts and gates.

    Tensors: query.weight (n_heads * d_key, d_model), heads outermost, then the two halves, or the
    two factors of such a map (LowRank); sub_keys (2, S, d_key / 2), or (n_heads, 2, S, d_key / 2)
    when keys are per head; where the halves have different numbers S1 and S2, (S1 + S2, d_key / 2),
    or (n_heads, S1 + S2, d_key / 2).
    Sub-keys start uniform in +-(d_key / 2)**-0.5 (Lample 2019, reference notebook).
    """

    param_roles: ClassVar[Mapping[str, Role]] = {
        "query.weight": Role(fan_in=1, group="key"),
        "sub_keys": Role(fan_in=-1, group="key"),
    }

    config: ProductKeyConfig

    def __init__(self, config: ProductKeyConfig, d_model: int) -> None:
        super().__init__()
        self.config, self.n_experts = config, config.n_experts
        self.n_heads, self.top_k, self.d_key = config.n_heads, config.top_k, config.d_key
        self.score = config.scores[config.score]
        n_features, rank = config.n_queries * self.d_key, config.query_rank
        if rank is None:
            self.query = nn.Linear(d_model, n_features, bias=False)
        else:
            self.query = LowRank(d_model, rank, n_features)
        self.query_norm = QueryNorm(config.query_norm, config.n_queries, self.d_key)
        n_first, n_second = config.key_sets
        sets = (2, n_first) if config.n_first_keys is None else (n_first + n_second,)
        shape = (*sets, self.d_key // 2)
        self.sub_keys = nn.Parameter(
            torch.empty(shape if config.share_keys else (self.n_heads, *shape))
        )
        bound = (self.d_key / 2) ** -0.5
        if isinstance(self.query, nn.Linear):
            nn.init.normal_(self.query.weight, std=d_model**-0.5)
        nn.init.uniform_(self.sub_keys, -bound, bound)

    def queries(self, x: Tensor) -> Tensor:
        """x (T, d_model) to (T, n_heads, d_key), normalised."""
        queries = self.query(x).view(x.shape[0], -1, self.d_key)
        with torch.autocast(x.device.type, enabled=False):
            normed: Tensor = self.query_norm(queries.to(self.sub_keys.dtype))
            return normed

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, d_model) to expert indices and gates, both (T, n_heads * top_k), heads outermost.

        Scores and gates are computed in float32 or wider, whatever autocast says.
        """
        queries = self.queries(x)
        with torch.autocast(x.device.type, enabled=False):
            scores, indices = self._retrieve(queries)
            gates = self.score(scores)
        indices, gates = indices.flatten(1), gates.flatten(1)
        self.record_usage(indices, gates)
        return indices, gates

    def _tables(self) -> tuple[Tensor | None, Tensor | None, Tensor] | None:
        """PEER's w_down and w_gate, None where there is none, and the table that is summed; None:
        this class computes something else.
        """
        return None

    def _parts(self, tables: tuple[Tensor | None, Tensor | None, Tensor]) -> ProductKeyParts:
        norm = self.query_norm.norm
        assert not isinstance(self.query, LowRank), "refused by why_not_fused"
        sub_keys, n_first, bias = self._searched()
        by_running = isinstance(norm, BatchNorm) and (norm.frozen or not norm.training)
        return ProductKeyParts(
            query=self.query,
            query_norm=norm,
            norm_kind=self.query_norm.kind,
            fixed=by_running,
            sub_keys=sub_keys,
            n_first=n_first,
            bias=bias,
            n_heads=self.n_heads,
            top_k=self.top_k,
            score=self.config.score,
            activation=getattr(self.config, "activation", "identity"),
            w_down=tables[0],
            w_gate=tables[1],
            w_up=tables[2],
        )

    def why_not_fused(self) -> str | None:
        # a subclass may compute something else than the class that has tables
        tables = self._tables() if "_tables" in vars(type(self)) else None
        if tables is None:
            return super().why_not_fused()
        if isinstance(self.query, LowRank):
            return f"queries in two factors, of rank {self.query.rank}, have no fused form"
        if self.config.n_groups > 1:
            return "experts of each head's own have no fused form"
        return why_not_product_keys(self._parts(tables), self.execution)

    def fused_half(self, x: Tensor, norm: nn.RMSNorm, times: float) -> Tensor:
        tables = self._tables()
        assert tables is not None, "asked for without asking whether it can be had"
        parts = self._parts(tables)
        y, indices, gates = product_key_half(x, norm, parts, self.execution, times)
        self.record_usage(indices, gates)
        return y
