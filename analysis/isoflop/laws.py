"""From the minima of isoFLOP curves to power laws of compute, with intervals made four ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.clusters import few_clusters
from analysis.fitting.intervals import Array, Estimate, t_quantile
from analysis.fitting.least_squares import minimise
from analysis.fitting.power_law import (
    FrontierFit,
    PowerLaw,
    fit_power_law,
    frontier_box,
    frontier_model,
    frontier_starts,
)
from analysis.fitting.results import Result
from analysis.fitting.status import FitError, FitStatus, Warnings, worst_status
from analysis.fitting.text import format_status, pluralize

LOSS = "loss"
_FLOORS = (0.2, 0.75, 0.97)  # shares of the lowest loss: a low, a middle and a high one
_DROPPED = 0.1  # share of draws without a minimum above which the intervals are called selective


@dataclass(frozen=True, kw_only=True)
class Optima:
    """Minima of one model that a law is fitted to, in order of budget.

    at: name -> (n_budgets,), e.g. n_params, n_tokens, loss; draws: "noise" or "case" -> name ->
    (n_draws, n_budgets), nan where a draw had no minimum; common: name -> covariance of the
    logarithms (n_budgets, n_budgets) of the error that the budgets share, if they share any.
    """

    budgets: Array
    at: Mapping[str, Array]
    draws: Mapping[str, Mapping[str, Array]]
    common: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelLaws(Result):
    """How the optimum of one model moves with compute: y* = coefficient * C^exponent.

    laws: by name of y (n_params, n_tokens, ..., loss); loss has a floor, L* = E + A C^-alpha,
    where there are four budgets or more. exponents: name -> how -> interval at 95 %, how being
    "t" (scatter about the law, and what skewed curves share; the default of conf_int), "noise" (of
    the losses), "case" (runs drawn again within each budget), or "cluster" (n_clusters of runs
    drawn again), both at skewed curves' mean exponents; "jackknife" (budgets left out in turn).
    """

    model: str
    n_budgets: int
    laws: Mapping[str, PowerLaw | FrontierFit]
    exponents: Mapping[str, Mapping[str, Estimate]]
    excluded: tuple[str, ...]
    n_clusters: int | None = None
    status: FitStatus
    warnings: tuple[str, ...]

    @property
    def loss(self) -> PowerLaw | FrontierFit | None:
        return self.laws.get(LOSS)

    def of_compute(self, name: str) -> dict[str, Estimate]:
        """exponents[name] as those of C: a frontier's are of its alpha, C^-alpha."""
        floored = isinstance(self.laws[name], FrontierFit)
        return {how: -e if floored else e for how, e in self.exponents[name].items()}

    def summary(self) -> str:
        drawn = f", {self.n_clusters} clusters of runs" if self.n_clusters else ""
        lines = [f"{self.model}: power laws over {self.n_budgets} budgets{drawn}"]
        for name, law in self.laws.items():
            if isinstance(law, FrontierFit):
                E, A, alpha = law.estimates
                text = f"{E:.4g} + {A:.4g} C^-{alpha:.4f}"
            else:
                text = f"{law.coefficient:.4g} C^{law.exponent:.4f}"
            intervals = "; ".join(
                f"{how} {e.lower:.4f} to {e.upper:.4f}"
                for how, e in self.exponents[name].items()
                if np.isfinite(e.lower)
            )
            lines.append(f"  {name + '*':>24} = {text:<32} 95 %: {intervals or 'unknown'}")
        return "\n".join([*lines, *format_status(self.status, self.warnings)])

    def to_frame(self) -> pd.DataFrame:
        """A row a law: coefficient, exponent, floor, and the intervals of the exponent."""
        rows = []
        for name, law in self.laws.items():
            row = {
                "quantity": f"{name}*",
                "coefficient": law.coefficient,
                "exponent": law.exponent,
                "floor": law.floor,
            }
            for how, e in self.of_compute(name).items():
                row |= {f"{how} lower": e.lower, f"{how} upper": e.upper}
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        laws = {name: law.to_dict() for name, law in self.laws.items()}
        return {**super().to_dict(), "laws": laws}


def fit_laws(
    model: str,
    optima: Optima,
    excluded: Sequence[str],
    flagged: Sequence[str] = (),
    clusters: np.ndarray | None = None,
    frontier: FrontierFit | None = None,
) -> ModelLaws:
    """excluded: budgets without a minimum to use; flagged: those used whose minima have warnings;
    clusters: of the points of the curves, if whole clusters were drawn; frontier: the law of the
    losses, of four budgets or more.

    Raises FitError below two budgets with a minimum.
    """
    n = len(optima.budgets)
    if n < 2:
        raise FitError(f"{model}: {pluralize(n, 'budget')} with a minimum; a power law needs 2")
    warned = Warnings()
    if excluded:
        warned.add(
            f"{pluralize(len(excluded), 'budget')} excluded from the laws: {'; '.join(excluded)}"
        )
    if flagged:
        warned.add(f"{len(flagged)} of the {n} minima used have warnings: {'; '.join(flagged)}")
    laws: dict[str, PowerLaw | FrontierFit] = {}
    said: dict[str, list[str]] = {}  # each warning once, with the laws that it is of
    exponents: dict[str, Mapping[str, Estimate]] = {}
    for name, values in optima.at.items():
        common = optima.common.get(name)
        if name == LOSS and frontier is not None:
            law: PowerLaw | FrontierFit = frontier
        else:
            law = fit_power_law(optima.budgets, values, y_name=name, common=common)
        laws[name] = law
        exponents[name] = _intervals(name, law, optima)
        for text in law.warnings:
            said.setdefault(text, []).append(f"{name}*")
    for text, names in said.items():
        warned.add(f"{', '.join(names)}: {text}")
    if n < 4:
        warned.add(f"{n} budgets: loss* is fitted without a floor, which needs 4")
    for text in few_clusters(clusters):
        warned.add(text)
    for how, draws in optima.draws.items():
        drawn = draws[LOSS]
        lost = float(np.isnan(drawn).mean()) if drawn.size else 0.0
        if lost > _DROPPED:
            warned.add(f"{lost:.0%} of the {how} draws had no minimum inside the sizes")
    return ModelLaws(
        model=model,
        n_budgets=n,
        laws=laws,
        exponents=exponents,
        excluded=tuple(excluded),
        n_clusters=None if clusters is None else int(clusters.max()) + 1,
        status=worst_status([warned.status, *(law.status for law in laws.values())]),
        warnings=tuple(warned.texts),
    )


def _intervals(
    name: str, law: PowerLaw | FrontierFit, optima: Optima, level: float = 0.95
) -> dict[str, Estimate]:
    floored = isinstance(law, FrontierFit)
    exponent = "alpha" if floored else "exponent"
    value = law.params[exponent]
    found = {"t": Estimate(value, *law.bounds(exponent, level))}
    log_c = np.log(optima.budgets)
    refit = _alphas if floored else _slopes
    for how, names in optima.draws.items():
        with np.errstate(invalid="ignore"):  # of a flat curve a lowest loss may be drawn below 0
            drawn = refit(log_c, np.log(names[name]))
        found[how] = Estimate.of_draws(value, drawn[np.isfinite(drawn)], level)
    n = len(log_c)
    if n >= (5 if floored else 3):
        log_y = np.log(optima.at[name])
        left = refit(log_c, np.where(np.eye(n, dtype=bool), np.nan, log_y))
        se = float(np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))
        found["jackknife"] = Estimate.around(value, t_quantile(n - 1, level) * se)
    return found


def _slopes(log_c: Array, log_y: Array) -> Array:
    """Slopes (S,) of log_y (S, n) on log_c (n,) over the budgets that a draw has; nan below two."""
    known = np.isfinite(log_y)
    count = np.maximum(known.sum(axis=1), 1)
    x = np.where(known, log_c, 0.0)
    y = np.where(known, log_y, 0.0)
    dx = np.where(known, log_c - (x.sum(axis=1) / count)[:, None], 0.0)
    spread = (dx**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, (dx * y).sum(axis=1) / spread, np.nan)


def _alphas(log_c: Array, log_y: Array) -> Array:
    """alpha of L = E + A C^-alpha for each row of log_y (S, n) over the budgets that it has.

    nan below four budgets.
    """
    x = log_c - log_c.mean()
    known = np.isfinite(log_y)
    enough = known.sum(axis=1) >= 4
    found = np.full(len(log_y), np.nan)
    if not enough.any():
        return found
    known, target = known[enough], np.where(known, log_y, 0.0)[enough]
    floors = frontier_starts(x, target, _FLOORS, known)
    starts = floors.swapaxes(0, 1).reshape(-1, 3)  # all with the first floor, then the next
    lower, upper = frontier_box(float(target[known].min()))
    minima = minimise(
        frontier_model(x),
        np.tile(target, (len(_FLOORS), 1)),
        starts,
        lower=lower,
        upper=upper,
        weights=np.tile(known.astype(np.float64), (len(_FLOORS), 1)),
    )
    best = minima.value.reshape(len(_FLOORS), -1).argmin(axis=0)
    alphas = minima.theta[:, 2].reshape(len(_FLOORS), -1)
    found[enough] = alphas[best, np.arange(alphas.shape[1])]
    return found
