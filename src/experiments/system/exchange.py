"""Exchange of processes that each have some columns of every table (kernels.Columns).

Of W processes each R that follow each other are a group, and process r of it has the columns r d/R
to (r + 1) d/R. Tokens travel in a group, rows of tables never do: shapes are those of the tokens
whatever they retrieve, and nothing that a group sends grows with the number of rows. Where there
are several groups, those that have the same columns are replicas, and add up the gradients of them.
Sums are in the order of ranks, so results repeat to the bit on every backend. gloo's own
reduce-scatter would send twice as much.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from experiments.budget.communication import ACROSS, GATHER, SWAP, piece_size

_Map = Callable[[Tensor], Tensor]


class _Circle:
    """Processes that send to each other, this one among them. group: torch.distributed's, None for
    its default one. name: what is put behind those of its collectives, in the counters.
    """

    def __init__(self, size: int, group: Any, name: str, exchange: "Exchange") -> None:
        self.size, self.group, self.name = size, group, name
        self._sent, self._calls = exchange.sent, exchange.calls

    def swap(self, blocks: Tensor) -> Tensor:
        """(size, ...): block s goes to process s; and back come those that all have sent here."""
        blocks = blocks.contiguous()
        others = torch.empty_like(blocks)
        if blocks.device.type == "cpu":
            _by_pairs(blocks, others, self.group)
        else:
            dist.all_to_all_single(others, blocks, group=self.group)
        self._count(SWAP, blocks.nbytes // self.size)
        return others

    def gather(self, values: Tensor) -> Tensor:
        """(n, ...) of each process, to (size, n, ...)."""
        self._count(GATHER, values.nbytes)
        return _gathered(values.contiguous(), self.size, self.group)

    def _count(self, name: str, n_bytes: int) -> None:
        self._calls[name + self.name] += 1
        self._sent[name + self.name] += n_bytes * (self.size - 1)


class Exchange:
    """Exchange of one of the n_processes that train a run, in torch.distributed's default
    group, which need not be there yet. size: R; None: all of them.

    rank: r, its place in its group. sent and calls: bytes that this process has sent, and how
    often, by the name of the collective. patience: how long processes of a group wait for each
    other; None: as long as torch has them.
    """

    def __init__(
        self,
        process: int,
        n_processes: int,
        size: int | None = None,
        patience: timedelta | None = None,
    ) -> None:
        self.process, self.n_processes = process, n_processes
        self.size = n_processes if size is None else size
        self.rank, self.n_replicas = process % self.size, n_processes // self.size
        self.sent: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._patience = patience

    @cached_property
    def _circles(self) -> tuple[_Circle, _Circle]:
        """Process groups: its own, and that of its replicas. All processes come here at once: at
        what they first send to each other.
        """
        if self.n_replicas == 1:
            return _Circle(self.size, None, "", self), _Circle(1, None, ACROSS, self)
        size, every = self.size, range(self.n_processes)
        groups = [every[i : i + size] for i in every[::size]]
        within = self._new_groups(groups)
        across = self._new_groups([every[i::size] for i in range(size)])
        return _Circle(size, within, "", self), _Circle(self.n_replicas, across, ACROSS, self)

    @property
    def _within(self) -> _Circle:
        return self._circles[0]

    def _new_groups(self, groups: Sequence[range]) -> Any:
        """This process's; every process has to make all of them, in one order."""
        made = [dist.new_group(list(group), timeout=self._patience) for group in groups]
        return next(m for m, group in zip(made, groups, strict=True) if self.process in group)

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
        """Sum of the group's values, the same to the bit on each; no gradient."""
        parts = self._within.gather(values.detach().reshape(-1))
        return _in_order(parts).view(values.shape)

    def gathered(self, values: Tensor) -> Tensor:
        """(n, ...) of each of all W processes, to (W, n, ...); no gradient, and not counted."""
        return _gathered(values.contiguous(), self.n_processes)

    def add_replicas(self, values: Tensor) -> None:
        """Makes values, which are contiguous, the sum of all replicas', by rank; of bytes, each of
        which is 0 or 1, what any of them has. The same to the bit on each.
        """
        flat, across = values.view(-1), self._circles[1]
        for piece in flat.split(piece_size(self.n_replicas)):
            padded = torch.nn.functional.pad(piece, (0, -len(piece) % self.n_replicas))
            share = _in_order(across.swap(padded.view(self.n_replicas, -1)))
            piece.copy_(across.gather(share).view(-1)[: len(piece)])

    def rows_of_replicas(self, rows: Tensor, n_rows: int) -> Tensor:
        """Rows of a table, ascending, to those that any replica has."""
        held = torch.zeros(n_rows, dtype=torch.uint8, device=rows.device)
        held[rows] = 1
        self.add_replicas(held)
        return held.nonzero().squeeze(1)

    def _to_columns(self, x: Tensor) -> Tensor:
        n_tokens, d = x.shape
        blocks = x.view(n_tokens, self.size, d // self.size).transpose(0, 1)
        return self._within.swap(blocks).view(self.size * n_tokens, d // self.size)

    def _to_tokens(self, y: Tensor) -> Tensor:
        n_tokens = len(y) // self.size
        blocks = self._within.swap(y.view(self.size, n_tokens, -1))
        return blocks.transpose(0, 1).reshape(n_tokens, -1)

    def _all_tokens(self, values: Tensor) -> Tensor:
        return self._within.gather(values).flatten(0, 1)

    def _summed(self, parts: Tensor) -> Tensor:
        return _in_order(self._within.swap(parts.view(self.size, len(parts) // self.size, -1)))


def _gathered(values: Tensor, size: int, group: Any = None) -> Tensor:
    """(n, ...) of each process of a group, to (size, n, ...)."""
    if values.device.type == "cpu":
        every = values.new_empty(size, *values.shape)
        _by_pairs(values.detach().expand_as(every), every, group)
        return every
    every = values.new_empty(size * len(values), *values.shape[1:])
    # torch 2.13 warns of the second name, the only one that versions before it have
    names = "all_gather_single", "all_gather_into_tensor"
    gather = next(getattr(dist, n) for n in names if hasattr(dist, n))
    gather(every, values, group=group)
    return every.view(size, *values.shape)


def _by_pairs(blocks: Tensor, into: Tensor, group: Any) -> None:
    """(size, ...): block s goes to process s; and what all have sent here.

    gloo's collectives send before they receive. So the word by which the other hears that its block
    can come waits behind one's own, and a link moves one way at a time: on a slow one an all-to-all
    takes twice as long. Here all processes are told first.
    """
    me, size = dist.get_rank(group), len(blocks)
    others = [(me + i) % size for i in range(1, size)]
    works: list[Any] = [dist.irecv(into[s], group=group, group_src=s) for s in others]
    works += [dist.isend(blocks[s], group=group, group_dst=s) for s in others]
    into[me].copy_(blocks[me])
    for work in works:
        work.wait()


def _in_order(parts: Tensor) -> Tensor:
    """(R, ...) to the sum over R, the first addend first; of bytes, 1 where any is."""
    total = parts[0].clone()
    for part in parts[1:]:
        if total.dtype == torch.uint8:
            total |= part
        else:
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
