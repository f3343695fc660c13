"""Status of a sweep as people read it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.records.record import CUT_SHORT
from experiments.sweep.manifest import FLOPS
from experiments.sweep.states import STATES, PointState, SweepState
from experiments.system.text_table import aligned, count, duration

MANY = 50  # points, of which on a terminal those that need no attention are left out
_QUIET_STATES = ("done", "waiting")


def status_text(name: str, sweep: SweepState, chosen: Sequence[str], shorten: bool) -> str:
    """How many points are in each state, the FLOPs and the time left; then a line a point, sorted
    by state, of those whose state is chosen (none: all).

    shorten: of more than MANY points leave out those that are done or waiting, and say so.
    """
    points = [p for p in sweep.points if not chosen or p.state in chosen]
    hidden = []
    if shorten and not chosen and len(points) > MANY:
        hidden = [p for p in points if p.state in _QUIET_STATES]
        points = [p for p in points if p.state not in _QUIET_STATES]
    parts = [[_summary(name, sweep.points, sweep.unit), *(f"note: {note}" for note in sweep.notes)]]
    by_model = model_rows(sweep.points)
    if by_model:
        parts.append(aligned(by_model))
    if points:
        parts.append(_lines(points))
    if hidden:
        parts.append(
            [f"{len(hidden)} points that are done or waiting are not shown; --all shows them"]
        )
    return "\n\n".join("\n".join(part) for part in parts)


def _lines(points: Sequence[PointState]) -> list[str]:
    rows = [("state", "run", "point", "step", "tokens/s", "left", "stops", "job", "")]
    for p in sorted(points, key=lambda p: STATES.index(p.state)):
        logged = p.state in ("failed", "killed", *CUT_SHORT) and p.log is not None
        detail = "; ".join(filter(None, [p.detail, f"log: {p.log}" if logged else ""]))
        rows.append(
            (
                p.state,
                p.run_id,
                p.label,
                f"{p.step}/{p.n_steps or '?'}",
                "" if p.tokens_per_second is None else count(p.tokens_per_second),
                "" if p.seconds_left is None else duration(p.seconds_left),
                str(p.n_stops or ""),
                p.job or "",
                detail,
            )
        )
    lines = aligned([(*row[:8], "") for row in rows], n_left=3)
    return [f"{line}  {row[8]}".rstrip() for line, row in zip(lines, rows)]


def model_rows(points: Sequence[PointState]) -> list[tuple[str, ...]]:
    """A row a model, below a head: how many of its points are in each state. Nothing for a single
    model.
    """
    cells = Counter((p.label.partition(" ")[0], p.state) for p in points)
    models = list(dict.fromkeys(model for model, _ in cells))
    if len(models) < 2:
        return []
    states = [s for s in STATES if any(cells[model, s] for model in models)]
    counts = [[cells[model, s] for s in states] for model in models]
    rows: list[tuple[str, ...]] = [("model", *states, "all")]
    for model, row in zip(models, counts):
        rows.append((model, *(str(n or "") for n in row), str(sum(row))))
    return rows


@dataclass(frozen=True, kw_only=True)
class Pace:
    """FLOPs of a sweep that are planned and done; FLOP/s of what runs, and the seconds that the
    rest takes at it: None where nothing runs, or nothing is left.
    """

    planned: float
    done: float
    rate: float | None
    seconds_left: float | None


def find_pace(points: Sequence[PointState]) -> Pace:
    """Points that failed or were stopped are not in the seconds that are left."""
    rate = sum(
        (p.planned_flops - p.done_flops) / p.seconds_left
        for p in points
        if p.seconds_left and p.state == "running"
    )
    ahead = ("running", "queued", "waiting")
    left = sum(p.planned_flops - p.done_flops for p in points if p.state in ahead)
    return Pace(
        planned=sum(p.planned_flops for p in points),
        done=sum(p.done_flops for p in points),
        rate=rate or None,
        seconds_left=left / rate if rate and left else None,
    )


def states_text(points: Sequence[PointState]) -> str:
    """How many points are in each state."""
    states = Counter(p.state for p in points)
    return ", ".join(f"{states[s]} {s}" for s in STATES if states[s])


def speed_text(rate: float, unit: str) -> str:
    """Work a second: of FLOPs in GFLOP/s."""
    return f"{rate / 1e9:.3g} GFLOP/s" if unit == FLOPS else f"{rate:.3g} {unit}/s"


def _summary(name: str, points: Sequence[PointState], unit: str) -> str:
    pace = find_pace(points)
    text = f"sweep {name}: {len(points)} points, {states_text(points)}; "
    text += f"{pace.done:.3g} of {pace.planned:.3g} {unit}"
    if pace.rate is not None and pace.seconds_left is not None:
        text += f"; about {duration(pace.seconds_left)} left at {speed_text(pace.rate, unit)}"
    return text


def sweeps_text(sweeps: Sequence[tuple[str, SweepState | str]]) -> str:
    """A line a sweep: its name, how many points it has, how many are done, the FLOPs of both; or
    why it can't be read.
    """
    rows = [("sweep", "points", "done", "FLOPs done", "of", "")]
    # of other apps the numbers have their unit behind them
    for name, sweep in sweeps:
        if isinstance(sweep, str):
            rows.append((name, "", "", "", "", sweep))
            continue
        points = sweep.points
        others = Counter(p.state for p in points if p.state != "done")
        unit = "" if sweep.unit == FLOPS else f" {sweep.unit}"
        rows.append(
            (
                name,
                str(len(points)),
                str(sum(p.state == "done" for p in points)),
                f"{sum(p.done_flops for p in points):.3g}",
                f"{sum(p.planned_flops for p in points):.3g}{unit}",
                ", ".join(f"{others[s]} {s}" for s in STATES if others[s]),
            )
        )
    lines = aligned([row[:5] for row in rows])
    return "\n".join(f"{line}  {row[5]}".rstrip() for line, row in zip(lines, rows))
