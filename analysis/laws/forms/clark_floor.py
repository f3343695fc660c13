"""L0 + K N^-a E'^-b: Clark's saturating number of experts with an irreducible loss."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.laws import saturation as clark
from analysis.laws.forms import power_floor
from analysis.laws.law import Centre, Law, Start, Variables


def _model(at: Variables, centre: Centre) -> Model:
    n = at.log("N") - centre["N"]

    def model(theta: Array) -> tuple[Array, Array]:
        floor, k, a, b = (column[:, None] for column in theta[:, :4].T)
        e, by_kappa, by_max = clark.saturation(at.E, theta[:, 4], theta[:, 5])
        power = k - a * n - b * e
        log_loss = np.logaddexp(floor, power)
        share = np.exp(power - log_loss)
        columns = [1 - share, share, -share * n, -share * e]
        columns += [-share * b * by_kappa, -share * b * by_max]
        return log_loss, np.stack(columns, axis=-1)

    return model


def _start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    n = at.log("N") - centre["N"]
    rows = []
    for log_kappa in clark.KAPPA_STARTS[::2]:
        for log_max in clark.CAP_STARTS[1::2]:
            e, *_ = clark.saturation(at.E, np.array([log_kappa]), np.array([log_max]))
            rows += [
                [*power_floor.start_of(share, n, e[0], loss, "a" in fixed), log_kappa, log_max]
                for share in power_floor.FLOORS[::2]
            ]
    lower, upper = power_floor.box_of(loss, fixed)
    return Start(
        starts=np.array(rows),
        lower=np.array([*lower, clark.KAPPA[0], clark.CAP[0]]),
        upper=np.array([*upper, clark.KAPPA[1], clark.CAP[1]]),
    )


def _natural(theta: Array, centre: Centre) -> Array:
    ends = clark.start_and_max(theta[:, 4], theta[:, 5])
    return np.column_stack([power_floor.natural(theta, centre), *ends])


LAW = Law(
    name="clark_floor",
    formula="L = L0 + K N^-a E'^-b, E' as in clark",
    source="Clark's saturation with an irreducible loss",
    names=(*power_floor.NAMES, "E_start", "E_max"),
    variables="NE",
    model=_model,
    start=_start,
    natural=_natural,
    distinct={"E": 4},
    left_out={"N": ("a",)},
    at_bound={**power_floor.AT_BOUND, **clark.AT_BOUND},
)
