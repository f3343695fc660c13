"""Trunks of a sweep: which its branches wait for, how long each is, and what they save."""

from collections.abc import Sequence

from experiments.config.schedules import TRUNK
from experiments.points.parts.branch import trunk_raw
from experiments.points.planning import make_point
from experiments.points.point import Point
from experiments.records import kept
from experiments.records.finished import ended_record


def make_trunks(points: Sequence[Point]) -> list[Point]:
    """A trunk for each that branches among the points start from, as long as the longest needs.

    Those whose trunk is elsewhere, by the path of its folder, are not among these branches.
    """
    longest: dict[str, Point] = {}
    for point in points:
        if point.branch is None or point.config.optim.branch_from != TRUNK:
            continue
        before = longest.get(point.branch.trunk_id)
        if before is None or before.first_step < point.first_step:
            longest[point.branch.trunk_id] = point
    return [
        make_point(trunk_raw(p.raw, p.plan.count_flops(p.first_step))) for p in longest.values()
    ]


def without_derived(points: Sequence[Point]) -> list[Point]:
    """Points without the trunks of branches among them: the branches say how long these are."""
    derived = {trunk.run_id for trunk in make_trunks(points)}
    return [point for point in points if point.run_id not in derived]


def check_places(points: Sequence[Point]) -> None:
    """Raises ValueError for a branch whose trunk, named by its path, has nothing to start from."""
    for point in points:
        branch, place = point.branch, point.config.optim.branch_from
        if branch is None or place == TRUNK or (point.run_dir / "last.ckpt").exists():
            continue
        if not kept.usable(branch.folder, branch.n_steps) and ended_record(point.run_dir) is None:
            there = ", ".join(map(str, sorted(kept.kept(branch.folder)))) or "none"
            raise ValueError(
                f"optim.branch_from={place}: no checkpoint of step {branch.n_steps}, where "
                f"{point.name} starts, or before it (kept steps: {there}); set "
                "optim.branch_from=trunk to train it, or null for a run of its own"
            )


def savings_text(points: Sequence[Point]) -> list[str]:
    """FLOPs of trunks and branches beside those of the same runs from scratch; [] of none."""
    branches = [point for point in points if point.branch is not None]
    if not branches:
        return []
    trunks = sum(p.plan.planned_flops for p in points if p.is_trunk)
    own, alone = sum(p.own_flops for p in branches), sum(p.plan.planned_flops for p in branches)
    n_trunks = len({p.branch.trunk_id for p in branches if p.branch is not None})
    what = f"{n_trunks} trunk{'s' if n_trunks > 1 else ''}"
    return [
        "",
        f"{what} of {trunks:.3g} FLOPs and {len(branches)} branches of {own:.3g}; from scratch "
        f"these runs would be {alone:.3g}: {1 - (trunks + own) / alone:.0%} saved",
    ]
