"""Approaches to a compute-optimal size side by side, on one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.fits import TableFits
from analysis.fitting.intervals import Estimate
from analysis.fitting.power_law import fit_power_law
from analysis.fitting.results import Warned
from analysis.fitting.status import FitError, FitStatus
from analysis.fitting.text import in_columns, join_first, pluralize, unsaid
from analysis.isoflop.curves import IsoFLOPFit
from analysis.isoflop.fit import X_NAMES
from analysis.isoflop.methods import Method
from analysis.isoflop.offsets import at_budgets
from analysis.parametric import ParametricFit
from analysis.table.load import best_of_cells, finished
from analysis.table.warned import warned

_COLUMNS = (
    "model", "approach", "a", "a_lower", "a_upper", "size", "size_lower", "size_upper",
    "tokens", "loss", "status", "note",
)  # fmt: skip
_SLICE = "2 (slice)"
_LOOSE = 0.2  # spread of C/(N D) above which C = kND is a poor stand-in


@dataclass(frozen=True, kw_only=True, repr=False)
class Agreement(Warned):
    """A row a model and approach: the exponent a of size* ~ C^a with its interval, and size*,
    tokens* and loss* at `budget`, the table's largest.

    Approach 1 here is the best finished run of each budget, not Hoffmann's envelope of training
    curves: with a decaying learning rate a curve's middle is no run of that length. It has tokens*
    and loss* of a run, and where the model has none at `budget` its row is of its own largest.
    """

    x_name: str
    budget: float
    rows: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame(list(self.rows), columns=list(_COLUMNS))

    def summary(self) -> str:
        text = in_columns(self.to_frame().drop(columns="note"))
        head = f"{self.x_name}* ~ C^a; {self.x_name}*, tokens* and loss* at C={self.budget:.4g}"
        return "\n".join([head, text, *(f"  warning: {text}" for text in unsaid(self.warnings))])


@warned()
def compare_approaches(
    table: pd.DataFrame,
    x: str = "n_params",
    *,
    n_nearest: int | None = None,
    noise: float | None = None,
    seed: int = 0,
) -> Agreement:
    """Approaches 1 (best run of a budget), 2 (slice, parabola, Akima), 3 (parametric), each model.

    What can't be fitted is a row that says why. Exponents, and sizes at the largest budget, whose
    intervals do not meet are in the warnings. x: n_params, n_active_params or
    n_non_embedding_params. n_nearest and noise are fit_isoflop's, for approach 2. Raises ValueError
    for another x, FitError if there is one budget only.
    """
    return compute_agreement(TableFits(table, n_nearest=n_nearest, noise=noise, seed=seed), x)


def compute_agreement(fits: TableFits, x: str) -> Agreement:
    """compare_approaches of fits that others need too, so that all have the same."""
    if x == "n_tokens":
        raise ValueError("x='n_tokens': the approaches are compared in a size, e.g. n_params")
    if x not in X_NAMES:
        sizes = ", ".join(name for name in X_NAMES if name != "n_tokens")
        raise ValueError(f"x={x!r} is not one of {sizes}")
    done = finished(at_budgets(fits.table, x).table)
    budgets = np.sort(done["budget"].dropna().unique())
    if len(budgets) < 2:
        raise FitError(
            f"{pluralize(len(budgets), 'budget')}: an exponent of compute needs 2 or more; "
            "add runs at another"
        )
    top = float(budgets[-1])

    def minima(model: str, method: Method) -> dict[str, Any]:
        return _isoflop(fits.find_isoflop(model, x, method), top)

    rows: list[dict[str, Any]] = []
    for model in dict.fromkeys(done["series"]):
        own = done[done["series"] == model]
        makers = (
            ("1 (best run)", lambda own=own: _of_best_runs(own, x, top)),
            (_SLICE, lambda model=model: minima(model, "slice")),
            ("2 (parabola)", lambda model=model: minima(model, "parabola")),
            ("2 (akima)", lambda model=model: minima(model, "akima")),
            (
                "3 (parametric)",
                lambda own=own, model=model: _parametric(fits.surface(model, x), own, x, top),
            ),
        )
        for approach, make in makers:
            try:
                found = make()
            except (FitError, ValueError) as error:
                found = {"status": "no fit", "note": str(error)}
            rows.append({"model": model, "approach": approach, **found})
    return Agreement(x_name=x, budget=top, rows=tuple(rows), warnings=tuple(_disputes(rows, x)))


def best_runs(table: pd.DataFrame, x: str) -> pd.DataFrame:
    """Best cell of each budget, in order of budget: seeds are averaged within a size only."""
    cells = best_of_cells(table, by=["budget", x])
    return cells.loc[cells.groupby("budget")["loss"].idxmin()]


def _of_best_runs(own: pd.DataFrame, x: str, top: float) -> dict[str, Any]:
    best = best_runs(own, x)
    law = fit_power_law(best["budget"], best[x], y_name=x)
    last = best.iloc[-1]
    at = float(last["budget"])
    a, size = Estimate(law.exponent, *law.bounds("exponent")), law.predict(at).first
    notes = ["sizes of the grid only"]
    # How many smaller sizes there are: always as many, and the exponent is that of the grid
    tried = own[["budget", x]].drop_duplicates().merge(best[["budget", x]], on="budget")
    ranks = (tried[f"{x}_x"] < tried[f"{x}_y"]).groupby(tried["budget"]).sum()
    if ranks.nunique() == 1:
        notes = ["sizes of the grid only: no interval"]
        a, size = (Estimate.around(estimate.value, np.nan) for estimate in (a, size))
    if at < top:
        notes.append(f"at C={at:.4g}, the largest that this model has")
    tokens = float(last["n_tokens"]) if pd.notna(last["n_tokens"]) else np.nan
    return _row(a, size, tokens, float(last["loss"]), law.status, [*notes, *law.warnings])


def _isoflop(fit: IsoFLOPFit, top: float) -> dict[str, Any]:
    if not fit.laws:
        raise FitError(fit.why_no_laws)
    laws = fit.law()
    at_top = {name: law.predict(top).first for name, law in laws.laws.items()}
    tokens = at_top["n_tokens"].value if "n_tokens" in at_top else np.nan
    notes = [*laws.warnings, *(f"skipped {text}" for text in fit.skipped)]
    a = laws.exponents[fit.x_name]["t"]
    return _row(a, at_top[fit.x_name], tokens, at_top["loss"].value, fit.status, notes)


def _parametric(fit: ParametricFit, own: pd.DataFrame, x: str, top: float) -> dict[str, Any]:
    k, spread = flops_per_param_token(best_of_cells(own, by=["budget", x]), x)
    best, a = fit.optimum(top, k), fit.exponents()["a"]
    none = [str(best["n_params"])] if np.isnan(best["n_params"].value) else []
    notes = [*none, *fit.warnings]
    if spread > _LOOSE:
        notes.append(
            f"C/({x} x tokens) varies by {spread:.0%} about {k:.3g}: C = kND is a poor stand-in "
            "for the FLOPs counted"
        )
    loose = spread > _LOOSE and fit.status is FitStatus.CONVERGED
    status = FitStatus.WARNING if loose else fit.status
    tokens, loss = best["n_tokens"].value, best["loss"].value
    return _row(a, best["n_params"], tokens, loss, status, notes)


def _row(
    a: Estimate,
    size: Estimate,
    tokens: float,
    loss: float,
    status: FitStatus,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Fields that all approaches share."""
    at_top = {**size.columns("size"), "tokens": tokens, "loss": loss}
    return {**a.columns("a"), **at_top, "status": str(status), "note": "; ".join(notes)}


def flops_per_param_token(cells: pd.DataFrame, x: str) -> tuple[float, float]:
    """k of C = kND, the median over runs, and the half range of C/(kND) about 1."""
    k = (cells["budget"] / (cells[x] * cells["n_tokens"])).to_numpy(dtype=np.float64)
    middle = float(np.median(k))
    return middle, float(max(k.max() / middle, middle / k.min()) - 1)


def _disputes(rows: list[dict[str, Any]], x: str) -> list[str]:
    """Exponents of any two approaches, and sizes beside the slices', beyond their intervals."""
    found = []
    for i, one in enumerate(rows):
        for two in rows[i + 1 :]:
            if _apart(one, two, "a"):
                found.append(
                    f"{one['model']}: approaches {one['approach']} and {two['approach']} disagree "
                    f"on a beyond their intervals, {one['a']:.3f} and {two['a']:.3f}"
                )
    for own in (row for row in rows if row["approach"] == _SLICE and "size" in row):
        apart = [row for row in rows if _apart(own, row, "size")]
        if apart:
            names = join_first([f"{row['approach']} {row['size']:.3g}" for row in apart])
            found.append(
                f"{own['model']}: the best {x} is {own['size']:.3g} by approach {_SLICE}, and "
                f"beyond the intervals by {names}"
            )
    return found


def _apart(one: Mapping[str, Any], two: Mapping[str, Any], name: str) -> bool:
    """Whether two approaches to one model have intervals that do not meet."""
    if one["model"] != two["model"] or name not in one or name not in two:
        return False
    low, high = f"{name}_lower", f"{name}_upper"
    return bool(one[low] > two[high] or two[low] > one[high])
