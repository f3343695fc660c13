"""Runs that a model's other runs do not expect.

A run that was broken for a while, or had too high a rate, is far above its curve. With it the
budget's noise is many times what it is, and so are intervals, those of other budgets too: they take
the exponents from it. So curves are of the other runs, and such runs are named.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import special

from analysis.fitting.intervals import Array
from analysis.isoflop.flags import MIN_POINTS
from analysis.isoflop.misfit import LEAST
from analysis.isoflop.scatter import of_one, of_own
from analysis.isoflop.shape import columns
from analysis.isoflop.slices import Seeds, averaged

CHANCE = 0.01  # of one in a model that only noise is about; twice: single ones, and two at a budget
_OF_BUDGET = (0.02, 0.005)  # the same of one, of two, in a budget whose noise is its own
_SURE = 0.95  # share of the likelihood beside others of the budget as the ones to blame
_LARGEST = 1e-3  # nats: what is nearer to its curve does no harm
_SHARE = 3  # at most one of so many at a budget
_CLOSE = 30.0  # times the chance: what is looked at closely
_WEIGHTLESS = 1e-12  # beside the largest weight


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """point: its place in a curve; off: nats above the curve of the others; chance: of one so far
    off where there is only noise.
    """

    point: int
    off: float
    chance: float


def find_outliers(
    u: Sequence[Array], losses: Sequence[Array], weights: Sequence[Array]
) -> list[list[Outlier]]:
    """Those of each curve of one model; u, losses, weights (n,): as of fit_slices and Seeds.

    A point is one, or two of a budget are, where the others expect so high or low a loss with a
    chance below CHANCE, divided by the number of points (or pairs). What they expect is averaged
    over exponents and noises, as intervals are; with both known it is a Student's t (or F). It must
    also stand out from the scatter of its own budget, or noisier budgets would lose runs by luck;
    two more clearly than one, for a noisier budget is as common. No other points of the budget may
    be as likely to blame, MIN_POINTS stay, and one of three goes at most. The least likely is taken
    first, then the others are looked at again.
    """
    on = [np.ones(len(places), dtype=bool) for places in u]
    found: list[list[Outlier]] = [[] for _ in u]
    while True:
        spare = [
            min(len(kept) - MIN_POINTS, len(kept) // _SHARE) - int((~kept).sum()) for kept in on
        ]
        if max(spare) < 1 or sum(int(kept.sum()) - 3 for kept in on) < LEAST + 1:
            return found
        rest = _Rest(*([v[k] for v, k in zip(of, on, strict=True)] for of in (u, losses, weights)))
        worst = rest.worst(spare)
        if worst is None:
            return found
        k, points, chance = worst
        places = np.flatnonzero(on[k])[list(points)]
        for place, off in zip(places, rest.above(k, points), strict=True):
            found[k].append(Outlier(point=int(place), off=off, chance=chance))
        on[k][places] = False


class _Rest:
    """Curves of the points that are left, at G exponents, and K noises of them."""

    def __init__(
        self, u: Sequence[Array], losses: Sequence[Array], weights: Sequence[Array]
    ) -> None:
        nodes, shares, self._noises = averaged(u, losses, [Seeds.alone(w) for w in weights])
        self._root = [np.sqrt(w) for w in weights]
        self._dof = np.array([len(places) - 3.0 for places in u])
        self._best = np.array([shares.sum(axis=1).argmax()])
        self._every = np.arange(len(shares))
        self._off: list[Array] = []  # (G, n) each, in the noise of one run
        self._free: list[Array] = []  # (G, n, n): what of noise the residuals have
        for places, values, root in zip(u, losses, self._root, strict=True):
            basis, _ = np.linalg.qr(
                columns(places - places.mean(), nodes.alpha, nodes.beta) * root[:, None]
            )
            free = np.eye(len(root)) - basis @ np.swapaxes(basis, 1, 2)
            self._free.append(free)
            self._off.append(free @ ((values - values.mean()) * root))

    def worst(self, spare: Sequence[int]) -> tuple[int, tuple[int, ...], float] | None:
        """Curve, its points, and their chance; spare: how many of each curve may go."""
        for n in (1, 2):
            sets = [
                (k, points)
                for k, r in enumerate(self._off)
                if spare[k] >= n and self._dof.sum() - n >= LEAST
                for points in combinations(range(r.shape[1]), n)
            ]
            limit = CHANCE / max(len(sets), 1)
            close = [one for one in sets if self._chance(*one, self._best) < _CLOSE * limit]
            chances = sorted((self._chance(*one, self._every), *one) for one in close)
            for chance, k, points in chances:
                if chance < limit and self._is_one(k, points):
                    return k, points, chance
        return None

    def above(self, k: int, points: tuple[int, ...]) -> list[float]:
        """How far the points are above the curve of the others, nats."""
        off, free = self._curve(k, points, self._best)
        above = np.linalg.solve(free[0], off[0]) / self._root[k][list(points)]
        return [float(off) for off in above]

    def _is_one(self, k: int, points: tuple[int, ...]) -> bool:
        if max(map(abs, self.above(k, points))) < _LARGEST:
            return False
        stands_out = self._chance_in_budget(k, points) < _OF_BUDGET[len(points) - 1]
        return stands_out and self._blame(k, points) > _SURE

    def _chance_in_budget(self, k: int, points: tuple[int, ...]) -> float:
        """Chance of some that stand out so far from a curve's own scatter, by an F test."""
        n, squares = len(points), self._noises.squares[self._best, k]
        left = np.maximum(1 - self._gain(k, points, self._best) / squares, 0.0)
        chance = float(special.betainc((self._dof[k] - n) / 2, n / 2, left)[0])
        return chance * math.comb(self._off[k].shape[1], n)

    def _blame(self, k: int, points: tuple[int, ...]) -> float:
        """Share of the likelihood that these have among as many points of the budget."""
        logs = {}
        for other in combinations(range(self._off[k].shape[1]), len(points)):
            _, free = self._curve(k, other, self._every)
            of_others = self._without(k, self._gain(k, other, self._every), len(other), self._every)
            # the three numbers of the curve, which fewer points know less
            logs[other] = special.logsumexp(of_others[0].T - np.linalg.slogdet(free)[1] / 2)
        return float(np.exp(logs[points] - special.logsumexp(list(logs.values()))))

    def _curve(self, k: int, points: tuple[int, ...], at: np.ndarray) -> tuple[Array, Array]:
        own = list(points)
        return self._off[k][at][:, own], self._free[k][at][:, own][:, :, own]

    def _gain(self, k: int, points: tuple[int, ...], at: np.ndarray) -> Array:
        """(G,): what the squares of curve k lose without the points."""
        off, free = self._curve(k, points, at)
        return np.asarray((off * np.linalg.solve(free, off[..., None])[..., 0]).sum(axis=1))

    def _chance(self, k: int, points: tuple[int, ...], at: np.ndarray) -> float:
        """Chance of a loss as unlikely as the points', at some of the exponents."""
        n, gain = len(points), self._gain(k, points, at)
        logs, squares, dof = self._without(k, gain, n, at)
        weights = np.exp(logs - logs.max())
        on = weights > _WEIGHTLESS
        share = (squares / (squares + gain[:, None]))[on]
        tails = special.betainc(np.broadcast_to(dof, on.shape)[on] / 2, n / 2, share)
        return float(weights[on] @ tails / weights[on].sum())

    def _without(self, k: int, gain: Array, n: int, at: np.ndarray) -> tuple[Array, Array, Array]:
        """Without n points of curve k: logarithms of the likelihoods (G, K) of the others, the
        squares (G, K) that know its noise, and their degrees of freedom (K,).
        """
        noises, gain = self._noises, gain[:, None]
        squares = noises.squares[at]
        before, total = squares[:, [k]], squares.sum(axis=1, keepdims=True)
        own, every = (np.maximum(s - gain, np.finfo(np.float64).eps * s) for s in (before, total))
        alike, scale = noises.alike[:-1], noises.scale[:-1]
        dof, free = self._dof[k] - n, float(self._dof.sum()) - n
        change = of_own(own, dof, alike, scale) - of_own(before, self._dof[k], alike, scale)
        return (
            np.hstack([noises.logs[at][:, :-1] + change, of_one(every, free)]),
            np.hstack([alike * scale**2 + own, every]),
            np.append(alike + dof, free),
        )
