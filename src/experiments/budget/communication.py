"""Bytes that a process sends in a training step, by the name of the collective. Stdlib only.

Where R processes have the columns of each table between them (kernels.Columns), each sends in a
step of its T tokens, for each layer of a table that is summed and n tables that are multiplied with
x (PEER: 1, gated: 2, PKM: 0), d = d_model and J rows retrieved of each by a token, all in float32:

all-gather    4 T J (R - 1) (2 + n): indices, weights of sums, gradients of products
all-to-all    4 T J (R - 1) (n + 1): addends of products, and of the weights' gradients
              16 T d (R - 1) / R: x, y and their gradients; half of it where n is 0

A count of what system/exchange.py does, which the tests hold to its counter. What DDP sends is
arithmetic: a ring's share, as gloo and NCCL say they do. Neither has the batch norm's sums.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from experiments.budget.costs import Cost

_SIZE = 4  # bytes of what is sent: float32, and int32
_START = 30e-6  # seconds before a collective moves anything, assumed


def sent_for_columns(
    blocks: Iterable[Cost], *, d_model: int, n_tokens: int, n_ranks: int, clipped: bool
) -> dict[str, int]:
    """Bytes of a process with n_tokens in a step of n_ranks, all with columns. clipped: whether
    the norm of all gradients is asked for.
    """
    others = n_ranks - 1
    gathered, swapped = _SIZE * others if clipped else 0, 0
    for block in blocks:
        for term in block.terms:
            if not term.n_tables:
                continue
            n_products = term.n_tables - 1
            pairs = n_tokens * round(term.flops / (2 * term.n_tables * d_model))
            gathered += _SIZE * pairs * others * (2 + n_products)
            swapped += _SIZE * pairs * others * (n_products + 1)
            tensors = 4 if n_products else 2
            swapped += tensors * _SIZE * n_tokens * d_model * others // n_ranks
    return {"all-gather": gathered, "all-to-all": swapped}


def calls_for_columns(blocks: Iterable[Cost], *, n_passes: int, clipped: bool) -> dict[str, int]:
    """How often a process sends in a step of n_passes forward passes, by the collective's name."""
    calls = {"all-gather": 1 if clipped else 0, "all-to-all": 0}
    for block in blocks:
        for term in block.terms:
            if term.n_tables:
                n_products = term.n_tables - 1
                calls["all-gather"] += n_passes * (2 + n_products)
                calls["all-to-all"] += n_passes * (n_products + 1 + (4 if n_products else 2))
    return calls


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
        self, sent: Mapping[str, int], calls: Mapping[str, int], n_ranks: int
    ) -> float:
        """Seconds of a step's collectives, nothing of which is hidden behind products. A model that
        no network has been held to: each call waits _START, three times that across nodes, where an
        all-to-all is as slow as the part that leaves the node.
        """
        far = n_ranks > self.n_node
        leaving = (n_ranks - self.n_node) / (n_ranks - 1) if far else 1.0
        exchange = self.network_exchange if far else self.node_exchange
        waits = _START * (calls["all-gather"] + calls["all-to-all"] * (3 if far else 1))
        ring = self.network_ring if far else self.node_ring
        return waits + sent["all-gather"] / ring + leaving * sent["all-to-all"] / exchange

    def seconds_of_ddp(self, sent: int, n_ranks: int) -> float:
        """Seconds of the mean of gradients, which DDP takes during the backward pass."""
        return sent / (self.network_ring if n_ranks > self.n_node else self.node_ring)
