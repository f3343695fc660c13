"""Bytes that a process sends in a training step, by the name of the collective. Stdlib only.

Where R processes have the columns of each table between them (kernels.Columns), each sends in a
step of its T tokens, for each layer of a table that is summed and n tables that are multiplied with
x (PEER: 1, gated: 2, PKM: 0), d = d_model and J rows retrieved of each by a token, all in float32:

all-gather    4 T J (R - 1) (2 + n): indices, weights of sums, gradients of products
all-to-all    4 T J (R - 1) (n + 1): addends of products, and of the weights' gradients
              16 T d (R - 1) / R: x, y and their gradients; half of it where n is 0

Where there are G such groups of R, the G that have the same columns of a table add up n numbers of
its gradient, by an all-to-all and an all-gather of 4 n (G - 1) / G each, piece by piece: all
N d / R of them, where gradients are dense; where they are of rows, those of the rows that any has,
after N (G - 1) / G bytes in each, by which they hear which those are.

A count of what system/exchange.py does, which the tests hold to its counter. What DDP sends is
arithmetic: a ring's share, as gloo and NCCL say they do. Neither has the batch norm's sums.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from experiments.budget.costs import Cost

GATHER, SWAP = "all-gather", "all-to-all"
ACROSS = " of replicas"  # behind the name of a collective of theirs
_PIECE = 2**22  # numbers of a gradient that are added up at once, at most
_SIZE = 4  # bytes of what is sent: float32, and int32
_START = 30e-6  # seconds before a collective moves anything, assumed


def piece_size(n_replicas: int) -> int:
    """How many numbers of a gradient replicas add up at once: so many that each has a share."""
    return max(1, _PIECE // n_replicas) * n_replicas


def sent_for_columns(
    blocks: Iterable[Cost], *, d_model: int, n_tokens: int, n_ranks: int, clipped: bool
) -> dict[str, int]:
    """Bytes of a process with n_tokens in a step of n_ranks that have columns between them.
    clipped: whether the norm of all gradients is asked for.
    """
    others = n_ranks - 1
    gathered, swapped = _SIZE * others if clipped else 0, 0
    for block in blocks:
        for term in block.terms:
            if not term.n_tables:
                continue
            n_products = term.n_tables - 1
            width = term.d_row or d_model
            pairs = n_tokens * round(term.flops / (2 * term.n_tables * width))
            gathered += _SIZE * pairs * others * (2 + n_products)
            swapped += _SIZE * pairs * others * (n_products + 1)
            tensors = 4 if n_products else 2
            swapped += tensors * _SIZE * n_tokens * width * others // n_ranks
    return {GATHER: gathered, SWAP: swapped}


def calls_for_columns(blocks: Iterable[Cost], *, n_passes: int, clipped: bool) -> dict[str, int]:
    """How often a process sends in a step of n_passes forward passes, by the collective's name."""
    calls = {GATHER: 1 if clipped else 0, SWAP: 0}
    for block in blocks:
        for term in block.terms:
            if term.n_tables:
                n_products = term.n_tables - 1
                calls[GATHER] += n_passes * (2 + n_products)
                calls[SWAP] += n_passes * (n_products + 1 + (4 if n_products else 2))
    return calls


def adding_up(n_numbers: int, n_replicas: int, size: int = _SIZE) -> tuple[int, int]:
    """Bytes of a process in one of the two collectives by which replicas add up so many numbers of
    `size` bytes; and how often it sends.
    """
    whole, rest = divmod(n_numbers, piece_size(n_replicas))
    shares = whole * (piece_size(n_replicas) // n_replicas) - (-rest // n_replicas)
    return size * shares * (n_replicas - 1), whole + (rest > 0)


def sent_by_replicas(
    blocks: Iterable[Cost],
    *,
    d_model: int,
    n_tokens: int,
    n_ranks: int,
    n_replicas: int,
    by_rows: bool,
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of a process, and how often it sends, for the sums of gradients over n_replicas groups
    of n_ranks. n_tokens: of all processes. by_rows: gradients are of the rows alone that these
    tokens retrieve, of which there are as many as balanced routing would have.
    """
    if n_replicas == 1:
        return {}, {}
    n_bytes = n_calls = 0
    for block in blocks:
        for term in block.terms:
            if not term.n_tables or not term.n_trained:
                continue
            width = term.d_row or d_model
            n_rows = term.n_params // (term.n_tables * width)
            sums = [(n_rows, _SIZE * (width // n_ranks))]
            if by_rows:
                n_read = -n_rows * math.expm1(-n_tokens * term.n_active / term.n_params)
                sums = [(n_rows, 1), (round(n_read), _SIZE * (width // n_ranks))]
            for rows, row_bytes in sums:
                size = min(_SIZE, row_bytes)
                sent, called = adding_up(rows * row_bytes // size, n_replicas, size)
                n_bytes += term.n_tables * sent
                n_calls += term.n_tables * called
    names = GATHER + ACROSS, SWAP + ACROSS
    return dict.fromkeys(names, n_bytes), dict.fromkeys(names, n_calls)


def sent_by_ddp(cost: Cost, n_ranks: int, *, tables: bool) -> int:
    """For the mean of all gradients; tables: whether those of tables are among them."""
    averaged = sum(term.n_trained for term in cost.terms if tables or not term.n_tables)
    return 2 * _SIZE * averaged * (n_ranks - 1) // n_ranks


@dataclass(frozen=True, kw_only=True)
class Links:
    """Bytes/s that a card sends: in an all-to-all, and in a ring (all-gather, all-reduce), to cards
    of its node of n_node cards, and across nodes.
    """

    node_exchange: float
    node_ring: float
    network_exchange: float
    network_ring: float
    n_node: int

    def seconds_of_columns(
        self,
        sent: Mapping[str, int],
        calls: Mapping[str, int],
        n_ranks: int,
        n_replicas: int = 1,
    ) -> float:
        """Seconds of a step's collectives, nothing of which is hidden behind products. A model that
        no network of cards has been held to: each call waits _START, three times that across nodes,
        where an all-to-all is as slow as the part that leaves the node.
        """
        one_node = n_ranks * n_replicas <= self.n_node
        near = n_ranks if one_node else math.gcd(n_ranks, self.n_node)
        seconds = self._seconds(sent, calls, "", n_ranks, near)
        if n_replicas > 1:
            near = n_replicas if one_node else max(1, self.n_node // n_ranks)
            seconds += self._seconds(sent, calls, ACROSS, n_replicas, near)
        return seconds

    def _seconds(
        self, sent: Mapping[str, int], calls: Mapping[str, int], name: str, size: int, near: int
    ) -> float:
        """Seconds of a collective of `size` processes, of which so many are on a node."""
        far = size > near
        leaving = (size - near) / (size - 1) if far else 1.0
        exchange = self.network_exchange if far else self.node_exchange
        waits = _START * (calls[GATHER + name] + calls[SWAP + name] * (3 if far else 1))
        ring = self.network_ring if far else self.node_ring
        return waits + sent[GATHER + name] / ring + leaving * sent[SWAP + name] / exchange

    def seconds_of_ddp(self, sent: int, n_ranks: int) -> float:
        """Seconds of the mean of gradients, which DDP takes during the backward pass."""
        return sent / (self.network_ring if n_ranks > self.n_node else self.node_ring)
