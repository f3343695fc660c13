"""Best learning rates of a table and the laws they follow: `python -m analysis rates`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.fitting.checks import positive
from analysis.fitting.results import Warned
from analysis.fitting.status import FitError
from analysis.fitting.text import in_columns, join_first, unsaid
from analysis.isoflop.flags import Flag
from analysis.rates.cells import BestRate, best_rates, make_frame
from analysis.rates.compare import RateForms, compare_forms
from analysis.rates.curves import METHODS, Method
from analysis.settings import setting
from analysis.table.checks import finished, require
from analysis.table.warned import warned

WIDTHS = ("d_model", "n_params", "n_active_params", "n_non_embedding_params")
HORIZONS = ("n_tokens", "n_steps")
DEPTH = "n_layers"
BATCH = "batch_tokens"
_SIZES = ("n_params", "n_active_params")
_NAMES: dict[Method, str] = {"slice": "skewed curves", "parabola": "parabolas"}
_LISTED = 6  # cells that a line names
_EVERY = 4  # cells of a model that are named one by one only where some are not


@dataclass(frozen=True, kw_only=True, repr=False)
class Rates(Warned):
    """Best rates and their laws. columns: what a law may be of; skipped: cells without a fit.

    forms: for each model with three best rates or more, and for all with two or more together, each
    with its own constant; why_no_laws: the reason where there are none.
    """

    method: Method
    columns: tuple[str, ...]
    cells: tuple[BestRate, ...]
    forms: tuple[RateForms, ...]
    skipped: tuple[str, ...]
    why_no_laws: str

    @property
    def left_out(self) -> tuple[BestRate, ...]:
        """Cells that no law is of, for their best rate is not between rates that were tried."""
        return tuple(cell for cell in self.cells if not cell.inside)

    @property
    def warnings(self) -> tuple[str, ...]:
        found = []
        for flag in dict.fromkeys(flag for cell in self.cells for flag in cell.flags):
            found.append(f"{flag}: {join_first(self._flagged(flag), _LISTED, '; ')}")
        if self.left_out:
            names = join_first([cell.name for cell in self.left_out], _LISTED, "; ")
            found.append(f"excluded from the laws, for the best rate is not inside: {names}")
        found += [
            f"law of {forms.label}: {text}" for forms in self.forms for text in forms.warnings
        ]
        if not self.forms:
            found.append(f"no law: {self.why_no_laws}")
        return (*self.of_table, *found)

    def _flagged(self, flag: Flag) -> list[str]:
        """Cells with a flag, and models of which all four cells or more have it."""
        names = []
        for model in dict.fromkeys(cell.model for cell in self.cells):
            cells = [cell for cell in self.cells if cell.model == model]
            own = [cell.name for cell in cells if flag in cell.flags]
            every = len(own) == len(cells) >= _EVERY
            names += [f"all {len(own)} cells of {model}"] if every else own
        return names

    def to_frame(self) -> pd.DataFrame:
        """A row a cell."""
        return make_frame(self.cells).dropna(axis=1, how="all")

    def summary(self) -> str:
        lines = [f"best peak learning rates, with 95 % intervals, by {_NAMES[self.method]}"]
        lines.append(self.to_frame().to_string(index=False, formatters=self._formatters()))
        for forms in self.forms:
            lines += ["", f"law of {forms.label}: {forms.law.summary()}"]
            lines += [f"    {line}" for line in in_columns(forms.to_frame()).splitlines()]
            lines += [f"  {text}" for text in (forms.law.of_new_cells,) if text]
            lines += [f"  not fitted: {text}" for text in forms.skipped]
        lines += ["", *(f"warning: {text}" for text in unsaid(self.warnings))]
        if self.skipped:
            lines.append(f"no fit: {join_first(self.skipped, _LISTED, '; ')}")
        return "\n".join(lines)

    def _formatters(self) -> dict[str, Any]:
        rates = dict.fromkeys(("lr_tried", "lr_opt", "lr_lower", "lr_upper"), "{:.3g}".format)
        sizes = dict.fromkeys(self.columns, partial(numbers.count, digits=4))
        return {**rates, **sizes, "budget": "{:.3g}".format, "loss_opt": "{:.4f}".format}

    def to_dict(self) -> dict[str, Any]:
        """As other results, with each law in full."""
        forms = [
            {
                "models": list(one.models),
                "chosen": one.law.label,
                "laws": [{"label": law.label, **law.to_dict()} for law in one.laws],
                "skipped": list(one.skipped),
                "warnings": list(one.warnings),
            }
            for one in self.forms
        ]
        return {**super().to_dict(), "forms": forms}


@warned(unless="batch")
def fit_rates(
    table: pd.DataFrame,
    *,
    width: str | None = None,
    horizon: str = "n_tokens",
    batch: str | None = None,
    method: Method = "slice",
    n_nearest: int | None = None,
    noise: float | None = None,
) -> Rates:
    """Fits the rates of a checked table with lr, the peak learning rate.

    width, horizon: of WIDTHS (d_model where it is known, else parameters) and HORIZONS; batch: the
    column that it is (default: batch_tokens, where there is one). Runs of one cell and rate that
    differ in a batch which is not named count by the lowest loss. method: "slice", skewed curves
    whose shape the cells of a series share, or "parabola". n_nearest: rates about the best that the
    curve is of (default: those that the cells' curves describe, of parabolas five); noise: sd of a
    loss, in nats, if it is known from seeds. Raises ValueError for a column that is missing or a
    rate of 0, FitError where no cell has three rates.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
    require(table, ["lr", "loss"], "rates")
    done = finished(table)
    positive("lr", done["lr"])
    known = (name for name in WIDTHS if name in done and done[name].notna().all())
    width = width or next(known, WIDTHS[1])
    if width not in WIDTHS:
        raise ValueError(f"width={width!r} is not one of {', '.join(WIDTHS)}")
    if horizon not in HORIZONS:
        raise ValueError(f"horizon={horizon!r} is not one of {', '.join(HORIZONS)}")
    if n_nearest is not None and n_nearest < 3:
        raise ValueError(f"n_nearest={n_nearest} must be 3 or more: a parabola has 3 parameters")
    if noise is not None:
        positive("noise", noise)
    require(table, [width, *([horizon] if horizon != HORIZONS[0] else [])], "rates")
    if batch is None and BATCH in done and done[BATCH].notna().all():
        batch = BATCH
    if batch:
        _check_batch(table, batch)
    columns = list(dict.fromkeys([width, DEPTH, horizon, *([batch] if batch else [])]))
    sizes = [name for name in (*_SIZES, width) if done[name].notna().any()]
    length = [] if done["budget"].notna().any() else [horizon]
    keys = list(dict.fromkeys([*sizes, *length, *([batch] if batch else [])]))
    how: dict[str, Any] = {"method": method, "n_nearest": n_nearest, "noise": noise}
    cells = best_rates(table, columns, keys, **how)
    if not cells.found:
        raise FitError(f"no best rate: {join_first(cells.skipped, 3, '; ')}")
    forms, why = _laws(cells.found, columns, batch)
    return Rates(
        method=method,
        columns=tuple(columns),
        cells=cells.found,
        forms=forms,
        skipped=cells.skipped,
        why_no_laws=why,
    )


def _check_batch(table: pd.DataFrame, batch: str) -> None:
    if batch not in table:
        raise ValueError(
            f"{setting('batch', batch)} is no column; found {', '.join(map(str, table))}"
        )
    values = pd.to_numeric(finished(table)[batch], errors="coerce").to_numpy(dtype=np.float64)
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{setting('batch', batch)} has values that are no numbers above 0")


def _laws(
    cells: Sequence[BestRate], columns: Sequence[str], batch: str | None
) -> tuple[tuple[RateForms, ...], str]:
    inside = [cell for cell in cells if cell.inside and np.isfinite(cell.lr_opt)]
    counts = Counter(cell.model for cell in inside)
    groups = [[c for c in inside if c.model == model] for model, n in counts.items() if n >= 3]
    several = {model for model, n in counts.items() if n >= 2}
    if len(several) > 1:
        groups.append([cell for cell in inside if cell.model in several])
    forms = tuple(compare_forms(group, columns, batch) for group in groups)
    why = (
        f"{len(inside)} of {len(cells)} cells have their best rate inside, and a law needs 3 of "
        "one model, or 2 of each of several"
    )
    return forms, "" if forms else why
