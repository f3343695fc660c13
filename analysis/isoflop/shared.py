"""Errors that runs of one size, or of one budget, share: the noise of a curve does not show them.

A size has one initialisation and one shape of the model; a budget may have its data, or its
evaluation. An error of a size is the same at all budgets that have it, so it is seen where sizes
recur, and moves the minima together. One of a budget moves its curve up or down as a whole: the
best size stays, and only the scatter of the lowest losses about their law shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.fitting.intervals import Array
from analysis.fitting.pattern import CHANCE, find_pattern
from analysis.fitting.power_law import FrontierFit, frontier_model
from analysis.isoflop.lack_of_fit import Left
from analysis.isoflop.misfit import ROUNDING
from analysis.isoflop.scatter import Noise
from analysis.isoflop.shape import SAME, FittedShape, columns_at, compute_gradient

_RATIOS = np.geomspace(1e-3, 1e4, 141)  # of the variances: of a size's error to the noise


@dataclass(frozen=True, kw_only=True)
class SizeError:
    """An error that the runs of a size share: its standard deviation in nats, and the chance of
    such agreement by noise. u_moves, loss_moves (B, J): how the minima of curves go with the errors
    of J sizes.
    """

    sd: float
    chance: float
    u_moves: Array
    loss_moves: Array

    def __str__(self) -> str:
        return (
            f"losses of one size are off alike at its budgets, by about {self.sd:.2g} nats "
            f"(p={self.chance:.1g}): the laws' intervals have it, those of one budget as noise"
        )

    def draws(self, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Shifts (n, B) of the minima's places and losses."""
        errors = rng.normal(0.0, self.sd, (n, self.u_moves.shape[1]))
        return errors @ self.u_moves.T, errors @ self.loss_moves.T


def error_of_sizes(
    shapes: Sequence[FittedShape], noises: Sequence[Noise], u: Sequence[Array]
) -> SizeError | None:
    """Arguments as of lack_of_fit. None where no size recurs, or its runs do not agree (2 %).

    The standard deviation is of restricted maximum likelihood.
    """
    sizes, of = _sizes(u)
    left = Left.of(shapes, noises, u)
    if left is None or len(sizes) == len(of):
        return None
    own = (of[:, None] == np.arange(len(sizes))).astype(np.float64)  # (n, J)
    weights = np.concatenate([shape.weights for shape in shapes])
    scale = float(np.sqrt(np.mean(left.sd**2)))
    per_sd = own * (np.sqrt(weights) * scale / left.sd)[:, None]
    kernel = per_sd @ per_sd.T
    chance = find_pattern(left.off, left.moves, kernel).chance
    if chance >= CHANCE:
        return None
    every, _ = np.linalg.qr(left.moves, mode="complete")
    free = every[:, left.moves.shape[1] :]
    values, vectors = np.linalg.eigh(free.T @ kernel @ free)
    along = (vectors.T @ (free.T @ left.off)) ** 2
    variances = 1 + _RATIOS[:, None] * np.maximum(values, 0.0)
    logs = -np.log(variances).sum(axis=1) / 2
    logs -= len(along) / 2 * np.log((along / variances).sum(axis=1))
    best = int(logs.argmax())
    noise = float((along / variances[best]).mean())
    u_moves, loss_moves = zip(*map(_moved, shapes, u), strict=True)
    ends = np.cumsum([len(places) for places in u])[:-1]
    each = np.split(own, ends)
    return SizeError(
        sd=scale * float(np.sqrt(_RATIOS[best] * noise)),
        chance=chance,
        u_moves=np.stack([row @ z for row, z in zip(u_moves, each, strict=True)]),
        loss_moves=np.stack([row @ z for row, z in zip(loss_moves, each, strict=True)]),
    )


def _sizes(u: Sequence[Array]) -> tuple[Array, np.ndarray]:
    """Sizes (J,), and which each point (n,) has."""
    every = np.concatenate(u)
    order = np.argsort(every)
    new = np.diff(every[order], prepend=-np.inf) > SAME
    of = np.empty(len(every), dtype=int)
    of[order] = np.cumsum(new) - 1
    return every[order][new], of


def _moved(shape: FittedShape, places: Array) -> tuple[Array, Array]:
    """How the minimum's place and loss go with each point (n,), at these exponents."""
    X = columns_at(places - shape.centre, shape.alpha, shape.beta)
    numbers = shape.unscaled @ (X * shape.weights[:, None]).T
    if not np.isfinite(shape.u_opt):
        return np.zeros(len(places)), np.zeros(len(places))
    at = columns_at(np.array([shape.u_opt - shape.centre]), shape.alpha, shape.beta)[0]
    return compute_gradient(shape) @ numbers, at @ numbers


def error_of_budgets(
    law: FrontierFit, budgets: Array, losses: Array, covariance: Array, dof: int
) -> str | None:
    """Why the lowest losses (B,) are farther off their law than their errors explain; None if not.

    covariance (B, B): of these errors, from noises of so many degrees of freedom. By an F test.
    """
    free = len(budgets) - 3
    if free < 1 or dof < 1 or not np.isfinite(covariance).all() or np.diag(covariance).min() <= 0:
        return None
    value, jacobian = frontier_model(np.log(budgets))(np.array(law.theta)[None])
    missed = np.log(losses) - value[0]
    sd = float(np.sqrt(((missed * losses) ** 2).sum() / free))
    if sd < ROUNDING:
        return None
    root = np.linalg.cholesky(covariance / np.outer(losses, losses))
    off = np.linalg.solve(root, missed)
    along = jacobian[0] / np.linalg.norm(jacobian[0], axis=0)
    moves, _ = np.linalg.qr(np.linalg.solve(root, along))
    off = off - moves @ (moves.T @ off)
    ratio = float(off @ off) / free
    chance = float(stats.f.sf(ratio, free, dof))
    if chance >= CHANCE:
        return None
    return (
        f"lowest losses scatter by about {sd:.2g} nats about their law, {np.sqrt(ratio):.2g} times "
        f"their errors (p={chance:.1g}): the runs of a budget share an error, or the law has "
        "another form; best sizes stay, and the intervals of the lowest losses are too narrow"
    )
