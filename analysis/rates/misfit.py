"""Whether the skewed curves of a series' cells describe the losses, by place on the curve.

A shape that is wrong is wrong in all cells at the same distance from the best rate. So what the
curves leave is compared with functions of that distance which all cells share.
"""

# isoflop/lack_of_fit.py asks the same of isoFLOP curves in another way. There a misfit goes with
# the budget too, and a kernel in both looks for it; powers would need their products. Here it goes
# with the distance alone, in cells of four to nine rates, and the chance also chooses the window,
# often from a noise that was given or that seeds tell: an F test is exact for these, where the
# score test takes the noise of the points themselves.

from collections.abc import Sequence

import numpy as np
from scipy import stats

from analysis.fitting.intervals import Array
from analysis.isoflop.shape import FittedShape
from analysis.rates.form import Apart

_POWERS = (3, 4, 5, 6)  # of the distance: a cell's own curve has those below
_LEAST = 3  # degrees of freedom of what is compared with
ROUNDING = 1e-7  # nats: scatter below it is no noise


def chance_of_misfit(
    u: Sequence[Array],
    losses: Sequence[Array],
    shapes: Sequence[FittedShape],
    seeds: tuple[float, int],
    known: float | None,
) -> float:
    """Chance that noise alone leaves as much as these curves do, at distances from their
    lowest points; nan where too few points are left to tell.

    u, losses: an array (n,) for each cell, losses of equal noise; seeds: the sum of squares of
    seeds about their means and its degrees of freedom, which know the noise too; known: the noise,
    in nats. An F test of four powers of the distance, beside each cell's own three numbers and the
    exponents that cells share; of known noise by chi-squared.
    """
    apart = [Apart.of(*cell, _POWERS) for cell in zip(u, losses, shapes, strict=True)]
    left = np.concatenate([one.without(one.residuals) for one in apart])
    shared = _basis(np.concatenate([one.without(one.tangents) for one in apart]))
    powers = np.concatenate([one.without(one.powers) for one in apart])
    left = _without(shared, left)
    beside = _basis(_without(shared, powers))
    free = len(left) - 3 * len(u) - shared.shape[1]
    n = min(beside.shape[1], free if known is not None or seeds[1] else free - _LEAST)
    if n < 1:
        return float("nan")
    gained = float(((beside[:, :n].T @ left) ** 2).sum())
    if known is not None:
        return float(stats.chi2.sf(gained / known**2, n))
    rest, dof = max(float(left @ left) - gained, 0.0) + seeds[0], free - n + seeds[1]
    if dof < _LEAST or rest < dof * ROUNDING**2:
        return float("nan")
    return float(stats.f.sf(gained / n / (rest / dof), n, dof))


def _without(basis: Array, values: Array) -> Array:
    """values (n,) or (n, m) less their part along an orthonormal basis (n, k)."""
    return values - basis @ (basis.T @ values)


def _basis(X: Array) -> Array:
    """An orthonormal basis of the columns of X, in their order, less those that depend on earlier
    ones.
    """
    found: list[Array] = []
    for column in X.T:
        size = np.linalg.norm(column)
        for _ in range(2):  # twice: once leaves rounding
            for one in found:
                column = column - one * (one @ column)
        if (norm := np.linalg.norm(column)) > 1e-6 * size and norm > 0:
            found.append(column / norm)
    return np.stack(found, axis=1) if found else np.empty((len(X), 0))
