"""Noise of a loss by seeds, and how models differ beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.comparison import Comparison, Table, pooled_noise
from analysis.fitting.intervals import Estimate, t_quantile
from analysis.fitting.results import Warned
from analysis.fitting.status import FitError
from analysis.fitting.text import format_status, join_first, noise_cautions, pluralize
from analysis.table.checks import finished, require
from analysis.table.warned import warned

_CELL = ("series", "budget", "n_params", "lr")  # what has one expected loss
_FEW_SEEDS = 3
_NO_SEEDS = "no setting was run with two seeds or more: the noise is unknown; add seeds"


@dataclass(frozen=True, kw_only=True, repr=False)
class SeedNoise(Warned):
    """Standard deviation of a loss over seeds in nats/token, pooled over `n_cells` settings.

    budgets: those of the settings, in FLOPs.
    """

    sd: float
    dof: int
    n_cells: int
    budgets: tuple[float, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.of_table, *noise_cautions(self.dof))

    def line(self, at: float | None = None) -> str:
        """Noise, and the budgets that it was measured at, if that is not `at` alone."""
        of = " and ".join(f"{budget:.3g}" for budget in self.budgets)
        return (
            f"noise of one run: {self.sd:.4f} nats/token, of {pluralize(self.dof, 'degree')} of "
            f"freedom in {pluralize(self.n_cells, 'setting')}"
            + (f" at C = {of} FLOPs" if self.budgets != (at,) else "")
        )

    def summary(self) -> str:
        return "\n".join([self.line(), *format_status(self.status, self.warnings)])

    def to_frame(self) -> pd.DataFrame:
        row = {"sd": self.sd, "dof": self.dof, "n_cells": self.n_cells, "budgets": self.budgets}
        return pd.DataFrame([row])


@dataclass(frozen=True, kw_only=True)
class ModelMean:
    """A model at one size: its mean loss over seeds, and the difference from the baseline.

    difference: loss minus the baseline's, with its interval; nan for the baseline itself.
    """

    model: str
    n_params: float
    n_layers: float  # nan if unknown
    n_seeds: int
    loss: float
    sd: float
    difference: Estimate

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.loss))


@dataclass(frozen=True, kw_only=True, repr=False)
class Differences(Comparison):
    """Models at one budget against a baseline, lowest loss first."""

    budget: float
    baseline: str
    level: float
    noise: SeedNoise
    means: tuple[ModelMean, ...]
    warnings: tuple[str, ...]

    def tables(self) -> list[Table]:
        head = f"C = {self.budget:.3g} FLOPs, losses in nats/token, {self.level:.0%} intervals"
        return [
            Table(
                rows=self.means,
                columns="model, blocks=n_layers, n_params, seeds=n_seeds, loss, sd, perplexity, "
                "minus {}=difference",
                named=self.baseline,
                digits=5,
                head=[head],
                notes=[self.noise.line(self.budget)],
            )
        ]


@warned()
def seed_noise(table: pd.DataFrame, *, budget: float | None = None) -> SeedNoise:
    """Standard deviation of a finished run's loss over seeds, all else equal.

    Pooled over the settings (model, budget, size, learning rate) with two seeds or more, as if it
    were the same in all: of every budget, or of one. Raises FitError if there is none.
    """
    done = _seeded_runs(table)
    if budget is not None:
        done = done[done["budget"] == budget]
    done = done.drop_duplicates([*_CELL, "seed"])
    several = done[done.duplicated(list(_CELL), keep=False)]
    if several.empty:
        where = "" if budget is None else f"at C={budget:.3g}: "
        raise FitError(f"{where}{_NO_SEEDS}")
    sd, dof = pooled_noise(several["loss"], [several[name] for name in _CELL])
    budgets = sorted(several["budget"].astype(float).unique().tolist())
    return SeedNoise(sd=sd, dof=dof, n_cells=len(several) - dof, budgets=tuple(budgets))


@warned()
def compare_models(
    table: pd.DataFrame,
    baseline: str = "dense",
    *,
    budget: float | None = None,
    level: float = 0.95,
    noise: SeedNoise | None = None,
) -> Differences:
    """Each model's mean loss over seeds, at the size where it was run most often (ties go to
    the lowest loss), with the difference from the baseline. budget: by default busiest_budget;
    noise: by default that of the budget; if it is given, a single seed will do.

    Intervals are Student's t with the noise pooled over models, as if it were the same in all: of
    one difference, not of all together. Sizes chosen for their loss with one of these seeds flatter
    every model a little.
    Raises FitError if the baseline or all others have too few seeds there.
    """
    done = _seeded_runs(table)
    least = 1 if noise else 2
    budget = busiest_budget(table) if budget is None else budget
    cells = _most_seeds(done[done["budget"] == budget], least)
    names: Sequence[str] = list(cells)
    if baseline not in names or len(names) < 2:
        have = join_first(names, 6) or "none"
        many = "a seed or more" if noise else "two seeds or more"
        raise FitError(f"wanted: {baseline} and another; at C={budget:.3g} {many} have: {have}")
    noise = noise or seed_noise(table, budget=budget)
    losses = {name: runs["loss"].to_numpy(dtype=np.float64) for name, runs in cells.items()}
    means = [
        ModelMean(
            model=name,
            n_params=float(runs["n_params"].iloc[0]),
            n_layers=float(runs["n_layers"].astype("float64").iloc[0]),
            n_seeds=len(runs),
            loss=float(losses[name].mean()),
            sd=float(losses[name].std(ddof=1)) if len(runs) > 1 else float("nan"),
            difference=_difference(losses[name], losses[baseline], noise, level)
            if name != baseline
            else Estimate(float("nan"), float("nan"), float("nan")),
        )
        for name, runs in cells.items()
    ]
    return Differences(
        budget=budget,
        baseline=baseline,
        level=level,
        noise=noise,
        means=tuple(sorted(means, key=lambda m: m.loss)),
        warnings=tuple(_few_seeds(means)),
    )


def seeded_budgets(table: pd.DataFrame) -> dict[float, int]:
    """Ascending budgets with settings of several seeds, and how many models have them there.

    Raises FitError if there are none.
    """
    by_budget = _settings(_seeded_runs(table), 2).groupby("budget")["series"].nunique()
    if by_budget.empty:
        raise FitError(_NO_SEEDS)
    return dict(zip(by_budget.index.tolist(), by_budget.tolist(), strict=True))


def busiest_budget(table: pd.DataFrame) -> float:
    """Where most models have several seeds; ties go to the smallest. Raises FitError if none."""
    budgets = seeded_budgets(table)
    return max(budgets, key=budgets.__getitem__)


def _settings(done: pd.DataFrame, least: int) -> pd.DataFrame:
    """A row for each setting that was run with so many seeds or more."""
    n_seeds = done.groupby(list(_CELL), dropna=False)["seed"].nunique()
    return n_seeds[n_seeds >= least].reset_index()


def _few_seeds(means: Sequence[ModelMean]) -> list[str]:
    """A warning for each number of seeds that is small: "dense, moe have 1 seed"."""
    found = []
    for n in sorted({m.n_seeds for m in means if m.n_seeds < _FEW_SEEDS}):
        names = [m.model for m in means if m.n_seeds == n]
        has = "has" if len(names) == 1 else "have"
        found.append(f"{join_first(names, 8)} {has} {pluralize(n, 'seed')}")
    return found


def _seeded_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Finished runs, whose budget, size and seed must be known."""
    require(table, ["budget", "n_params", "seed"], "the comparison of seeds")
    return finished(table)


def _most_seeds(done: pd.DataFrame, least: int) -> dict[str, pd.DataFrame]:
    """For each series the runs of its cell with the most seeds, of those the lowest mean loss; a
    run a seed. Series without a cell of so many seeds or more are left out.
    """
    runs = done.drop_duplicates([*_CELL, "seed"])
    # On arrays: a pandas operation a cell takes seconds over the budgets and sizes of a report.
    cell = runs.groupby(list(_CELL), dropna=False).ngroup().to_numpy()
    n_seeds = np.bincount(cell)
    losses = np.bincount(cell, weights=runs["loss"].to_numpy(dtype=np.float64)) / n_seeds
    series = dict(zip(cell.tolist(), runs["series"], strict=True))
    best: dict[str, int] = {}
    for i in np.lexsort([losses, -n_seeds]).tolist():
        if n_seeds[i] >= least:
            best.setdefault(series[i], i)
    return {name: runs[cell == i] for name, i in sorted(best.items())}


def _difference(of: np.ndarray, to: np.ndarray, noise: SeedNoise, level: float) -> Estimate:
    value = float(of.mean() - to.mean())
    width = t_quantile(noise.dof, level) * noise.sd * float(np.sqrt(1 / len(of) + 1 / len(to)))
    return Estimate.around(value, width)
