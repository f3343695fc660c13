"""Clark's law, bilinear in log10 N and the logarithm of a number of experts that saturates."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.laws.forms.loglinear import LIMITS, LN10, bilinear, log10_size
from analysis.laws.law import Centre, Law, Start, Variables, held
from analysis.laws.saturation import (
    AT_BOUND,
    CAP,
    CAP_STARTS,
    KAPPA,
    KAPPA_STARTS,
    saturation,
    start_and_max,
)

_NAMES = ("a", "b", "c", "d", "E_start", "E_max")


def _model(at: Variables, centre: Centre) -> Model:
    n = log10_size(at, centre)

    def model(theta: Array) -> tuple[Array, Array]:
        a, b, c, d = (column[:, None] for column in theta[:, :4].T)
        log_e, by_kappa, by_max = saturation(at.E, theta[:, 4], theta[:, 5])
        e = log_e / LN10
        slope = b + c * n
        jacobian = np.stack(
            [
                np.broadcast_to(LN10 * n, e.shape),
                LN10 * e,
                LN10 * n * e,
                np.full(e.shape, LN10),
                slope * by_kappa,
                slope * by_max,
            ],
            axis=-1,
        )
        return LN10 * (a * n + slope * e + d), jacobian

    return model


def _start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    n, target = log10_size(at, centre), np.log10(loss)
    one_size = "a" in fixed
    starts = []
    for log_kappa in KAPPA_STARTS:
        for log_max in CAP_STARTS:
            log_e, *_ = saturation(at.E, np.array([log_kappa]), np.array([log_max]))
            e = log_e[0] / LN10
            columns = [e, np.ones_like(e)] if one_size else [n, e, n * e, np.ones_like(e)]
            solved, *_ = np.linalg.lstsq(np.stack(columns, axis=1), target, rcond=None)
            a, b, c, d = (0.0, solved[0], 0.0, solved[1]) if one_size else solved
            starts.append([a, b, c, d, log_kappa, log_max])
    box = [[*-LIMITS, KAPPA[0], CAP[0]], [*LIMITS, KAPPA[1], CAP[1]]]
    lower, upper = held(_NAMES, fixed, np.array(box))
    return Start(starts=np.array(starts), lower=lower, upper=upper)


def _natural(theta: Array, centre: Centre) -> Array:
    return np.column_stack([bilinear(theta, centre), *start_and_max(theta[:, 4], theta[:, 5])])


LAW = Law(
    name="clark",
    formula="log10 L = a log10 N + b log10 E' + c log10 N log10 E' + d, "
    "1/E' = 1/(E-1+1/(1/E_start-1/E_max)) + 1/E_max",
    source="Clark 2022 (arXiv:2202.01169), eqs. 1 and 2",
    names=_NAMES,
    variables="NE",
    model=_model,
    start=_start,
    natural=_natural,
    distinct={"E": 4},
    left_out={"N": ("a", "c")},
    at_bound=AT_BOUND,
)
