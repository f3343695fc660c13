"""Interface of an implementation of the kernels, and what passes between them.

An implementation has no autograd: `ops.py` makes the differentiable functions out of these.
Suffixes: T tokens, J retrieved rows a token, P = T J pairs, N rows of a table, R of them distinct
among the retrieved, D width; H heads, S1 and S2 sub-keys of the two halves, K top_k.

Activations, weights and sums are float32 (float64 where the table is); a table is float32,
bfloat16 or float64 and its gradient has its type.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Pairs (t, j) of an idx (T, J), sorted by the row they retrieve; equal ones in order.

    rows (R,) int64: the distinct rows, ascending; or all rows of the table, of which some have no
    pair (Kernel.sort). offsets (R + 1,): where each row's pairs begin in `order`; order (P,): flat
    positions t * J + j. Both are of the implementation's own integer type. n_rows: N.
    """

    rows: Tensor
    offsets: Tensor
    order: Tensor
    n_rows: int
    n_columns: int  # J


@dataclass(frozen=True, kw_only=True)
class AdamWStep:
    """One AdamW step of one table's retrieved rows (Loshchilov 2019, arXiv:1711.05101, Alg. 2).

    step counts from 1 and is the table's, not the row's: bias is corrected as if every row had
    been updated at each step, as torch.optim.SparseAdam does.

    first_column, width: of a table that has some columns of a whole one, where in it they begin and
    how wide it is; width=0: the table is whole. So what is stored in bfloat16 is rounded as it is
    in the whole table.
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int
    first_column: int = 0
    width: int = 0

    def whole_width(self, table: Tensor) -> int:
        """Width of the whole table that this one has columns of."""
        return self.width or table.shape[1]

    @property
    def step_size(self) -> float:
        """lr over the first moment's bias correction."""
        return self.lr / (1 - self.beta1**self.step)

    @property
    def root_correction(self) -> float:
        """Square root of the second moment's bias correction."""
        return (1 - self.beta2**self.step) ** 0.5


class Kernel(Protocol):
    """One implementation. Inputs are contiguous; idx is int64 and within the table."""

    name: str
    variant: str  # of the processor's levels, say; "" where there is one form
    segment_dtype: torch.dtype  # of a Segments' offsets and order

    def dot(self, x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
        """(T, D), (N, D), (T, J) to (T, J): x_t . table[idx_tj]."""
        ...

    def weighted_sum(self, table: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
        """(N, D), (T, J), (T, J) to (T, D): sum_j weights_tj table[idx_tj]."""
        ...

    def sort(self, idx: Tensor, n_rows: int, distinct: bool = True) -> Segments:
        """Pairs by row. Stable, so that sums over a row's pairs have one order.

        distinct=False: an implementation may take all rows of the table for the distinct ones, and
        its sums and steps then pass by those without a pair. A GPU's does: how many rows are
        distinct the host would have to wait for.
        """
        ...

    def row_sums(
        self, values: Tensor, segments: Segments, weights: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """(T, D) values, (T, J) weights to (R, D): a row's sum of weights_tj values_t."""
        ...

    def table_sums(
        self, values: Tensor, segments: Segments, weights: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """row_sums at their rows of an (N, D) table that is zero elsewhere."""
        ...

    def search(
        self, queries: Tensor, sub_keys: Tensor, n_first: int, top_k: int, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Best top_k product keys of each query.

        queries (T, H, 2, d), sub_keys (G, S1 + S2, d), G being H or 1: the n_first = S1 sub-keys of
        the first half, then those of the second. bias (S1,), if any, is added to the first's
        scores. Returns scores (T, H, K), best first, and the two int64 (T, H, K) sub-keys of each;
        among tied scores any choice is right.
        """
        ...

    def row_adamw(
        self,
        table: Tensor,
        moments: tuple[Tensor, Tensor],
        rows: Tensor,
        gradient: Tensor,
        step: AdamWStep,
    ) -> None:
        """Steps the given (R,) distinct rows by their (R, D) gradients, in place.

        What is stored in bfloat16 is rounded stochastically, by a hash of step, row and column of
        the whole table.
        """
        ...

    def row_adamw_of_sums(
        self,
        table: Tensor,
        moments: tuple[Tensor, Tensor],
        values: Tensor,
        segments: Segments,
        weights: Tensor,
        step: AdamWStep,
    ) -> None:
        """row_adamw by row_sums, which are never all held at once."""
        ...


class Columns(Protocol):
    """Processes that train together, of which each R that follow each other are a group that has
    the columns of each table between them: r of R those from r D/R on. Each has T tokens. What is
    sent is differentiable (system/exchange.py), and goes to the group alone where nothing else is
    said.
    """

    rank: int  # r
    size: int  # R
    process: int  # of all
    n_processes: int  # R times the number of groups

    def to_columns(self, x: Tensor) -> Tensor:
        """(T, D), this process's tokens, to (R T, D / R), this process's columns of all tokens."""
        ...

    def to_tokens(self, y: Tensor) -> Tensor:
        """Inverse of to_columns."""
        ...

    def all_tokens(self, values: Tensor) -> Tensor:
        """(T, J) to those of all tokens, (R T, J)."""
        ...

    def summed(self, parts: Tensor) -> Tensor:
        """(R T, J) addends of all tokens to the sums (T, J) of this process's."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """Sum of the group's values, the same to the bit on each; no gradient."""
        ...

    def gathered(self, values: Tensor) -> Tensor:
        """(n, ...) of each of all processes, to (n_processes, n, ...); no gradient."""
        ...

    def add_replicas(self, values: Tensor) -> None:
        """Makes values the sum of those of all processes that have the same columns, by rank."""
        ...

    def rows_of_replicas(self, rows: Tensor, n_rows: int) -> Tensor:
        """Rows of a table of n_rows, ascending, to those that any of these processes has."""
        ...


class Retrieved:
    """(T, J) int64 indices into tables of n_rows, and their segments, sorted once if asked for.

    A layer that reads two tables at the same indices makes one of these for both. distinct: as
    Kernel.sort has it. Where tables are held in columns, idx is that of the group's tokens.
    """

    def __init__(self, idx: Tensor, n_rows: int, kernel: Kernel, distinct: bool = True) -> None:
        self.idx, self.n_rows, self.kernel = idx.contiguous(), n_rows, kernel
        self.distinct = distinct
        self._sent: tuple[Tensor, Tensor] | None = None

    def take_columns(self, x: Tensor, columns: Columns) -> Tensor:
        """columns.to_columns(x), which is sent once for all tables that x is multiplied with."""
        if self._sent is None or self._sent[0] is not x:
            self._sent = x, columns.to_columns(x)
        return self._sent[1]

    @cached_property
    def segments(self) -> Segments:
        """Pairs by row."""
        return self.kernel.sort(self.idx, self.n_rows, self.distinct)
