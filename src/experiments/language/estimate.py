"""Time that runs take, before any has been measured."""

from collections.abc import Sequence

from experiments.budget.traffic import step_bytes
from experiments.points.memory import moment_bytes
from experiments.points.point import Point


def assumed_rate(point: Point) -> float:
    """FLOP/s that estimates assume: as configured, else a share of a matrix product's.

    On a GPU a quarter. On a CPU a share that grows with the width, as `bench trunk` finds it of
    dense models, fused, in float32: 0.25 at d=32, 0.52 at 64, 0.65 at 128, 0.74 at 256.
    """
    given, width = point.config.trainer.flops_per_second, point.transformer.d_model
    if given is not None:
        return given
    share = 0.25 if point.device.accelerator == "cuda" else 0.95 * width / (width + 70)
    return share * point.peak_flops()


def seconds_of(point: Point, flops_per_second: float) -> float:
    """Seconds of the run's own steps. On a cluster's card reading rows and stepping weights takes
    the time of its bandwidth, beside that of the products.
    """
    seconds = point.own_flops / (flops_per_second * n_devices(point))
    if (bandwidth := memory_bandwidth(point)) is None:
        return seconds
    n_bytes = step_bytes(
        point.plan.cost,
        n_tokens=point.plan.batch_tokens // point.ranks.world_size,
        n_micro=point.ranks.n_micro,
        moments=moment_bytes(
            point.config.optim, point.transformer, point.table_ranks, by_rows=False
        ),
        table_gradient=point.config.optim.table_gradient,
        table_dtype=getattr(point.config.model, "table_dtype", "float32"),
        table_ranks=point.table_ranks,
    )
    return seconds + (point.plan.n_steps - point.first_step) * n_bytes / bandwidth


def n_devices(point: Point) -> int:
    """Those that train the run together; processes on a CPU share it."""
    return point.ranks.world_size if point.device.accelerator == "cuda" else 1


def memory_bandwidth(point: Point) -> float | None:
    """Bytes/s of the card's memory; None where the time is known without."""
    given, card = point.config.trainer.flops_per_second, point.device.card
    return None if card is None or given is not None else card.bandwidth


def seconds_of_all(points: Sequence[Point]) -> float | None:
    """Seconds of these runs one after the other, as a plan says them: at the first one's rate.

    None of a GPU of this machine, unless trainer.flops_per_second is given: to measure it takes
    memory that its runs would lack.
    """
    first = points[0]
    known = first.device.accelerator != "cuda" or first.device.sheet_flops is not None
    if not known and first.config.trainer.flops_per_second is None:
        return None
    rate = assumed_rate(first)
    return sum(seconds_of(point, rate) for point in points)
