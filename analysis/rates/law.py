"""One law of the best rate: a power of some of size, depth, length and batch.

ln lr* = c + sum of exponents times ln x, a constant c for each model. A cell's variance is its own
curve's, error^2, and tau^2, what the law misses; tau^2 is by maximum likelihood. Intervals are
Student's t of the weighted scatter (Knapp and Hartung 2003, Statistics in Medicine 22, 2693), and
of what the cells share: the exponents of skewed curves move all best rates of a series at once, and
the scatter does not show it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from analysis.fitting.checks import positive
from analysis.fitting.intervals import Array, Prediction, t_quantile
from analysis.fitting.results import WaldFit
from analysis.fitting.status import Warnings
from analysis.rates.cells import BestRate

_EXACT = 1e-9  # of ln(rate): cells without an error that a law goes through
_FEW_DOF = 3


@dataclass(frozen=True, kw_only=True, repr=False)
class RateLaw(WaldFit):
    """lr* = coefficient * product of x^exponent over `columns`, of the cells of `models`.

    A coefficient for each model, named coefficient[model] where there are several. objective: minus
    twice the log likelihood of ln lr*; tau: standard deviation, of ln(rate), of what the law misses
    beside the cells' own errors; aicc: infinite where the cells are too few for it; ranges: over
    the cells, of each column that is known, those too that the law is not of; held_out: the typical
    factor by which it misses cells that it did not see (the median), nan where it can't be fitted
    without some; missed: root mean square of ln(rate) by which it misses the best rates tried of
    such cells, and costs (n,): by how much their losses at its rates are above these, in nats/token
    between the rates tried; nan likewise, and beyond these.
    """

    models: tuple[str, ...]
    columns: tuple[str, ...]
    tau: float
    aicc: float
    ranges: Mapping[str, tuple[float, float]]
    held_out: float = float("nan")
    missed: float = float("nan")
    costs: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """Columns, for a table of forms."""
        return " + ".join(self.columns) or "constant"

    @property
    def of_new_cells(self) -> str | None:
        """What it is worth in cells that it did not see, in words; None where it has none."""
        costs = np.array(self.costs)[np.isfinite(self.costs)]
        if not (np.isfinite(self.missed) and len(costs)):
            return None
        factor = np.exp(t_quantile(self.dof, 0.95) * self.missed)
        beyond = len(self.costs) - len(costs)
        return (
            f"in cells held out the best rate tried is within a factor {factor:.3g} (95 %), and "
            f"the law's rate costs {np.median(costs):.2g} nats (median), {costs.max():.2g} at most"
            + (f"; beyond the rates tried in {beyond} of {len(self.costs)}" if beyond else "")
        )

    @property
    def exponents(self) -> dict[str, float]:
        return {name: self.params[name_exponent(name)] for name in self.columns}

    def predict(
        self,
        at: Mapping[str, ArrayLike],
        model: str | None = None,
        level: float = 0.95,
        *,
        new_cell: bool = False,
    ) -> Prediction:
        """Best rate where each of `columns` has these values (n,), and the law's interval or,
        new_cell, of the best of the rates that one more cell tries: the law's, and what it misses
        of cells that it did not see, by Student's t, combined as independent.

        model: whose constant, if there are several. Raises ValueError for one that is missing, and
        for a new cell where the law can't be fitted without some.
        """
        if new_cell and not np.isfinite(self.missed):
            raise ValueError(
                f"the law of {self.label} can't be fitted without some cells, which tell what it "
                "misses of a new one; give more cells"
            )
        if model is None and len(self.models) == 1:
            model = self.models[0]
        if model not in self.models:
            raise ValueError(f"model={model!r} is not one of {', '.join(self.models)}")
        absent = [name for name in self.columns if name not in at]
        if absent:
            raise ValueError(f"at has no {', '.join(absent)}; the law is of {self.label}")
        logs = [np.log(np.atleast_1d(positive(name, at[name]))) for name in self.columns]
        n = len(logs[0]) if logs else 1
        own = [np.full(n, float(name == model)) for name in self.models]
        jacobian = np.stack([*own, *logs], axis=1)
        law = self._predict_log(jacobian @ np.array(self.theta), jacobian, level)
        if not new_cell:
            return law
        missed = t_quantile(self.dof, level) * self.missed
        reach = np.exp(np.hypot(np.log(law.upper / law.value), missed))
        return law._replace(lower=law.value / reach, upper=law.value * reach)


def name_exponent(column: str) -> str:
    return f"exponent[{column}]"


class Weighted(NamedTuple):
    """A weighted fit: theta (p,), the residuals (n,), their weights, and minus twice ln L."""

    theta: Array
    residuals: Array
    weights: Array
    tau: float
    deviance: float


def design(cells: Sequence[BestRate], models: Sequence[str], columns: Sequence[str]) -> Array:
    """A column of ones for each model's cells, then ln of each column, (n, p)."""
    own = [[float(cell.model == model) for cell in cells] for model in models]
    logs = [[np.log(cell.at[name]) for cell in cells] for name in columns]
    return np.array([*own, *logs]).T


def fit_law(cells: Sequence[BestRate], models: Sequence[str], columns: Sequence[str]) -> RateLaw:
    """Fits a law to more cells than parameters, whose design has full rank: see compare.py."""
    X = design(cells, models, columns)
    k = len(models)
    centre = np.where(np.arange(X.shape[1]) < k, 0.0, X.mean(axis=0))  # far from x = 1: rounding
    y = np.array([np.log(cell.lr_opt) for cell in cells])
    fit = weighted(X - centre, y, estimate_errors(cells))
    n, p = X.shape
    dof = n - p
    rooted = (X - centre) * np.sqrt(fit.weights)[:, None]
    # At least the cells' own errors: a small scatter of few cells is luck
    scale = max(float(fit.weights @ fit.residuals**2) / dof, 1.0)
    back = np.eye(p)
    back[:k] -= centre  # the constants where every x is 1
    own = np.linalg.inv(rooted.T @ rooted)
    carried = own @ rooted.T * np.sqrt(fit.weights)  # from errors of ln lr* to those of theta
    shared = carried @ common_errors(cells) @ carried.T
    covariance = back @ (own * scale + shared) @ back.T
    theta = back @ fit.theta
    warned = Warnings()
    if dof < _FEW_DOF:
        warned.add(f"{n} cells for {p} parameters: the intervals are wide and may be luck")
    coefficients = [f"coefficient[{m}]" if k > 1 else "coefficient" for m in models]
    n_all = p + 1  # and tau
    small = n - n_all - 1
    return RateLaw(
        form=" * ".join(["lr* = coefficient", *(f"{name}^exponent" for name in columns)]),
        names=(*coefficients, *map(name_exponent, columns)),
        estimates=(*np.exp(theta[:k]).tolist(), *theta[k:].tolist()),
        theta=tuple(theta.tolist()),
        covariance=tuple(tuple(row) for row in covariance.tolist()),
        dof=dof,
        logs=tuple(coefficients),
        n_points=n,
        objective=fit.deviance,
        interval=_how(dof, cells),
        status=warned.status,
        warnings=tuple(warned.texts),
        models=tuple(models),
        columns=tuple(columns),
        tau=fit.tau,
        aicc=fit.deviance + 2 * n_all + 2 * n_all * (n_all + 1) / small if small > 0 else np.inf,
        ranges={
            name: (min(c.at[name] for c in cells), max(c.at[name] for c in cells))
            for name in cells[0].at
            if all(np.isfinite(c.at[name]) for c in cells)
        },
    )


def _how(dof: int, cells: Sequence[BestRate]) -> str:
    shared = (
        ", and from the shape that the cells share" if any(len(c.common) for c in cells) else ""
    )
    return f"Student's t, {dof} degrees of freedom, from the cells' scatter about the law{shared}"


def common_errors(cells: Sequence[BestRate]) -> Array:
    """Covariance (n, n) of ln lr* by what the cells of a series share; 0 between series.

    Draws of a best rate count as no farther outside of the rates tried than these reach.
    """
    found = np.zeros((len(cells), len(cells)))
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [i for i, cell in enumerate(cells) if cell.model == model and len(cell.common)]
        drawn = [_bounded(cells[i]) for i in own]
        whole = np.stack(drawn)[:, np.isfinite(drawn).all(axis=0)] if own else np.empty((0, 0))
        if whole.shape[1] > 1:
            found[np.ix_(own, own)] = np.cov(whole).reshape(len(own), len(own))
    return found


def _bounded(cell: BestRate) -> Array:
    low, high = np.log(min(cell.lrs)), np.log(max(cell.lrs))
    return np.clip(cell.common, 2 * low - high, 2 * high - low)


def estimate_errors(cells: Sequence[BestRate]) -> Array:
    """Standard errors of ln lr*; 0 for all where one is unknown: they weigh the same then."""
    errors = np.array([cell.error for cell in cells])
    return errors if np.isfinite(errors).all() else np.zeros(len(cells))


def weighted(X: Array, y: Array, errors: Array) -> Weighted:
    """y (n,) on X (n, p), its variances errors^2 + tau^2, with the tau of the most likelihood."""
    widest = float(np.std(y)) * 2 + _EXACT
    found = optimize.minimize_scalar(
        lambda tau: weighted_at(tau, X, y, errors).deviance,
        bounds=(0.0, widest),
        method="bounded",
        options={"xatol": 1e-5 * widest},
    )
    both = (weighted_at(tau, X, y, errors) for tau in (float(found.x), 0.0))
    return min(both, key=lambda fit: fit.deviance)


def weighted_at(tau: float, X: Array, y: Array, errors: Array) -> Weighted:
    """Same at this tau."""
    variances = np.maximum(errors**2 + tau**2, _EXACT**2)
    root = 1 / np.sqrt(variances)
    theta = np.asarray(np.linalg.lstsq(X * root[:, None], y * root)[0], dtype=np.float64)
    residuals = y - X @ theta
    deviance = float(np.sum(np.log(2 * np.pi * variances) + residuals**2 / variances))
    return Weighted(theta, residuals, 1 / variances, tau, deviance)
