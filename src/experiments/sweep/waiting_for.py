"""Points in groups that a queue takes one after another: branches wait for their trunks."""

from collections.abc import Collection, Sequence

from experiments.sweep.point import Point


def alike(
    points: Sequence[Point], queued: Collection[str]
) -> list[tuple[str | None, tuple[Point, ...]]]:
    """Points in groups of as many devices each, what is longest first. Branches whose trunk is
    among the points, or queued (its run id), are groups of their own beside its run id: they wait
    for it.
    """
    ours = {point.run_id for point in points} | set(queued)
    groups: dict[tuple[str | None, int, int], list[Point]] = {}
    for point in sorted(points, key=lambda p: (not p.is_trunk, -p.own_work)):
        trunk = point.branch.trunk_id if point.branch is not None and point.waits() else None
        waited = trunk if trunk in ours else None
        groups.setdefault((waited, point.needs.devices, point.needs.num_nodes), []).append(point)
    # trunks are among those that wait for none
    in_order = sorted(groups.items(), key=lambda item: item[0][0] is not None)
    return [(waited, tuple(group)) for (waited, _, _), group in in_order]
