"""Noise of each curve of a model: its own scatter, drawn towards the other curves'.

A curve of seven sizes has a scatter of four degrees of freedom, which is mostly luck. The scatter
of all curves is known better, and is wrong for all of them where one budget is noisier than the
rest. So the curves' variances are draws from one scaled inverse chi-squared distribution, as in
Smyth 2004 (doi:10.2202/1544-6115.1027, section 3). There its scale and degrees of freedom are
estimated; here both are averaged over, for a model has few curves.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from analysis.fitting.intervals import Array

ALIKE = (2.0, 4.0, 8.0, 16.0)  # degrees of freedom, beside infinity: one noise for all curves
_STEP = 0.2  # of the logarithm of the scale
_BEYOND = 4.0  # the scale reaches so many times beyond the lowest and highest scatter
_LOWEST = 1e-3  # of the highest scatter: less, of one degree of freedom, is luck
SHARED = 2  # exponents that all curves of a model have


class Noise(NamedTuple):
    """Standard deviation of a loss about its curve in nats, and its degrees of freedom."""

    sd: float
    dof: int


@dataclass(frozen=True, kw_only=True)
class Scatters:
    """Noises that G fits of a model's B curves allow.

    squares (G, B): of the residuals; dof (B,). alike, scale (K,): what the variances may be drawn
    from, nats; the last is one noise for all, whose scale is averaged over. logs (G, K): logarithms
    of the likelihoods.
    """

    squares: Array
    dof: Array
    alike: Array
    scale: Array
    logs: Array

    def draw(self, fit: np.ndarray, which: np.ndarray, rng: np.random.Generator) -> Array:
        """Standard deviations (S, B), of draws of a fit (S,) and a distribution (S,)."""
        squares, common = self.squares[fit], self.scale[which][:, None]
        one = which == len(self.alike) - 1
        prior = np.where(one, 0.0, self.alike[which])[:, None]
        held = np.where(one[:, None], 0.0, prior * common**2)
        dof = np.maximum(prior + self.dof, 1.0)
        own = np.sqrt((held + squares) / rng.chisquare(dof))
        total = np.sqrt(
            squares.sum(axis=1) / rng.chisquare(max(float(self.dof.sum()), 1.0), len(fit))
        )
        return np.where(one[:, None], total[:, None], own)

    def typical(self, squares: Array, shares: Array) -> list[Noise]:
        """Each curve's, of squares (B,): the mean of its variance over shares (K,) of the
        distributions; nan where there are no degrees of freedom. Two parameters are shared.
        """
        if not self.dof.any():
            return [Noise(float("nan"), 0)] * len(squares)
        k = len(self.alike) - 1
        free = max(float(self.dof.sum()) - SHARED, 1.0)
        prior = self.alike[:k, None]
        dof = prior + self.dof
        own = (prior * self.scale[:k, None] ** 2 + squares) / dof
        variances = np.vstack([own, np.full_like(squares, squares.sum() / free)])
        dofs = np.minimum(np.vstack([dof, np.full_like(squares, free)]), free)
        return [
            Noise(float(np.sqrt(variance)), int(n))
            for variance, n in zip(shares @ variances, shares @ dofs, strict=True)
        ]


def scatters(squares: Array, dof: Array) -> Scatters:
    """Noises that squares (G, B) allow, above 0 where there are degrees of freedom dof (B,).

    Without any, all fits are as likely, and the noise is unknown.
    """
    known = dof > 0
    if not known.any():
        nothing = np.array([np.inf]), np.array([np.nan]), np.zeros((len(squares), 1))
        return Scatters(
            squares=squares, dof=dof, alike=nothing[0], scale=nothing[1], logs=nothing[2]
        )
    best = squares[squares.sum(axis=1).argmin()]
    seen = np.sqrt(best[known] / dof[known])
    lowest = max(float(seen.min()), _LOWEST * float(seen.max())) / _BEYOND
    n = int(np.ceil(np.log(seen.max() * _BEYOND / lowest) / _STEP)) + 1
    scale = np.geomspace(lowest, seen.max() * _BEYOND, n)
    step = float(np.log(scale[1] / scale[0]))
    several = ALIKE if known.sum() > 1 else ()
    logs = [
        of_own(squares, dof, np.array(alike), np.array(one)).sum(axis=1) + np.log(step)
        for alike in several
        for one in scale
    ]
    alone = of_one(squares.sum(axis=1), float(dof.sum()))
    return Scatters(
        squares=squares,
        dof=dof,
        alike=np.array([*np.repeat(several, n), np.inf]),
        scale=np.array([*np.tile(scale, len(several)), np.nan]),
        logs=np.stack([*logs, alone], axis=1),
    )


def of_own(squares: Array, dof: Array, alike: Array, scale: Array) -> Array:
    """Logarithms of the likelihoods of curves' squares once their variances are integrated out,
    arrays that broadcast.
    """
    prior, after = alike / 2, (alike + dof) / 2
    held = alike * scale**2
    parts = special.gammaln(after) - after * np.log((held + squares) / 2)
    return np.asarray(parts + prior * np.log(held / 2) - special.gammaln(prior))


def of_one(squares: Array, dof: float) -> Array:
    """Same of one noise for all, squares and dof being their sums: the integral over its
    logarithm.
    """
    return np.asarray(special.gammaln(dof / 2) - np.log(2) - dof / 2 * np.log(squares / 2))
