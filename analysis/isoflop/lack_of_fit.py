"""Whether all curves of a model miss their points in a pattern that noise does not have.

Curves that are compared with each other alone are blind to what all of them miss. Noise of
different runs is independent; the misfit of a wrong form is alike for sizes and budgets that are
near each other, and an error that runs of one size share is the same at all their budgets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.pattern import LEAST, find_pattern
from analysis.isoflop.misfit import ROUNDING
from analysis.isoflop.scatter import SHARED, Noise
from analysis.isoflop.shape import FittedShape, along_exponents, columns_at
from analysis.isoflop.slices import EXPONENTS

_NEAR = 0.35  # in size, of the largest distance from a minimum on the log scale
_NEAR_BUDGETS = 0.45 * np.log(10)  # in ln(budget)


class Left(NamedTuple):
    """Residuals that curves leave of a model's points (n,), in their noises sd (n,); moves (n,
    p): the directions in which the curves' numbers and their exponents, to first order, move them.
    """

    off: Array
    moves: Array
    sd: Array

    @staticmethod
    def of(
        shapes: Sequence[FittedShape], noises: Sequence[Noise], u: Sequence[Array]
    ) -> "Left | None":
        """At the likeliest exponents; u: the places of the points (n,). None where too little is
        left to tell.
        """
        sd = np.array([noise.sd for noise in noises])
        moves = _moves(shapes, sd, u)
        small = all(shape.rmse < ROUNDING for shape in shapes)
        if len(moves) - moves.shape[1] < LEAST or small or not np.isfinite(sd).all():
            return None
        off = np.concatenate([shape.scaled / s for shape, s in zip(shapes, sd, strict=True)])
        return Left(off=off, moves=moves, sd=np.repeat(sd, [len(places) for places in u]))


def lack_of_fit(
    shapes: Sequence[FittedShape],
    noises: Sequence[Noise],
    u: Sequence[Array],
    budgets: Sequence[float],
) -> tuple[str, float] | None:
    """Why the curves of one model do not describe its points, in words, and the chance of it by
    noise; None if they do.

    shapes: at the likeliest exponents, u: the places of their points (n,), noises: of each curve,
    which its points are measured in.

    The test is of the residuals' covariance: whether residuals of points near each other, in the
    place on the curve and in the budget, agree (fitting.pattern, with a Gaussian kernel). The
    exponents are taken to first order, and the curves' noises as known.
    """
    left = Left.of(shapes, noises, u)
    if left is None:
        return None
    found = find_pattern(left.off, left.moves, _kernel(shapes, u, budgets))
    if not found.is_lack:
        return None
    typical = float(np.sqrt(np.mean((found.missed * left.sd) ** 2)))
    text = (
        f"the curves miss this model's points in a pattern, by about {typical:.2g} nats "
        f"(p={found.chance:.1g}): its losses have another form, so minima, intervals, what other "
        "sizes cost and extrapolations may be off by more than the intervals say"
    )
    return text, found.chance


def _kernel(shapes: Sequence[FittedShape], u: Sequence[Array], budgets: Sequence[float]) -> Array:
    """(n, n), 1 for points at one place on curves of one budget."""
    places = np.concatenate(
        [
            at - (shape.u_opt if np.isfinite(shape.u_opt) else shape.centre)
            for shape, at in zip(shapes, u, strict=True)
        ]
    )
    of_budgets = np.repeat(np.log(budgets), [len(at) for at in u])
    near = _NEAR * float(np.abs(places).max())
    apart = [(x[:, None] - x) / w for x, w in ((places, near), (of_budgets, _NEAR_BUDGETS))]
    return np.exp(-(apart[0] ** 2 + apart[1] ** 2) / 2)


def _moves(shapes: Sequence[FittedShape], sd: Array, u: Sequence[Array]) -> Array:
    """Directions (n, p) that the points of curves can move in, in their noise."""
    ends = np.cumsum([0, *(len(places) for places in u)])
    n = int(ends[-1])
    own, shared = np.zeros((n, 3 * len(shapes))), np.zeros((n, SHARED))
    for k, (shape, places) in enumerate(zip(shapes, u, strict=True)):
        rows = slice(ends[k], ends[k + 1])
        root = np.sqrt(shape.weights)[:, None] / sd[k]
        v = places - shape.centre
        own[rows, 3 * k : 3 * k + 3] = columns_at(v, shape.alpha, shape.beta) * root
        numbers = np.array([shape.a, shape.slope, shape.level])
        shared[rows] = along_exponents(v, shape.alpha, shape.beta, numbers) * root
    # One at an end of its range is held there: the points would have it go on
    first = shapes[0]
    inside = [EXPONENTS[0] < value < EXPONENTS[1] for value in (first.alpha, first.beta)]
    return np.hstack([own, shared[:, inside]])
