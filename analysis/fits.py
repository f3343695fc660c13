"""Fits of one table, each made once, whoever asks for it."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from analysis.fitting.text import join_first
from analysis.isoflop.curves import IsoFLOPFit, NoCurveError
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.methods import Method
from analysis.multiplier.fit import Asymptote, compute_multipliers
from analysis.multiplier.profile import Slopes
from analysis.multiplier.result import ComputeMultipliers
from analysis.parametric import NAMES, ParametricFit, fit_parametric
from analysis.table.budgets import own_budget
from analysis.table.load import best_of_cells, finished, require
from analysis.table.trunks import shared_trunk


@dataclass(kw_only=True, eq=False)
class TableFits:
    """IsoFLOP curves and surfaces of a table, fitted when they are first asked for.

    n_nearest and noise are fit_isoflop's, seed that of every bootstrap. A fit that can't be made
    raises its ValueError each time.
    """

    table: pd.DataFrame = field(kw_only=False)
    n_nearest: int | None = None
    noise: float | None = None
    seed: int = 0
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False)
    _begun: dict[tuple[str, str], Callable[[], ParametricFit]] = field(
        default_factory=dict, init=False
    )

    def isoflop(self, x: str, method: Method) -> IsoFLOPFit:
        return self._once(
            (x, method),
            lambda: fit_isoflop(
                self.table, x, method, self.n_nearest, noise=self.noise, seed=self.seed
            ),
        )

    def find_isoflop(self, series: str, x: str, method: Method) -> IsoFLOPFit:
        try:
            return self.isoflop(x, method).only(series)
        except NoCurveError as error:
            raise error.only(series) from None

    def surface(self, series: str, size: str) -> ParametricFit:
        """L(N, D) of one series, to the best run of each budget and size; size: what N is."""
        fit = self._begun.get((series, size), partial(self.fit_surface, series, size))
        return self._once((series, size, "surface"), fit)

    def begin_surface(self, series: str, size: str, fit: Callable[[], ParametricFit]) -> None:
        """`surface` is what fit returns, or raises, when it is asked for."""
        self._begun[series, size] = fit

    def fit_surface(self, series: str, size: str) -> ParametricFit:
        """`surface`, made again."""
        done = finished(self.table)
        own = done[done["series"] == series]
        require(own, [size, "n_tokens"], "the surface")
        cluster = shared_trunk(self.table)
        by = [own_budget(own), size, *([cluster] if cluster else [])]
        cells = best_of_cells(own, by=by)
        groups = cells[cluster] if cluster else None
        return fit_parametric(
            cells[size], cells["n_tokens"], cells["loss"], groups=groups, seed=self.seed
        )

    def _once(self, key: Hashable, fit: Callable[[], Any]) -> Any:
        if key not in self._made:
            try:
                self._made[key] = fit()
            except ValueError as error:  # a FitError is one
                self._made[key] = error
        found = self._made[key]
        if isinstance(found, ValueError):
            raise found
        return found


def with_surface(done: pd.DataFrame, size: str) -> tuple[list[str], list[str]]:
    """Series of finished runs enough for a surface, and why others have none; size: its N."""
    if done["n_tokens"].isna().all():
        return [], ["the table has no n_tokens"]
    cells = best_of_cells(done, by=["series", "budget", size])
    numbers = cells.groupby("series", sort=False).size()
    k = len(NAMES)
    few = [f"{model} has {n}" for model, n in numbers[numbers <= k].items()]
    why = (
        [f"it needs more than {k} distinct runs: {join_first(few)}; add sizes or budgets"]
        if few
        else []
    )
    return [str(model) for model in numbers.index[numbers > k]], why


def find_multipliers(
    fit: IsoFLOPFit,
    baseline: str,
    *,
    asymptote: Asymptote = None,
    slopes: Slopes = "own",
    level: float = 0.95,
) -> ComputeMultipliers:
    """compute_multipliers of the minima of isoFLOP curves; its arguments.

    Raises ValueError if the baseline has no minimum inside its sizes.
    """
    points = {baseline: fit.frontier(baseline)}
    skipped = {}
    for model in dict.fromkeys(curve.model for curve in fit.curves):
        if any(curve.inside for curve in fit.curves if curve.model == model):
            points[model] = fit.frontier(model)
        else:
            skipped[model] = "no minimum inside its sizes"
    found = compute_multipliers(points, baseline, asymptote=asymptote, slopes=slopes, level=level)
    return replace(found, skipped={**skipped, **found.skipped})
