"""What laws fitted to the small budgets say of the large ones: the test that counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.isoflop import fit_isoflop
from analysis.minima import Method
from analysis.parametric import fit_parametric
from analysis.results import FitError, counted, plain
from analysis.table import best_of_cells, finished

_COLUMNS = (
    "model",
    "approach",
    "quantity",
    "budget",
    "predicted",
    "lower",
    "upper",
    "measured",
    "relative_error",
    "inside",
)


@dataclass(frozen=True, kw_only=True)
class HoldOut:
    """predictions: a row a model, approach, quantity and held-out budget; relative_error is
    predicted/measured - 1; inside: whether the 95 % interval holds the measured value.
    """

    n_fitted: int
    n_held: int
    predictions: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame(list(self.predictions), columns=list(_COLUMNS))

    def summary(self) -> str:
        """The table and the warnings."""
        head = f"fitted to the {self.n_fitted} smallest budgets, held out {self.n_held}"
        text = self.to_frame().to_string(index=False, float_format=lambda v: f"{v:.4g}")
        return "\n".join([head, text, *(f"  doubtful: {w}" for w in self.warnings)])

    def to_dict(self) -> dict[str, Any]:
        return plain(self)


def hold_out_budgets(
    table: pd.DataFrame,
    n_held: int | None = None,
    *,
    x: str = "n_params",
    method: Method = "parabola",
    n_nearest: int | None = None,
) -> HoldOut:
    """Fits approaches 2 and 3 without the n_held largest budgets (default: half) and predicts them.

    Approach 2: the size and loss of each held-out curve's minimum; approach 3: the loss of the best
    run there. Errors that grow with the budget in one direction are said to drift. Raises FitError
    if fewer than two budgets would be left.
    """
    done = finished(table)
    budgets = np.sort(done["budget"].dropna().unique())
    held = len(budgets) // 2 if n_held is None else n_held
    if not 1 <= held <= len(budgets) - 2:
        raise FitError(
            f"{counted(len(budgets), 'budget')}: at least 3 are needed, to hold one out and fit two"
        )
    cut = budgets[-held]
    small, large = done[done["budget"] < cut], done[done["budget"] >= cut]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for model in dict.fromkeys(done["series"]):
        near, far = (part[part["series"] == model] for part in (small, large))
        approaches = {
            "approach 2": partial(_isoflop_rows, near, far, x, method, n_nearest),
            "approach 3": partial(
                _parametric_rows, near, far, "n_params" if x == "n_tokens" else x
            ),
        }
        for name, make in approaches.items():
            try:
                rows += [{"model": model, **row} for row in make()]
            except (FitError, ValueError) as error:
                notes.append(f"{model}, {name}: {error}")
    if not rows:
        raise FitError(f"nothing could be held out: {'; '.join(notes)}")
    return HoldOut(
        n_fitted=len(budgets) - held,
        n_held=held,
        predictions=tuple(rows),
        warnings=(*_drifts(rows), *notes),
    )


def _isoflop_rows(
    small: pd.DataFrame, large: pd.DataFrame, x: str, method: Method, n_nearest: int | None
) -> list[dict[str, Any]]:
    laws = fit_isoflop(small, x, method, n_nearest, n_draws=0).law().laws
    measured = fit_isoflop(large, x, method, n_nearest, n_draws=0)
    rows = []
    for curve in measured.curves:
        if not curve.inside:
            continue
        for name, value in ((x, curve.x_opt), ("loss", curve.loss_opt)):
            predicted = laws[name].predict(curve.budget)
            rows.append(_row(f"2 ({method})", f"{name}*", curve.budget, predicted, value))
    return rows


def _parametric_rows(small: pd.DataFrame, large: pd.DataFrame, x: str) -> list[dict[str, Any]]:
    cells = best_of_cells(small, by=["budget", x])
    fit = fit_parametric(cells[x], cells["n_tokens"], cells["loss"], n_draws=200)
    best = best_of_cells(large, by=["budget"])
    return [
        _row(
            "3 (parametric)",
            "best run's loss",
            float(run["budget"]),
            fit.predict([float(run[x])], [float(run["n_tokens"])]),
            float(run["loss"]),
        )
        for run in best.to_dict("records")
    ]


def _row(
    approach: str, quantity: str, budget: float, predicted: Any, measured: float
) -> dict[str, Any]:
    value, low, high = (float(v[0]) for v in predicted[:3])
    return {
        "approach": approach,
        "quantity": quantity,
        "budget": budget,
        "predicted": value,
        "lower": low,
        "upper": high,
        "measured": measured,
        "relative_error": value / measured - 1,
        "inside": bool(low <= measured <= high) if np.isfinite(low) else None,
    }


def _drifts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Three or more errors of one sign that grow with the budget are no noise."""
    found = []
    frame = pd.DataFrame(list(rows))
    for key, group in frame.groupby(["model", "approach", "quantity"], sort=False):
        errors = group.sort_values("budget")["relative_error"].to_numpy(dtype=np.float64)
        sizes = np.abs(errors)
        one_sign = len(set(np.sign(errors))) == 1
        if len(errors) >= 3 and one_sign and np.all(np.diff(sizes) > 0):
            found.append(
                f"{key[0]}, approach {key[1]}: the error of {key[2]} drifts with the budget, "
                f"{errors[0]:+.2%} to {errors[-1]:+.2%}: the law does not extrapolate"
            )
    return found
