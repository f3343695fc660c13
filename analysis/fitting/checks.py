"""Checks of the arguments of a fit."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVELS = (1e-9, 1 - 1e-9)  # of intervals
_TOO_FAR = 1e12  # from a laptop's budgets to the largest ever trained: beyond it, a typing error


def positive(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """As float64. Raises ValueError naming the first that is not finite and above 0."""
    array = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if bad.size:
        at = f"[{bad[0]}]" if array.ndim else ""
        more = f"; {bad.size} of {array.size} are not" if array.size > 1 else ""
        raise ValueError(f"{name}{at}={float(array.flat[bad[0]])} must be finite and above 0{more}")
    return array


def times_beyond(what: str, budget: float, low: float, high: float) -> float:
    """How many times a budget is outside of those that were fitted, low to high; below 1: inside.

    Raises ValueError, of `what`, where no law is a guide.
    """
    factor = max(budget / high, low / budget)
    if factor > _TOO_FAR:
        raise ValueError(
            f"{what} is {factor:.3g} times beyond the budgets that were fitted, {low:.3g} to "
            f"{high:.3g} FLOPs: no law is a guide there"
        )
    return factor


def check_level(level: float) -> None:
    """Raises ValueError unless 0 < level < 1, and so that quantiles at it are finite."""
    if not LEVELS[0] <= level <= LEVELS[1]:
        raise ValueError(
            f"level={level!r} must be between 0 and 1, e.g. 0.95, and 1e-9 from both at least"
        )


def check_sparsity(values: ArrayLike) -> NDArray[np.float64]:
    """As float64. Raises ValueError naming the first that is not 0 or more and below 1."""
    array = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~((array >= 0) & (array < 1)))
    if bad.size:
        at = f"[{bad[0]}]" if array.ndim else ""
        raise ValueError(
            f"sparsity{at}={float(array.flat[bad[0]])} must be 0 or more and below 1: it is the "
            "share that is not active"
        )
    return array
