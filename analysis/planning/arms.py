"""IsoFLOP curves of a model, linearised: what their minima's errors are, and with more runs.

A curve is a q(v) + s s(v) + c, v = ln(size) - its minimum, with the exponents that the model's
curves share (isoflop.slices). There a is half its curvature, s is 0, the minimum moves by
-1 / (2 a) per s, and its loss by 1 per c. So errors are those of linear least squares, with the
exponents as two more columns. The exponents' range is let in as its variance: without runs they
are anywhere in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.fitting.intervals import Array
from analysis.fitting.status import FitError
from analysis.isoflop.curves import IsoFLOPCurve, IsoFLOPFit
from analysis.isoflop.shape import SAME, along_exponents, columns_at
from analysis.isoflop.slices import EXPONENTS
from analysis.table.cells import best_of_cells

_CURVED = 0.05  # of ln(size), for a curvature


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """u_opt, loss_opt: its minimum; a: half its curvature; sd: the noise of a run in nats; u (n,):
    the places of its points; weights (n,): the runs that each is the mean of.
    """

    budget: float
    u_opt: float
    loss_opt: float
    a: float
    sd: float
    u: Array
    weights: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """A model's curves with a minimum inside their sizes, budgets ascending. dof: of their noise;
    is_lack: seeds bring no point nearer to its curve, for runs of a size share what it misses.
    """

    model: str
    alpha: float
    beta: float
    dof: int
    is_lack: bool
    curves: tuple[Curve, ...]

    @property
    def log_budgets(self) -> Array:
        return np.log([curve.budget for curve in self.curves])

    def curve(self, budget: float) -> Curve | None:
        near = [c for c in self.curves if abs(np.log(c.budget / budget)) < 1e-6]
        return near[0] if near else None

    def plus(self, budget: float, places: Sequence[float]) -> "Arm":
        """With one more run at each of these places, on a curve of its own at a new budget."""
        old = self.curve(budget) or self.expected(budget)
        u, weights = old.u, old.weights
        added = 0
        for place in places:
            same = np.abs(u - place) < SAME
            if same.any():
                weights = weights + same * (0.0 if self.is_lack else 1.0)
                added += 0 if self.is_lack else 1
            else:
                u, weights = np.append(u, place), np.append(weights, 1.0)
                added += 1
        new = replace(old, u=u, weights=weights)
        others = [c for c in self.curves if c is not self.curve(budget)]
        free = added - (3 if self.curve(budget) is None else 0)
        curves = tuple(sorted([*others, new], key=lambda c: c.budget))
        return replace(self, curves=curves, dof=self.dof + free)

    def expected(self, budget: float) -> Curve:
        """A curve without runs at another budget: minimum and curvature on lines in ln C."""
        x, at = self.log_budgets, float(np.log(budget))
        rows = [(c.u_opt, np.log(c.loss_opt), np.log(c.a)) for c in self.curves]
        if len(rows) > 1:
            lines = np.polyfit(x - x.mean(), np.array(rows), 1)
            u, loss, a = lines[0] * (at - x.mean()) + lines[1]
        else:
            u, loss, a = np.array(rows[0]) + np.array([0.5 * (at - x[0]), 0.0, 0.0])
        sd = float(np.sqrt(np.mean([c.sd**2 for c in self.curves])))
        nothing = np.empty(0)
        return Curve(
            budget=budget, u_opt=float(u), loss_opt=float(np.exp(loss)), a=float(np.exp(a)), sd=sd,
            u=nothing, weights=nothing,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Errors:
    """Errors of the minima of B curves, u and loss: own (B, 2), the variances at known exponents;
    common (2, B, B), the covariances that the exponents' error adds.
    """

    own: Array
    common: Array


def estimate_errors(arm: Arm) -> Errors:
    """By (J'WJ + P)^-1, J of each curve's three numbers and the exponents, P of their range."""
    spread = (EXPONENTS[1] - EXPONENTS[0]) ** 2 / 12
    parts = [_parts(curve, arm.alpha, arm.beta) for curve in arm.curves]
    information = np.eye(2) / spread + sum(part.information for part in parts)
    shared = np.linalg.inv(information)
    moved = np.stack([part.moves for part in parts], axis=1)  # (2, B, exponents)
    own = np.array([part.own for part in parts])
    return Errors(own=own, common=moved @ shared @ np.swapaxes(moved, 1, 2))


class _Parts(NamedTuple):
    """A curve's part: own (2,), of Errors; information (2, 2) about the exponents, without what its
    own three numbers take up; moves (2, 2): of minimum and loss, by alpha and beta.
    """

    own: Array
    information: Array
    moves: Array


@lru_cache(maxsize=4096)  # of all that is tried, one curve changes at a time
def _parts(curve: Curve, alpha: float, beta: float) -> _Parts:
    v = curve.u - curve.u_opt
    at = columns_at(v, alpha, beta)
    by_exponents = along_exponents(v, alpha, beta, np.array([curve.a, 0.0, 0.0]))
    root = np.sqrt(curve.weights)[:, None] / curve.sd
    at, by_exponents = at * root, by_exponents * root
    inverse = np.linalg.pinv(at.T @ at)
    carried = inverse @ (at.T @ by_exponents)
    per = np.array([[0.0, -1 / (2 * curve.a), 0.0], [0.0, 0.0, 1.0]])
    return _Parts(
        own=np.diag(per @ inverse @ per.T),
        information=by_exponents.T @ (by_exponents - at @ carried),
        moves=-per @ carried,
    )


def make_arm(fit: IsoFLOPFit, model: str, at: pd.DataFrame) -> Arm:
    """A model's curves of a fit by slices. at: the table at its budgets, for the seeds of points.

    Raises FitError if no curve has a minimum inside its sizes, or its noise is unknown.
    """
    own = [c for c in fit.curves if c.model == model and c.inside]
    if not own:
        have = ", ".join(dict.fromkeys(c.model for c in fit.curves if c.inside)) or "none"
        raise FitError(f"{model} has no minimum inside its sizes; {have} have")
    if not all(np.isfinite(c.noise) and c.noise > 0 for c in own):
        raise FitError(f"{model}: the noise of its losses is unknown: it has no runs to spare")
    cells = best_of_cells(at[at["series"] == model], by=["budget", fit.x_name])
    beside = fit.seeds.get(model)
    is_lack = beside is not None and beside.is_lack
    return Arm(
        model=model,
        alpha=own[0].alpha,
        beta=own[0].beta,
        dof=max(c.dof for c in own),
        is_lack=is_lack,
        curves=tuple(_arm_curve(c, cells, fit.x_name, is_lack) for c in own),
    )


def _arm_curve(curve: IsoFLOPCurve, cells: pd.DataFrame, x: str, is_lack: bool) -> Curve:
    u = np.log(curve.sizes)
    u_opt = float(np.log(curve.x_opt))
    near = curve.loss(np.exp(u_opt + _CURVED * np.array([-1.0, 0.0, 1.0])))
    runs = cells[cells["budget"] == curve.budget]
    places = np.log(runs[x].to_numpy(np.float64))
    seeds = runs["n_seeds"].to_numpy(np.float64)
    n = seeds[np.abs(places[None, :] - u[:, None]).argmin(axis=1)]
    return Curve(
        budget=curve.budget,
        u_opt=u_opt,
        loss_opt=curve.loss_opt,
        a=float(near[0] - 2 * near[1] + near[2]) / (2 * _CURVED**2),
        sd=curve.noise,
        u=np.asarray(u, dtype=np.float64),
        weights=np.ones(len(u)) if is_lack else n,
    )
