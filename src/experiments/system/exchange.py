"""The exchange of processes that each have some columns of every table (kernels.Columns).

Process r of R has the columns r d/R to (r + 1) d/R. Tokens travel, rows of tables never do: shapes
are those of the tokens whatever they retrieve, and nothing that is sent grows with the number of
rows. Sums are in the order of ranks, so results repeat to the bit on every backend. gloo's own
reduce-scatter would send twice as much.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_Map = Callable[[Tensor], Tensor]


class Exchange:
    """The exchange of one process, `rank` of `size`: all that train a run, in torch.distributed's
    default group, which need not be there yet. sent and calls: bytes that this process has sent,
    and how often, by the name of the collective.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.sent: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def to_columns(self, x: Tensor) -> Tensor:
        """(T, d), this process's tokens, to (R T, d / R), this process's columns of all tokens."""
        return _exchanged(x, self._to_columns, self._to_tokens)

    def to_tokens(self, y: Tensor) -> Tensor:
        """(R T, d / R) to (T, d): the inverse of to_columns."""
        return _exchanged(y, self._to_tokens, self._to_columns)

    def all_tokens(self, values: Tensor) -> Tensor:
        """(T, J) to those of all tokens (R T, J), rank 0's first."""
        return _exchanged(values, self._all_tokens, self._summed)

    def summed(self, parts: Tensor) -> Tensor:
        """(R T, J) addends of all tokens to the sums (T, J) of this process's, by rank."""
        return _exchanged(parts, self._summed, self._all_tokens)

    def total(self, values: Tensor) -> Tensor:
        """The sum of all processes' values, the same to the bit on each; no gradient."""
        parts = self._gather(values.detach().reshape(-1))
        return _in_order(parts).view(values.shape)

    def gathered(self, values: Tensor) -> Tensor:
        """(n, ...) of each process, to (R, n, ...); no gradient, and not counted."""
        return _gathered(values.contiguous(), self.size)

    def _to_columns(self, x: Tensor) -> Tensor:
        n_tokens, d = x.shape
        blocks = x.view(n_tokens, self.size, d // self.size).transpose(0, 1)
        return self._swap(blocks).view(self.size * n_tokens, d // self.size)

    def _to_tokens(self, y: Tensor) -> Tensor:
        n_tokens = len(y) // self.size
        return self._swap(y.view(self.size, n_tokens, -1)).transpose(0, 1).reshape(n_tokens, -1)

    def _all_tokens(self, values: Tensor) -> Tensor:
        return self._gather(values).flatten(0, 1)

    def _summed(self, parts: Tensor) -> Tensor:
        return _in_order(self._swap(parts.view(self.size, len(parts) // self.size, -1)))

    def _swap(self, blocks: Tensor) -> Tensor:
        """(R, ...): block s goes to process s; and back come those that all have sent here."""
        blocks = blocks.contiguous()
        others = torch.empty_like(blocks)
        torch.distributed.all_to_all_single(others, blocks)
        self.calls["all-to-all"] += 1
        self.sent["all-to-all"] += blocks.nbytes // self.size * (self.size - 1)
        return others

    def _gather(self, values: Tensor) -> Tensor:
        """(n, ...) of each process, to (R, n, ...)."""
        self.calls["all-gather"] += 1
        self.sent["all-gather"] += values.nbytes * (self.size - 1)
        return _gathered(values.contiguous(), self.size)


def _gathered(values: Tensor, size: int) -> Tensor:
    """(n, ...) of each process, to (R, n, ...)."""
    every = values.new_empty(size * len(values), *values.shape[1:])
    # torch 2.13 warns of the second name, the only one that versions before it have
    names = "all_gather_single", "all_gather_into_tensor"
    gather = next(getattr(torch.distributed, n) for n in names if hasattr(torch.distributed, n))
    gather(every, values)
    return every.view(size, *values.shape)


def _in_order(parts: Tensor) -> Tensor:
    """(R, ...) to the sum over R, the first addend first."""
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def _exchanged(x: Tensor, forward: _Map, backward: _Map) -> Tensor:
    result: Tensor = _Exchanged.apply(x, forward, backward)
    return result


class _Exchanged(torch.autograd.Function):
    """A linear map over all processes, and its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: _Map, backward: _Map) -> Tensor:
        ctx.backward_map = backward
        return forward(x.contiguous())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.backward_map(grad.contiguous()), None, None
