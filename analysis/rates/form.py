"""Error of the form of skewed curves.

A true shape may be neither a parabola nor a slice. Two further numbers, which all cells share, let
it differ: the fifth and the sixth power of the distance from the best rate (the exponents are about
the third and the fourth). They are worth at most a part of the curve's own rise, SHARE, before the
losses are seen, and what these say of them moves the best rates, with an error that all cells have
in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fitting.intervals import Array
from analysis.isoflop.shape import (
    FittedShape,
    along_exponents,
    columns_at,
    compute_gradient,
    lowest,
)

SHARE = 0.5  # standard deviation of each power's part, of the curve's rise at the farthest rates
_POWERS = (5, 6)
_STEP = 1e-3  # of exponents, for the slopes along them
_ROUNDING = 1e-6  # nats: less is no noise
_SPREAD = 1.0  # standard deviation of an exponent before the losses are seen


@dataclass(frozen=True, kw_only=True)
class FormError:
    """shift (K,): what is added to each cell's lowest point; root (K, 2): times two normal numbers,
    the same for all cells, it is the shift's error.
    """

    shift: Array
    root: Array

    def draws(self, n: int, rng: np.random.Generator) -> Array:
        """Shifts (n, K)."""
        return self.shift + rng.normal(size=(n, self.root.shape[1])) @ self.root.T


def form_error(
    u: Sequence[Array], losses: Sequence[Array], shapes: Sequence[FittedShape], sd: float
) -> FormError:
    """Error of curves (K) of equal noise sd, in nats; u, losses: an array (n,) for each.

    By least squares, linear about the curves, with normal priors of the powers and of the
    exponents. Where sd is unknown nothing is learned.
    """
    apart = [Apart.of(*cell, _POWERS) for cell in zip(u, losses, shapes, strict=True)]
    farthest = max(float(np.abs(one.x).max()) for one in apart)
    scale = np.array([farthest ** (2.0 - k) for k in _POWERS])
    heights = [max(shape.a, 0.0) for shape in shapes]
    powers = [h * one.powers * scale for h, one in zip(heights, apart, strict=True)]
    T = np.concatenate([one.without(one.tangents) for one in apart])
    P = np.concatenate([one.without(p) for one, p in zip(apart, powers, strict=True)])
    r = np.concatenate([one.without(one.residuals) for one in apart])
    n = P.shape[1]
    design = np.hstack([P, T])
    variance = max(sd, _ROUNDING) ** 2 if np.isfinite(sd) else 1.0
    prior = np.array([SHARE**-2] * n + [_SPREAD**-2] * T.shape[1])
    posterior = np.linalg.inv(design.T @ design / variance + np.diag(prior))
    known = posterior @ (design.T @ r) / variance if np.isfinite(sd) else np.zeros(len(prior))
    # the exponents that follow the powers, and each cell's own numbers that follow both
    within = np.linalg.inv(T.T @ T / variance + np.diag(prior[n:]))
    follow = -within @ (T.T @ P) / variance
    moved = np.stack([one.moves(p, follow) for one, p in zip(apart, powers, strict=True)])  # (K, n)
    root = moved @ np.linalg.cholesky(posterior[:n, :n])
    return FormError(shift=moved @ known[:n], root=root)


@dataclass(frozen=True, kw_only=True)
class Apart:
    """A cell's losses about its curve. x (n,): distances from the lowest point, or of a curve
    without one from the nearest end; residuals (n,); columns (n, 3); tangents (n, 2): slopes of the
    curve along its exponents; powers (n, k): of x.
    """

    shape: FittedShape
    x: Array
    residuals: Array
    columns: Array
    tangents: Array
    powers: Array

    @staticmethod
    def of(u: Array, losses: Array, shape: FittedShape, powers: Sequence[int]) -> "Apart":
        v = u - shape.centre
        lowest = np.clip(np.nan_to_num(shape.u_opt, nan=shape.centre), u[0], u[-1])
        x = u - lowest
        own = columns_at(v, shape.alpha, shape.beta)
        numbers = np.array([shape.a, shape.slope, shape.level])
        return Apart(
            shape=shape,
            x=x,
            residuals=losses - own @ numbers,
            columns=own,
            tangents=along_exponents(v, shape.alpha, shape.beta, numbers),
            powers=np.stack([x**k for k in powers], axis=1),
        )

    def without(self, values: Array) -> Array:
        """values (n,) or (n, m) less what the cell's own three numbers can imitate."""
        basis, _ = np.linalg.qr(self.columns)
        return np.asarray(values - basis @ (basis.T @ values), dtype=np.float64)

    def moves(self, powers: Array, follow: Array) -> Array:
        """How far the lowest point goes with each power (k,), its column (n, k) added to the curve,
        as the exponents `follow` (2, k) and the cell's own numbers are fitted again. 0 where it has
        none.
        """
        if not np.isfinite(self.shape.u_opt):
            return np.zeros(powers.shape[1])
        own = -np.linalg.lstsq(self.columns, powers + self.tangents @ follow)[0]
        alpha, beta = self.shape.alpha, self.shape.beta
        here = _place(self.shape, alpha, beta)
        beside = ((alpha + _STEP, beta), (alpha, beta + _STEP))
        along = np.array([_place(self.shape, *pair) - here for pair in beside]) / _STEP
        return np.nan_to_num(compute_gradient(self.shape) @ own + along @ follow)


def _place(shape: FittedShape, alpha: float, beta: float) -> float:
    """Lowest point beside the centre, at these exponents."""
    given = (np.array([value]) for value in (shape.a, shape.slope, alpha, beta))
    return float(lowest(*given)[0])
