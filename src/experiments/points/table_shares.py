"""Costs of a run's tables, by how many of its processes have their columns between them.

What each process holds and sends, and how long that takes by a model of the cluster's links.
points/parts/table_columns.py trains such a run, and table_choice.py compares them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.budget.communication import (
    Links,
    calls_for_columns,
    sent_by_ddp,
    sent_by_replicas,
    sent_for_columns,
)
from experiments.budget.memory import Memory
from experiments.budget.traffic import step_bytes
from experiments.config.trainer import Cluster
from experiments.points.memory import estimate_memory, moment_bytes
from experiments.points.point import Point


@dataclass(frozen=True, kw_only=True)
class Share:
    """One process of a run whose tables n_ranks have between them; 1: each has all, as in DDP.

    sent: bytes of a step, by collective, for tables; by_ddp: for the mean of all other gradients.
    sending and by_memory: seconds of a step, by the cluster's links, and of what its memory moves;
    None: nothing is known of these.
    """

    n_ranks: int
    memory: Memory
    sent: dict[str, int]
    by_ddp: int
    sending: float | None
    ddp_sending: float | None
    by_memory: float | None

    @property
    def n_sent(self) -> int:
        """Bytes of a step, all together."""
        return sum(self.sent.values()) + self.by_ddp

    @property
    def seconds(self) -> float | None:
        """All of a step that differs by n_ranks and is known."""
        known = (self.sending, self.ddp_sending, self.by_memory)
        return None if None in known else sum(s for s in known if s is not None)


def find_share(point: Point, n_ranks: int) -> Share:
    """Run's costs; whether it can be is not looked at."""
    n_processes, cost = point.ranks.world_size, point.plan.cost
    n_replicas = n_processes // n_ranks
    sent, calls, how = dict[str, int](), dict[str, int](), point.config.optim
    if n_ranks > 1:
        blocks, d_model = point.transformer.block_costs(), point.transformer.d_model
        tokens, clipped = point.plan.batch_tokens, how.grad_clip is not None
        sent = sent_for_columns(
            blocks,
            d_model=d_model,
            n_tokens=tokens // n_processes,
            n_ranks=n_ranks,
            clipped=clipped,
        )
        calls = calls_for_columns(blocks, n_passes=point.ranks.n_micro, clipped=clipped)
        more, more_calls = sent_by_replicas(
            blocks,
            d_model=d_model,
            n_tokens=tokens,
            n_ranks=n_ranks,
            n_replicas=n_replicas,
            by_rows=how.table_gradient == "rows",
        )
        sent, calls = sent | more, calls | more_calls
    by_ddp = sent_by_ddp(cost, n_processes, tables=n_ranks == 1)
    links, card = _links(point.config.cluster), point.device.card
    sending = ddp_sending = by_memory = None
    if links is not None:
        sending = links.seconds_of_columns(sent, calls, n_ranks, n_replicas) if sent else 0.0
        ddp_sending = links.seconds_of_ddp(by_ddp, n_processes)
    if card is not None:
        moved = step_bytes(
            cost,
            n_tokens=point.plan.batch_tokens // n_processes,
            n_micro=point.ranks.n_micro,
            moments=moment_bytes(how, point.transformer, n_ranks, by_rows=False),
            table_gradient=how.table_gradient,
            table_dtype=getattr(point.config.model, "table_dtype", "float32"),
            table_ranks=n_ranks,
        )
        by_memory = moved / card.bandwidth
    return Share(
        n_ranks=n_ranks,
        memory=estimate_memory(point.draft, n_ranks),
        sent=sent,
        by_ddp=by_ddp,
        sending=sending,
        ddp_sending=ddp_sending,
        by_memory=by_memory,
    )


def fits(point: Point, share: Share) -> bool:
    """Whether the device has room for it; processes on CPUs share their node's."""
    available = point.device.memory
    n_sharing = 1 if point.device.accelerator == "cuda" else point.ranks.devices
    return available is None or n_sharing * share.memory.total <= available


def cheapest(point: Point, found: Sequence[Share]) -> Share | None:
    """One of the shortest step of those that fit, or where no time is known the one that
    sends least; of equal ones the first.
    """
    able = [share for share in found if fits(point, share)]
    return min(able, key=lambda s: (s.seconds or 0.0, s.n_sent), default=None)


def _links(cluster: Cluster | None) -> Links | None:
    if cluster is None:
        return None
    rates = {
        "node_exchange": cluster.node_exchange,
        "node_ring": cluster.node_ring,
        "network_exchange": cluster.network_exchange,
        "network_ring": cluster.network_ring,
    }
    known = {name: rate for name, rate in rates.items() if rate is not None}
    return Links(**known, n_node=cluster.cards_per_node) if len(known) == len(rates) else None
