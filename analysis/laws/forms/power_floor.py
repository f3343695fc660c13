"""L0 + K N^-a E^-b: a power law in experts with an irreducible loss, which Clark's lacks."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.fitting.power_sum import power_sum
from analysis.laws.law import Centre, Law, Start, Variables, floor_texts, held

NAMES = ("L0", "K", "a", "b")
FLOORS = (0.02, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97)  # shares of the lowest loss to start from
AT_BOUND = floor_texts("L0", ": an irreducible loss is not identifiable from these runs")


def start_of(share: float, n: Array, e: Array, loss: Array, one_size: bool) -> list[float]:
    """theta for a floor of this share: ln(L - L0) is linear in ln N and in e, the ln of experts."""
    floor = share * loss.min()
    columns = [np.ones_like(n), -e] if one_size else [np.ones_like(n), -n, -e]
    solved, *_ = np.linalg.lstsq(np.stack(columns, axis=1), np.log(loss - floor), rcond=None)
    k, a, b = (solved[0], 0.0, solved[1]) if one_size else solved
    return [float(np.log(floor)), float(k), float(a), float(b)]


def box_of(loss: Array, fixed: tuple[str, ...]) -> Array:
    """(2, 4), of theta = ln L0, ln K at the centre, a and b."""
    top = float(np.log(loss.min()))
    box = np.array([[top - 9.2, top - 30, -1.0, -2.0], [top, top + 30, 3.0, 3.0]])
    return held(NAMES, fixed, box)


def natural(theta: Array, centre: Centre) -> Array:
    """L0, K, a and b."""
    floor, k, a, b = theta[:, :4].T
    return np.column_stack([np.exp(floor), np.exp(k + a * centre["N"]), a, b])


def _model(at: Variables, centre: Centre) -> Model:
    n, e = at.log("N") - centre["N"], at.log("E")
    zero, one = np.zeros_like(n), np.ones_like(n)
    return power_sum(
        [np.stack([one, zero, zero, zero], axis=1), np.stack([zero, one, -n, -e], axis=1)]
    )


def _start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    n, e = at.log("N") - centre["N"], at.log("E")
    rows = [start_of(share, n, e, loss, "a" in fixed) for share in FLOORS]
    lower, upper = box_of(loss, fixed)
    return Start(starts=np.array(rows), lower=lower, upper=upper)


LAW = Law(
    name="power_floor",
    formula="L = L0 + K N^-a E^-b",
    source="a power law with an irreducible loss, which Clark's lacks",
    names=NAMES,
    variables="NE",
    model=_model,
    start=_start,
    natural=natural,
    distinct={"E": 2},
    left_out={"N": ("a",)},
    at_bound=AT_BOUND,
)
