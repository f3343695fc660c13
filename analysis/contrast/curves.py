"""Curves loss = lowest + k (u - u*)^2 of all layers and budgets, by one weighted least squares.

u = ln(size). Written as level + slope u + k u^2 they are linear in their numbers: with one
curvature k for all, and also where best sizes are a sum u* = of the layer + of the budget, for then
the slopes -2 k u* are such a sum too. So a lowest loss is level - slope^2 / 4k.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.contrast.points import Points
from analysis.fitting.intervals import Array
from analysis.fitting.status import FitError

Centres = Literal["free", "layer+budget"]
CENTRES: tuple[Centres, ...] = ("free", "layer+budget")
Curvature = Literal["one", "layer"]
CURVATURES: tuple[Curvature, ...] = ("one", "layer")
Of = Callable[[Array], tuple[float, Array]]  # numbers theta (p,) -> a value and its gradient (p,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """columns (S, p): of the points; level, slope, bend (cells, p): what a cell's level, slope and
    curvature are of the p numbers.
    """

    columns: Array
    level: Array
    slope: Array
    bend: Array

    def minimum(self, cell: int) -> Of:
        """Lowest loss of a cell's curve, nats/token."""

        def of(theta: Array) -> tuple[float, Array]:
            slope, k = float(self.slope[cell] @ theta), float(self.bend[cell] @ theta)
            at = -slope / (2 * k)
            value = float(self.level[cell] @ theta) + slope * at / 2
            return value, self.level[cell] + at * self.slope[cell] + at**2 * self.bend[cell]

        return of

    def place(self, cell: int) -> Of:
        """u* of a cell's curve."""

        def of(theta: Array) -> tuple[float, Array]:
            slope, k = float(self.slope[cell] @ theta), float(self.bend[cell] @ theta)
            at = -slope / (2 * k)
            return at, -(self.slope[cell] / 2 + at * self.bend[cell]) / k

        return of

    def curvature(self, cell: int) -> Of:
        """k of a cell's curve."""
        return lambda theta: (float(self.bend[cell] @ theta), self.bend[cell])


def summed(parts: Sequence[tuple[float, Of]]) -> Of:
    """Sum of functions, each times a factor."""

    def of(theta: Array) -> tuple[float, Array]:
        found = [(factor, *part(theta)) for factor, part in parts]
        gradient = np.sum([factor * by for factor, _, by in found], axis=0)
        return float(sum(factor * value for factor, value, _ in found)), gradient

    return of


def make_design(points: Points, centres: Centres = "free", curvature: Curvature = "one") -> Design:
    """Raises ValueError for options that don't go together, FitError where the points do not
    identify the numbers.
    """
    if centres not in CENTRES:
        raise ValueError(f"centres={centres!r} is not one of {', '.join(CENTRES)}")
    if curvature not in CURVATURES:
        raise ValueError(f"curvature={curvature!r} is not one of {', '.join(CURVATURES)}")
    if centres != "free" and curvature != "one":
        raise ValueError(
            f"centres={centres!r} needs one curvature: give curvature='one', or centres='free'"
        )
    cells = points.cells
    level = np.eye(len(cells))
    layers = _indicators([layer for layer, _ in cells], points.layers)
    if centres == "free":
        slope = level
    else:
        slope = np.hstack([layers, _indicators([b for _, b in cells], points.budgets)[:, 1:]])
    bend = layers if curvature == "layer" else np.ones((len(cells), 1))
    parts = [level, slope, bend]
    widths = np.cumsum([0, *(part.shape[1] for part in parts)])
    level, slope, bend = (
        np.pad(part, ((0, 0), (int(widths[i]), int(widths[-1] - widths[i + 1]))))
        for i, part in enumerate(parts)
    )
    u = points.u[:, None]
    columns = level[points.of] + u * slope[points.of] + u**2 * bend[points.of]
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        raise FitError(
            f"{len(points.u)} points in {len(cells)} curves do not identify the curvature and best "
            "sizes: more sizes are needed, three at least in one curve of each curvature"
        )
    return Design(columns=columns, level=level, slope=slope, bend=bend)


def _indicators(values: Sequence[object], kinds: Sequence[object]) -> Array:
    return np.array([[float(value == kind) for kind in kinds] for value in values])


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """Curves at given variances of the points. theta (p,), covariance (p, p); off (S,): losses
    less the curves; free (S,): how much of a point's noise is in it, 1 less its leverage; moves
    (p, S): how theta goes with the points.
    """

    design: Design
    theta: Array
    covariance: Array
    off: Array
    free: Array
    moves: Array

    @property
    def bends(self) -> Array:
        """Curvatures that differ, in nats."""
        return np.unique(self.design.bend, axis=0) @ self.theta


def fit_curves(design: Design, losses: Array, variance: Array) -> Curves:
    """By least squares of losses (S,) with variances (S,)."""
    root = 1 / np.sqrt(variance)
    scaled = design.columns * root[:, None]
    q, r = np.linalg.qr(scaled)
    inverse = np.linalg.inv(r)
    moves = inverse @ q.T * root
    theta = moves @ losses
    return Curves(
        design=design,
        theta=theta,
        covariance=inverse @ inverse.T,
        off=losses - design.columns @ theta,
        free=1 - (q**2).sum(axis=1),
        moves=moves,
    )
