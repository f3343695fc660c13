"""Rates that were tried in each cell, before anything is fitted.

A cell is what was tuned as one: a series, budget, size and batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.fitting.intervals import Array
from analysis.fitting.text import pluralize
from analysis.table.load import best_of_cells

NEEDED = 3  # rates of a curve


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A cell. u (n,): ln of the rates, in order; losses (n,): means over seeds; n_seeds: of the
    rate that has fewest; diverged: rates of which no run is done.

    squares, dof: of the seeds' losses about their rates' means, and its degrees of freedom.
    """

    model: str
    budget: float
    at: Mapping[str, float]
    name: str
    u: Array
    losses: Array
    n_seeds: int
    diverged: Array
    squares: float
    dof: int


def tried_in_cells(
    table: pd.DataFrame, columns: Sequence[str], keys: Sequence[str]
) -> tuple[list[Tried], list[str]]:
    """Cells with NEEDED rates, and why others have no curve. columns, keys: as best_rates has them.

    Seeds are averaged within a rate, as in best_of_cells.
    """
    by = ["series", "budget", *keys]
    runs = table[table["status"].isin(["done", "diverged"]) & table["lr"].notna()]
    runs = runs.assign(cell=runs.groupby(by, dropna=False).ngroup())
    rates = best_of_cells(runs, by=["cell", "lr"])
    lost = runs[runs["status"] == "diverged"].groupby("cell")["lr"].agg(set).to_dict()
    naming = [name for name in columns if name in keys and rates[name].nunique() > 1]
    cells, skipped = [], []
    for number, part in rates.sort_values("lr").groupby("cell"):
        model, budget = str(part["series"].iloc[0]), float(part["budget"].iloc[0])
        at = {name: float(part[name].astype("float64").mean()) for name in columns}
        name = _name(model, budget, {name: at[name] for name in naming})
        if len(part) < NEEDED:
            n = pluralize(len(part), "rate")
            skipped.append(f"{name}: {n}, and a curve needs {NEEDED}")
            continue
        diverged = sorted(lost.get(number, set()) - set(part["lr"]))
        free = part["n_seeds"].to_numpy(dtype=np.int64) - 1
        sds = part["loss_sd"].to_numpy(dtype=np.float64)
        cells.append(
            Tried(
                model=model,
                budget=budget,
                at=at,
                name=name,
                u=np.log(part["lr"].to_numpy(dtype=np.float64)),
                losses=part["loss"].to_numpy(dtype=np.float64),
                n_seeds=int(part["n_seeds"].min()),
                diverged=np.array(diverged, dtype=np.float64),
                squares=float(free[free > 0] @ sds[free > 0] ** 2),
                dof=int(free.sum()),
            )
        )
    return cells, skipped


def _name(model: str, budget: float, at: Mapping[str, float]) -> str:
    flops = [f"C={numbers.flops(budget)}"] if np.isfinite(budget) else []
    sizes = [f"{name}={numbers.count(value, 4)}" for name, value in at.items()]
    return " ".join([model, *flops, *sizes])
