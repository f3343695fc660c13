"""Dry run's line on trainer.table_ranks: what each number of processes would come to."""

from contextlib import suppress
from dataclasses import dataclass, replace

from experiments.config.schema import RunConfig
from experiments.points.parts.table_columns import TableColumns
from experiments.points.point import Point, RunPart
from experiments.points.table_shares import Share, cheapest, find_share, fits


@dataclass(frozen=True, kw_only=True)
class TableChoice(RunPart):
    """Line of a run by several processes. It does nothing else."""

    by_columns = True

    @classmethod
    def of(cls, config: RunConfig) -> "TableChoice | None":
        n_processes = config.trainer.devices * config.trainer.num_nodes
        return cls() if n_processes > 1 else None

    def plan_line(self, point: Point) -> tuple[str, str] | None:
        """Without tables, or where they can't be shared, there is no choice."""
        if not any(term.n_tables for term in point.plan.cost.terms):
            return None
        found = choices(point)
        if [share.n_ranks for share in found] == [1] or not found:
            return None
        best = cheapest(point, found)
        where = "" if point.device.memory is None else f" {point.device.memory / 2**30:.1f} GiB"
        if best is None:
            said = f"none of them fits{where}"
        else:
            why = "sends least" if best.seconds is None else "has the shortest step"
            said = f"{_name(best)} {why} of those that fit{where}"
        return (
            "Processes that share tables (trainer.table_ranks): GiB of each, MB that it sends in a "
            "step, ms of that and of its memory by the cluster's rates, modelled",
            "; ".join(_text(point, share) for share in found) + f": {said}",
        )


def choices(point: Point) -> list[Share]:
    """Shares of every number of processes that the run's tables can be shared by, 1 first. Other
    settings stay as they are.
    """
    n, draft, config = point.ranks.world_size, point.draft, point.config
    possible = [1] if config.optim.table_gradient == "dense" else []
    for size in range(2, n + 1):
        if n % size:
            continue
        part = TableColumns.of(replace(config, trainer=replace(config.trainer, table_ranks=size)))
        assert part is not None
        with suppress(ValueError):
            part.refuse(draft)
            possible.append(size)
    return [find_share(point, size) for size in possible]


def _name(share: Share) -> str:
    return "null" if share.n_ranks == 1 else str(share.n_ranks)


def _text(point: Point, share: Share) -> str:
    ms = "" if share.seconds is None else f", {1e3 * share.seconds:.3g} ms"
    size = f"{share.memory.total / 2**30:.3g} GiB{'' if fits(point, share) else ' (too large)'}"
    return f"{_name(share)} {size}, {share.n_sent / 1e6:.3g} MB{ms}"
