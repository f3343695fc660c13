"""Whether residuals agree where points are near each other, as a misfit does and noise does not."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.quadratic_form import chance_above_zero

CHANCE = 0.02  # of a warning about noise alone
LEAST = 3  # degrees of freedom of what is compared with


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """chance: of residuals that agree so much where only noise is; missed (n,): what the fit
    misses, in the residuals' unit, if they are no noise.
    """

    chance: float
    missed: Array

    @property
    def is_lack(self) -> bool:
        return self.chance < CHANCE


def near_each_other(columns: Iterable[Array], near: float) -> Array:
    """Kernel (n, n) of points in columns (n,), less than 1 by this share of a column's range."""
    kernel = np.ones(())
    for x in columns:
        kernel = kernel * np.exp(-(((x[:, None] - x) / (near * (np.ptp(x) or 1.0))) ** 2) / 2)
    return kernel


def find_pattern(residuals: Array, moves: Array, kernel: Array) -> Pattern:
    """Pattern in residuals (n,) of one noise; moves (n, p): the directions that the fit can
    move points in; kernel (n, n): 1 for points at one place, less the farther apart they are.

    The test is of r'Kr / r'r: the score test of a Gaussian process beside the fit (as Zhang and Lin
    2003, Biostatistics 4, 57, have it for smooth functions). Its distribution under noise alone is
    that of a ratio of quadratic forms, with the fit taken to first order.
    """
    every, _ = np.linalg.qr(moves, mode="complete")
    free = every[:, moves.shape[1] :]
    seen = free.T @ kernel @ free
    r = free.T @ residuals
    ratio = float(r @ seen @ r / (r @ r))
    chance = chance_above_zero(np.linalg.eigvalsh(seen) - ratio)
    missed = (kernel @ free) @ np.linalg.solve(seen + np.eye(len(r)), r)
    return Pattern(chance=chance, missed=missed)
