"""Forms of the law side by side: which of size, depth, length and batch the best rate goes with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.fitting.intervals import Array
from analysis.fitting.text import pluralize
from analysis.rates.cells import BestRate
from analysis.rates.law import RateLaw, design, estimate_errors, fit_law, name_exponent, weighted_at

_COLLINEAR = 14.0  # condition number of the columns at length one: of two, a correlation of 0.99
_CONSTANT = 1e-6  # of ln x: rounding
_BETTER = 0.7  # of the chosen law's error, in ln(rate)
_DIGITS = 6  # of what laws are ordered by: columns that go together differ by rounding
_CLOSE = 2.0  # of AICc: too near to call (Burnham and Anderson 2002, section 2.6)


@dataclass(frozen=True, kw_only=True)
class RateForms:
    """Laws of some models, the lowest AICc first; skipped: forms that are not identifiable."""

    models: tuple[str, ...]
    laws: tuple[RateLaw, ...]
    skipped: tuple[str, ...]

    @property
    def law(self) -> RateLaw:
        """One with the lowest AICc; where no AICc exists, that of the fewest parameters."""
        return self.laws[0]

    @property
    def label(self) -> str:
        return self.models[0] if len(self.models) == 1 else "all, each with its own constant"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Chosen law's, and where the cells do not choose."""
        found = list(self.law.warnings)
        if not np.isfinite(self.law.aicc):
            n = pluralize(self.law.n_points, "cell")
            found.append(f"{n}: too few to compare forms, so the simplest is taken")
        close = [law.label for law in self.laws[1:] if law.aicc < self.law.aicc + _CLOSE]
        if close:
            found.append(f"AICc does not distinguish {self.law.label} from {', '.join(close)}")
        known = [law for law in self.laws if law.held_out > 0]
        spared = min(known or self.laws, key=lambda law: round(law.held_out, _DIGITS))
        if np.log(spared.held_out) < _BETTER * np.log(self.law.held_out):
            found.append(
                f"cells that were held out prefer {spared.label}: it misses them by a factor of "
                f"{spared.held_out:.3g}, beside {self.law.held_out:.3g}"
            )
        return tuple(found)

    def to_frame(self) -> pd.DataFrame:
        """A row a form."""
        return pd.DataFrame(
            [
                {
                    "form": law.label,
                    "parameters": len(law.names),
                    "AICc": law.aicc,
                    "tau": law.tau,
                    "held-out factor": law.held_out,
                    "exponents": ", ".join(_shown(law, name) for name in law.columns) or "none",
                }
                for law in self.laws
            ]
        )


def compare_forms(
    cells: Sequence[BestRate], columns: Sequence[str], batch: str | None = None
) -> RateForms:
    """Every product of powers of some of the columns that the cells identify.

    Held out are, in turn, all cells of one model that agree in the columns but the batch. There are
    more cells than models.
    """
    models = tuple(dict.fromkeys(cell.model for cell in cells))
    known, skipped = _varying(cells, models, columns)
    bad: list[set[str]] = []
    laws = []
    for names in (c for k in range(len(known) + 1) for c in combinations(known, k)):
        if any(pair <= set(names) for pair in bad):
            continue
        why = _why_collinear(cells, models, names)
        if why:
            bad.append(set(names))
            skipped.append(why)
            continue
        n_params = len(models) + len(names)
        if len(cells) <= n_params:
            label = " + ".join(names)
            skipped.append(f"{label}: {len(cells)} cells for {n_params} parameters")
            continue
        law = fit_law(cells, models, names)
        off = _held_out(law, cells, columns, batch)
        held_out = float(np.exp(np.median(np.abs(np.log([c.lr_opt for c in cells]) - off))))
        tried = np.log([cell.lr_tried if cell.losses else np.nan for cell in cells])
        missed = float(np.sqrt(np.mean((tried - off) ** 2)))
        costs = tuple(cost_of(cell, rate) for cell, rate in zip(cells, off, strict=True))
        laws.append(replace(law, held_out=held_out, missed=missed, costs=costs))
    laws.sort(key=lambda law: (round(law.aicc, _DIGITS), len(law.names)))
    return RateForms(models=models, laws=tuple(laws), skipped=tuple(skipped))


def _varying(
    cells: Sequence[BestRate], models: Sequence[str], columns: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Columns that vary over a model's cells, and why others do not count."""
    known, skipped = [], []
    for name in columns:
        values = np.array([cell.at[name] for cell in cells])
        if np.isnan(values).all():
            skipped.append(f"{name}: the table has none")
        elif np.isnan(values).any():
            skipped.append(f"{name}: {np.isnan(values).sum()} of {len(cells)} cells have none")
        elif np.ptp(_within(cells, models, [name])) < _CONSTANT:
            same = f"{values[0]:.4g}" if np.ptp(values) == 0 else "the same for all of a model"
            skipped.append(f"{name}: it is {same}, so its exponent is not identifiable")
        else:
            known.append(name)
    return known, skipped


def _within(cells: Sequence[BestRate], models: Sequence[str], names: Sequence[str]) -> Array:
    """ln of the columns less their mean over each model's cells, (n, k)."""
    X = design(cells, models, names)
    own, logs = X[:, : len(models)], X[:, len(models) :]
    return logs - own @ ((own.T @ logs) / own.sum(axis=0)[:, None])


def _why_collinear(
    cells: Sequence[BestRate], models: Sequence[str], names: Sequence[str]
) -> str | None:
    if len(names) < 2:
        return None
    Z = _within(cells, models, names)
    if np.linalg.cond(Z / np.linalg.norm(Z, axis=0)) < _COLLINEAR:
        return None
    r = f" (r = {_correlation(Z):.3f})" if len(names) == 2 else ""
    listed = " and ".join(names)
    return f"{listed} vary together{r}: their exponents are not identifiable beside each other"


def _shown(law: RateLaw, name: str) -> str:
    low, high = law.bounds(name_exponent(name))
    return numbers.with_interval(law.exponents[name], low, high)


def _correlation(Z: Array) -> float:
    a, b = Z.T
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def cost_of(cell: BestRate, log_rate: float) -> float:
    """Loss at a rate above the lowest tried, nats/token, by straight lines between rates tried."""
    if not cell.losses:  # it is of a curve alone
        return float("nan")
    logs, losses = np.log(cell.lrs), np.array(cell.losses)
    order = np.argsort(logs)
    at = np.interp(log_rate, logs[order], losses[order], left=np.nan, right=np.nan)
    return float(at - losses.min())


def _held_out(
    law: RateLaw, cells: Sequence[BestRate], columns: Sequence[str], batch: str | None
) -> Array:
    """ln of each cell's best rate (n,) by the other cells, at the law's own tau; nan where some
    can't be spared.
    """
    places = [(c.model, *(c.at[name] for name in columns if name != batch)) for c in cells]
    own = design(cells, law.models, [])
    X = np.hstack([own, _within(cells, law.models, law.columns)])
    y, errors = np.array([np.log(cell.lr_opt) for cell in cells]), estimate_errors(cells)
    found = np.full(len(cells), np.nan)
    for place in dict.fromkeys(places):
        out = np.array([at == place for at in places])
        if np.linalg.matrix_rank(X[~out]) < X.shape[1]:
            return np.full(len(cells), np.nan)
        found[out] = X[out] @ weighted_at(law.tau, X[~out], y[~out], errors[~out]).theta
    return found
