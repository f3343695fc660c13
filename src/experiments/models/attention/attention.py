"""Attention as the trunk knows it: its cost, its module, and its half of a block. README.md has how
to add one.

Torch alone: an export has this file and that of the model's own attention.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Protocol, Self

from torch import Tensor, nn

from experiments.budget.costs import Term
from experiments.models.positions.positions import Seen


class Past(Protocol):
    """Keys and values that a cache keeps for one block."""

    length: int  # positions

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """New positions' (batch, heads, n, width) to those of all positions so far."""
        ...


class AttentionConfig(ABC):
    """A frozen dataclass, which a yaml of conf/attention names by its `_target_`."""

    def check(self, d_model: int, d_head: int) -> None:  # noqa: B027 - it need not refuse any
        """Raises ValueError for a width that it can't do with. d_head divides d_model."""

    def explicit(self, n_heads: int) -> Self:
        """Same attention with nothing left to the number of heads: two spellings are one."""
        return self

    @abstractmethod
    def terms(self, d_model: int, d_head: int, seq_len: int) -> tuple[Term, ...]:
        """Parameters and forward FLOPs per token, of half "attention"; a position attends to
        (seq_len + 1) / 2 on average.
        """

    @abstractmethod
    def build(self, d_model: int, d_head: int, multiplier: float) -> "Attention":
        """Builds the module. multiplier: of scores, beside d_head**-0.5."""


class Attention(nn.Module, ABC):
    """Causal: (batch, n, d_model) to the same."""

    @abstractmethod
    def forward(self, x: Tensor, seen: Seen, past: Past | None = None) -> Tensor:
        """seen: what each position sees, and by how much queries and keys turn. past: of the
        positions before these; a mask has columns for them too.
        """

    @abstractmethod
    def output_weights(self) -> tuple[Tensor, ...]:
        """Matrices that write to the residual stream."""

    @abstractmethod
    def query_rows(self) -> Iterator[tuple[str, slice]]:
        """Parameters, and rows of them, that a multiplier of scores can be put into: for exports of
        models with a parametrization.
        """

    def why_not_fused(self) -> str | None:
        """Why it has no fused half here, in words; None if it has one."""
        return f"{type(self).__name__} has no fused form"

    def fused_half(
        self,
        x: Tensor,
        norm: nn.RMSNorm,
        turns: tuple[Tensor, Tensor],
        first: Tensor | None,
        times: float,
    ) -> Tensor:
        """x + times * attention(norm(x)), as kernels.trunk.attention_half has turns and first."""
        raise TypeError(f"{type(self).__name__} has no fused half; why_not_fused() says so")
