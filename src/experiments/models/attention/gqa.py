"""Multi-head attention, and grouped: keys and values that several heads of queries share. Vaswani
2017, arXiv:1706.03762, §3.2; Ainslie 2023, arXiv:2305.13245.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from experiments.budget.costs import Term
from experiments.config.constraints import AtLeast1
from experiments.kernels.trunk import AttentionShape, attention_half, find_eps, why_not_linear
from experiments.models.attention.attention import Attention, AttentionConfig, Past
from experiments.models.positions.positions import Seen, rotate
from experiments.models.roles import MAP, Role


@dataclass(frozen=True, kw_only=True)
class GQAConfig(AttentionConfig):
    """n_kv_heads: heads of keys and values; None for as many as there are of queries."""

    n_kv_heads: AtLeast1 | None = None

    def check(self, d_model: int, d_head: int) -> None:
        if self.n_kv_heads is not None and d_model // d_head % self.n_kv_heads:
            raise ValueError(
                f"trunk.attention.n_kv_heads={self.n_kv_heads} must divide the {d_model // d_head} "
                f"heads of d_model={d_model} and ladder.d_head={d_head}"
            )

    def explicit(self, n_heads: int) -> Self:
        return replace(self, n_kv_heads=self.n_kv_heads or n_heads)

    def terms(self, d_model: int, d_head: int, seq_len: int) -> tuple[Term, ...]:
        """Grouped heads cost no less context. torch's counter does not know the mask and counts
        seq_len positions.
        """
        d_kv = (self.n_kv_heads or d_model // d_head) * d_head
        n_params = 2 * d_model**2 + 2 * d_model * d_kv
        # queries, keys and values; the first two rotated; the heads' sums
        kept = (d_model + 2 * d_kv) + (d_model + d_kv) + d_model
        context = Term(
            name="context",
            flops=4 * d_model * (seq_len + 1) / 2,
            seen_by_torch=False,
            kept=0,
            half="attention",
        )
        projections = Term(
            name="projections", n_params=n_params, flops=2 * n_params, kept=kept, half="attention"
        )
        return projections, context

    def build(self, d_model: int, d_head: int, multiplier: float) -> "GQA":
        return GQA(d_model, d_head, self.n_kv_heads or d_model // d_head, multiplier)


class GQA(Attention):
    """qkv: rows of all heads' queries, then of the keys, then of the values."""

    adaptable: ClassVar[tuple[str, ...]] = ("qkv", "out")
    param_roles: ClassVar[Mapping[str, Role]] = {"qkv.weight": MAP, "out.weight": MAP}

    def __init__(self, d_model: int, d_head: int, n_kv_heads: int, multiplier: float) -> None:
        super().__init__()
        self.d_head = d_head
        self.n_heads, self.n_kv_heads = d_model // d_head, n_kv_heads
        self._scale = None if multiplier == 1 else multiplier * d_head**-0.5
        self.qkv = nn.Linear(d_model, d_model + 2 * n_kv_heads * d_head, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        for linear in (self.qkv, self.out):
            nn.init.normal_(linear.weight, std=d_model**-0.5)

    def forward(self, x: Tensor, seen: Seen, past: Past | None = None) -> Tensor:
        batch, seq, d_model = x.shape
        mask, start = seen.mask, 0 if past is None else past.length
        query, key, value = self.heads(x)
        if seen.turns is not None:
            query, key = rotate(query, *seen.turns), rotate(key, *seen.turns)
        if mask is not None and mask.is_floating_point():
            mask = mask.to(query.dtype)
        if past is not None:
            key, value = past.extend(key, value)
        y = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None and start == 0,
            scale=self._scale,
            enable_gqa=self.n_kv_heads != self.n_heads,
        )
        return self.out(y.transpose(1, 2).reshape(batch, seq, d_model))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, heads of its own, n, d_head), not turned yet."""
        heads = self.qkv(x).view(*x.shape[:2], -1, self.d_head).transpose(1, 2)
        query, key, value = heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=1)
        return query, key, value

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.out.weight,)

    def query_rows(self) -> Iterator[tuple[str, slice]]:
        yield "qkv.weight", slice(self.n_heads * self.d_head)

    def why_not_fused(self) -> str | None:
        return why_not_linear(self.qkv) or why_not_linear(self.out)

    def fused_half(
        self,
        x: Tensor,
        norm: nn.RMSNorm,
        turns: tuple[Tensor, Tensor],
        first: Tensor | None,
        times: float,
    ) -> Tensor:
        shape = AttentionShape(
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            d_head=self.d_head,
            eps=find_eps(norm),
            scale=self.d_head**-0.5 if self._scale is None else self._scale,
            times=times,
        )
        return attention_half(x, norm.weight, self.qkv.weight, self.out.weight, turns, first, shape)
