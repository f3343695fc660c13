"""Candidates for the next runs: sizes and budgets of a table, steps around them, more seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting.intervals import Array
from analysis.isoflop.shape import SAME
from analysis.planning.arms import Arm
from analysis.table.checks import finished

_SETS = (3, 4, 5)  # sizes of a curve at a new budget
_DEGREE = 3  # parameters are a polynomial of the depth, where the width goes with it


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run to make. size: as a sweep says it, n_layers, or NaN where the table has none."""

    model: str
    budget: float
    size: float
    n_params: float
    seed: int
    lr: float

    @property
    def cell(self) -> tuple[str, float, float]:
        return self.model, self.budget, self.n_params


@dataclass(frozen=True, kw_only=True, eq=False)
class Ladder:
    """A model's sizes, ascending: n_layers (or NaN) and the size on the axis, as the table has it;
    rates: (budget, ln size, lr) of its runs; seeds: (budget, position) -> the highest.
    """

    model: str
    layers: Array
    sizes: Array
    rates: Array
    seeds: Mapping[tuple[float, int], int]

    @property
    def u(self) -> Array:
        return np.log(self.sizes)

    def runs(
        self, budget: float, positions: Sequence[int], taken: Mapping[tuple[float, int], int]
    ) -> list[Run]:
        """A run at each; taken: seeds that are chosen already, as seeds has them."""
        found = []
        for i in positions:
            highest = max(self.seeds.get((budget, i), -1), taken.get((budget, i), -1))
            away = np.abs(np.log(self.rates[:, 0] / budget)) * 10 + np.abs(
                self.rates[:, 1] - self.u[i]
            )
            found.append(
                Run(
                    model=self.model,
                    budget=budget,
                    size=float(self.layers[i]),
                    n_params=float(self.sizes[i]),
                    seed=highest + 1,
                    lr=float(self.rates[int(np.argmin(away)), 2]),
                )
            )
        return found


def find_ladder(table: pd.DataFrame, model: str, x: str) -> Ladder:
    """Sizes that a model has in the table, those between and one step beyond. Depths are whole
    numbers, and their parameters a polynomial through the table's; without depths the steps are
    those of ln(size).
    """
    runs = finished(table)
    runs = runs[runs["series"] == model]
    sizes = runs.drop_duplicates(x).sort_values(x)
    given = sizes[x].to_numpy(np.float64)
    known = np.log(given)
    layers = sizes["n_layers"].to_numpy(np.float64, na_value=np.nan)
    if np.isfinite(layers).all() and len(np.unique(layers)) == len(layers):
        every = np.arange(max(layers.min() - 1, 1), layers.max() + 2)
        fit = np.polyfit(layers, given, min(_DEGREE, len(layers) - 1))
        values = np.polyval(fit, every)
        keep = (values > 0) | np.isin(every, layers)
        every, steps = every[keep], np.maximum(values[keep], 1.0)
        for layer, size in zip(layers, given, strict=True):
            steps[every == layer] = size
    else:
        between = np.exp((known[1:] + known[:-1]) / 2)
        ends = [given[0] ** 2 / given[1], given[-1] ** 2 / given[-2]] if len(given) > 1 else []
        steps = np.sort(np.concatenate([given, between, ends]))
        every = np.full(len(steps), np.nan)
    seeds: dict[tuple[float, int], int] = {}
    has = runs.assign(seed=runs["seed"].fillna(0).astype(int))
    for budget, at, seed in zip(has["budget"], np.log(has[x]), has["seed"], strict=True):
        key = float(budget), int(np.abs(np.log(steps) - at).argmin())
        seeds[key] = max(seeds.get(key, -1), int(seed))
    rates = np.stack(
        [runs["budget"].to_numpy(np.float64), np.log(runs[x].to_numpy(np.float64)),
         runs["lr"].to_numpy(np.float64, na_value=np.nan)], axis=1,
    )  # fmt: skip
    return Ladder(model=model, layers=every, sizes=steps, rates=rates, seeds=seeds)


def new_budgets(arm: Arm) -> list[float]:
    """Between the budgets of a model's curves, and a step beyond each end, at two digits."""
    x = arm.log_budgets
    step = float(np.median(np.diff(x))) if len(x) > 1 else float(np.log(3))
    places = [x[0] - step, *((x[1:] + x[:-1]) / 2), x[-1] + step]
    return [float(f"{np.exp(at):.1e}") for at in places]


def options(
    arm: Arm, ladder: Ladder, budgets: Sequence[float], reach: float
) -> list[tuple[float, list[int]]]:
    """Budget and positions on the ladder of what may be added at once: a run on a curve that
    exists, or the runs of a whole new one, on both sides of where its minimum is expected.

    budgets: of new curves; reach: how far from a minimum a size may be, in logarithms.
    """
    found: list[tuple[float, list[int]]] = []
    for curve in arm.curves:
        for i, at in enumerate(ladder.u):
            is_there = bool((np.abs(curve.u - at) < SAME).any())
            if abs(at - curve.u_opt) <= reach and not (is_there and arm.is_lack):
                found.append((curve.budget, [i]))
    for budget in budgets:
        if arm.curve(budget) is not None:
            continue
        away = ladder.u - arm.expected(budget).u_opt
        order = [int(i) for i in np.argsort(np.abs(away), kind="stable") if abs(away[i]) <= reach]
        for n in _SETS:
            chosen = sorted(order[:n])
            if len(order) >= n and away[chosen[0]] < 0 < away[chosen[-1]]:
                found.append((budget, chosen))
    return found


def find_reach(arm: Arm) -> float:
    """How far the table's sizes are from a minimum, in logarithms: farther ones would tell of the
    curves' form, which is taken for granted.
    """
    return max(float(np.abs(curve.u - curve.u_opt).max()) for curve in arm.curves) + SAME
