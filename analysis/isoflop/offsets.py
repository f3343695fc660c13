"""Losses of runs that trained a little more or less than their budget, moved to the budget."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.fitting.intervals import Array
from analysis.fitting.power_law import FrontierFit, PowerLaw, fit_frontier, fit_power_law
from analysis.isoflop.left_out import NEEDED
from analysis.isoflop.shape import fit_parabola
from analysis.table.budgets import COUNTED
from analysis.table.load import best_of_cells, finished

_SIZES = ("n_params", "n_active_params", "n_non_embedding_params")


@dataclass(frozen=True, kw_only=True, eq=False)
class Moved:
    """A table whose losses are at its budgets.

    largest: how far a loss was moved, nats/token; off: how far a run's FLOPs were from its budget,
    as a share of it; both of the runs whose losses were moved, n of them. left: series with losses
    that were not, and the reason; 0, {} where every run's FLOPs are its budget.
    """

    table: pd.DataFrame
    n: int = 0
    largest: float = 0.0
    off: float = 0.0
    left: dict[str, str] = field(default_factory=dict)

    @property
    def how(self) -> tuple[str, ...]:
        """Moves that were made, for headings; () where there was nothing to do."""
        moved = (
            f"{self.n} losses moved along the curves to their budget's FLOPs, by at most "
            f"{self.largest:.2g} nats/token for {self.off:.2g} of the FLOPs"
        )
        kept = [
            f"losses of {series} not moved to their budget's FLOPs: {why}"
            for series, why in self.left.items()
        ]
        return (*([moved] if self.n else []), *kept)


def at_budgets(table: pd.DataFrame, x: str = "n_params") -> Moved:
    """Losses as they would be at the FLOPs of the budget, by each series' own curves.

    A curve is loss*(C) + a(C) (u - u*(C))^2, u = ln x. loss* follows L = E + A C^-alpha from four
    budgets on, else a power of C, as u* (of x) and a do. They are fitted to the parabolas of the
    losses as they are. A loss then changes by what the curve at its x does from the run's FLOPs
    (the column counted_budget) to the budget. At the minimum that is loss* alone, for there the
    loss does not depend on x to first order. A series with fewer than two minima inside its
    sizes has no such laws, and a budget with fewer than three sizes no curve. Tokens change in
    proportion to the FLOPs, or sizes where x is tokens.
    """
    if COUNTED not in table:
        return Moved(table=table)
    own = table[COUNTED].astype("float64")
    done = table["status"].eq("done") & own.notna() & table[x].notna()
    off = (own / table["budget"].astype("float64") - 1).abs().where(done, 0.0)
    if not off.gt(0).any():
        return Moved(table=table)
    loss = table["loss"].astype("float64").copy()
    left = {}
    moved = pd.Series(False, index=table.index)
    for series, runs in finished(table).groupby("series", sort=False):
        runs = runs[runs[x].notna()]
        sizes = runs.groupby("budget")[x].nunique()
        beside = (table["series"] == series) & off.gt(0)
        at = beside & table["budget"].isin(sizes.index[sizes >= NEEDED])
        curves = _curves(runs, x) if at.any() else None
        if curves is None:
            at = beside & False
        rest = off[beside & ~at]
        if len(rest):
            why = (
                "fewer than two budgets have a minimum to follow"
                if curves is None
                else f"{len(rest)} of them are at budgets with fewer than {NEEDED} sizes"
            )
            left[str(series)] = f"{why}; they are off by at most {rest.max():.2g} of it"
        if curves is None:
            continue
        u, budget, counted = (
            np.asarray(values[at], dtype=np.float64)
            for values in (np.log(table[x].astype("float64")), table["budget"], own)
        )
        loss[at] += np.subtract(curves.loss(u, budget), curves.loss(u, counted))
        moved |= at
    factor = (table["budget"].astype("float64") / own).where(moved, 1.0)
    others = [name for name in (_SIZES if x == "n_tokens" else ("n_tokens",)) if name in table]
    change = (loss - table["loss"])[moved].abs()
    return Moved(
        table=table.assign(
            loss=loss,
            perplexity=table["perplexity"].where(~moved, np.exp(loss)),
            **{name: table[name] * factor for name in others},
            **{COUNTED: own.where(~moved, table["budget"])},
        ),
        n=int(moved.sum()),
        largest=float(change.max()) if moved.any() else 0.0,
        off=float(off[moved].max()) if moved.any() else 0.0,
        left=left,
    )


@dataclass(frozen=True, kw_only=True)
class _Curves:
    """How the parabolas of one series move with compute."""

    loss_opt: PowerLaw | FrontierFit
    x_opt: PowerLaw
    a: PowerLaw

    def loss(self, u: Array, budget: Array) -> Array:
        """In nats/token, at ln x and FLOPs (n,)."""
        u_opt = np.log(self.x_opt.predict(budget).value)
        a = self.a.predict(budget).value
        return np.asarray(self.loss_opt.predict(budget).value + a * (u - u_opt) ** 2)


def _curves(runs: pd.DataFrame, x: str) -> _Curves | None:
    """None below two budgets with a minimum inside their sizes."""
    found = []
    for budget, own in best_of_cells(runs, by=["budget", x]).groupby("budget"):
        u, losses = np.log(own[x].to_numpy(np.float64)), own["loss"].to_numpy(np.float64)
        if len(u) < NEEDED:
            continue
        parabola = fit_parabola(u, losses)
        if parabola.a > 0 and u.min() <= parabola.u_opt <= u.max():
            found.append((budget, parabola.loss_opt, np.exp(parabola.u_opt), parabola.a))
    if len(found) < 2:
        return None
    budgets, losses, sizes, a = np.array(found, dtype=np.float64).T
    fit_loss = fit_frontier if len(found) >= 4 else fit_power_law
    return _Curves(
        loss_opt=fit_loss(budgets, losses),
        x_opt=fit_power_law(budgets, sizes),
        a=fit_power_law(budgets, a),
    )
