"""The status of a sweep as people read it."""

from collections import Counter
from collections.abc import Sequence

from experiments.sweep.plan_table import count, duration
from experiments.sweep.states import STATES, PointState
from experiments.tables import aligned


def status_table(name: str, points: Sequence[PointState]) -> str:
    """A line a point, sorted by state; then how many of each, the FLOPs and the time left."""
    rows = [("state", "run", "point", "step", "tokens/s", "left", "stops", "job", "")]
    for p in sorted(points, key=lambda p: STATES.index(p.state)):
        logged = p.state in ("failed", "killed", "diverged") and p.log is not None
        detail = "; ".join(filter(None, [p.detail, f"log: {p.log}" if logged else ""]))
        rows.append(
            (
                p.state,
                p.run_id,
                p.label,
                f"{p.step}/{p.n_steps}",
                "" if p.tokens_per_second is None else count(p.tokens_per_second),
                "" if p.seconds_left is None else duration(p.seconds_left),
                str(p.n_stops) if p.n_stops else "",
                p.job or "",
                detail,
            )
        )
    lines = aligned([(*row[:3], *row[3:8], "") for row in rows], n_left=3)
    lines = [f"{line}  {row[8]}".rstrip() for line, row in zip(lines, rows)]
    return "\n".join([*lines, "", _summary(name, points)])


def _summary(name: str, points: Sequence[PointState]) -> str:
    states = Counter(p.state for p in points)
    parts = [f"{states[s]} {s}" for s in STATES if states[s]]
    planned = sum(p.planned_flops for p in points)
    done = sum(p.done_flops for p in points)
    text = (
        f"sweep {name}: {len(points)} points, {', '.join(parts)}; {done:.3g} of {planned:.3g} FLOPs"
    )
    rate = sum(
        (p.planned_flops - p.done_flops) / p.seconds_left
        for p in points
        if p.seconds_left and p.state == "running"
    )
    ahead = ("running", "queued", "waiting")
    left = sum(p.planned_flops - p.done_flops for p in points if p.state in ahead)
    if rate and left:
        text += f"; about {duration(left / rate)} left at {rate / 1e9:.3g} GFLOP/s"
    return text
