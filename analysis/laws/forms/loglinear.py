"""log10 L, bilinear in log10 N and log10 E: Clark 2022 (arXiv:2202.01169), eq. 1 unsaturated."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.laws.law import Centre
from analysis.laws.size_and_experts import SizeAndExperts

_LN10 = float(np.log(10.0))
_LIMITS = np.array([5.0, 5.0, 5.0, 50.0])  # of a, b, c and d


def _value(theta: Array, n: Array, e: Array) -> tuple[Array, Array, Array]:
    """theta: a, b, c and d of log10 N less its mean over the runs."""
    a, b, c, d = (column[:, None] for column in theta.T)
    slope = b + c * n
    value = _LN10 * (a * n + slope * e + d)
    columns = (_LN10 * n, _LN10 * e, _LN10 * n * e, _LN10)
    jacobian = np.stack([np.broadcast_to(column, value.shape) for column in columns], axis=-1)
    return value, jacobian, slope


def _starts(n: Array, e: Array, loss: Array, one_size: bool) -> list[list[float]]:
    one = np.ones_like(n)
    columns = [e, one] if one_size else [n, e, n * e, one]
    solved, *_ = np.linalg.lstsq(np.stack(columns, axis=1), np.log10(loss), rcond=None)
    return [[0.0, solved[0], 0.0, solved[1]] if one_size else solved.tolist()]


def _natural(theta: Array, centre: Centre) -> Array:
    a, b, c, d = theta.T
    middle = centre["N"] / _LN10
    return np.column_stack([a, b - c * middle, c, d - a * middle])


LOGLINEAR = SizeAndExperts(
    names=("a", "b", "c", "d"),
    value=_value,
    starts=_starts,
    box=lambda loss: np.stack([-_LIMITS, _LIMITS]),
    natural=_natural,
    idle=("a", "c"),
    log=np.log10,
)
LAW = LOGLINEAR.law(
    name="loglinear",
    formula="log10 L = a log10 N + b log10 E + c log10 N log10 E + d",
    source="Clark 2022 (arXiv:2202.01169), eq. 1 without saturation",
    has_floor=False,
)
