"""log10 L, bilinear in log10 N and log10 E: Clark 2022 (arXiv:2202.01169), eq. 1 unsaturated."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.laws.law import Centre, Law, Start, Variables, held

LN10 = float(np.log(10.0))
LIMITS = np.array([5.0, 5.0, 5.0, 50.0])  # of a, b, c and d
_NAMES = ("a", "b", "c", "d")


def log10_size(at: Variables, centre: Centre) -> Array:
    """log10 N less its mean over the runs, where theta's b and d are taken."""
    return np.log10(at.N) - centre["N"] / LN10


def bilinear(theta: Array, centre: Centre) -> Array:
    """a, b, c, d of log10 N, from those of log10 N less its mean."""
    a, b, c, d = theta[:, :4].T
    middle = centre["N"] / LN10
    return np.column_stack([a, b - c * middle, c, d - a * middle])


def _model(at: Variables, centre: Centre) -> Model:
    n, e = log10_size(at, centre), np.log10(at.E)
    design = LN10 * np.stack([n, e, n * e, np.ones_like(n)], axis=1)

    def model(theta: Array) -> tuple[Array, Array]:
        return theta @ design.T, np.broadcast_to(design, (len(theta), *design.shape))

    return model


def _start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    lower, upper = held(_NAMES, fixed, np.stack([-LIMITS, LIMITS]))
    level = np.array([[0.0, 0.0, 0.0, np.log10(loss).mean()]])
    return Start(starts=level, lower=lower, upper=upper)


LAW = Law(
    name="loglinear",
    formula="log10 L = a log10 N + b log10 E + c log10 N log10 E + d",
    source="Clark 2022 (arXiv:2202.01169), eq. 1 without saturation",
    names=_NAMES,
    variables="NE",
    model=_model,
    start=_start,
    natural=bilinear,
    distinct={"E": 2},
    left_out={"N": ("a", "c")},
)
