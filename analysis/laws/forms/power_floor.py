"""L0 + K N^-a E^-b: a power law in experts with an irreducible loss, which Clark's lacks."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import side_by_side
from analysis.laws.law import Centre, floor_texts
from analysis.laws.size_and_experts import SizeAndExperts

_FLOORS = (0.02, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97)  # shares of the lowest loss to start from


def _value(theta: Array, n: Array, e: Array) -> tuple[Array, Array, Array]:
    """theta: ln L0, ln K at the centre, a and b."""
    floor, k, a, b = (column[:, None] for column in theta.T)
    power = k - a * n - b * e
    log_loss = np.logaddexp(floor, power)
    share = np.exp(power - log_loss)
    columns = [1 - share, share, -share * n, -share * e]
    return log_loss, side_by_side(columns), -share * b


def _starts(n: Array, e: Array, loss: Array, one_size: bool) -> list[list[float]]:
    """A row a floor, at which ln(L - L0) is linear in n and e."""
    one, rows = np.ones_like(n), []
    columns = np.stack([one, -e] if one_size else [one, -n, -e], axis=1)
    for floor in (share * loss.min() for share in _FLOORS):
        solved, *_ = np.linalg.lstsq(columns, np.log(loss - floor), rcond=None)
        k, a, b = (solved[0], 0.0, solved[1]) if one_size else solved
        rows.append([float(np.log(floor)), float(k), float(a), float(b)])
    return rows


def _box(loss: Array) -> Array:
    top = float(np.log(loss.min()))
    return np.array([[top - 9.2, top - 30, -1.0, -2.0], [top, top + 30, 3.0, 3.0]])


def _natural(theta: Array, centre: Centre) -> Array:
    floor, k, a, b = theta.T
    return np.column_stack([np.exp(floor), np.exp(k + a * centre["N"]), a, b])


POWER_FLOOR = SizeAndExperts(
    names=("L0", "K", "a", "b"),
    value=_value,
    starts=_starts,
    box=_box,
    natural=_natural,
    idle=("a",),
    logs=("L0", "K"),
    at_bound=floor_texts("L0", ": an irreducible loss is not identifiable from these runs"),
)
LAW = POWER_FLOOR.law(
    name="power_floor",
    formula="L = L0 + K N^-a E^-b",
    source="a power law with an irreducible loss, which Clark's lacks",
)
