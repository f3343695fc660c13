"""The best peak learning rate of each cell: the lowest point of a parabola in ln(rate).

A cell is what was tuned as one: a series, budget, size and batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.fitting.intervals import Array, t_quantile
from analysis.fitting.status import FitStatus, status_of
from analysis.fitting.text import pluralize
from analysis.isoflop.flags import Flag
from analysis.isoflop.resample import nearest
from analysis.isoflop.shape import FittedShape, fit_parabola
from analysis.rates.flags import check_rates
from analysis.table.load import best_of_cells

NEEDED = 3  # rates of a parabola
NEAREST = 5  # rates about the best that a parabola describes
_KNOWN = 1_000_000  # degrees of freedom of a noise that was given: the normal distribution


@dataclass(frozen=True, kw_only=True)
class BestRate:
    """A cell's best rate. at: what it is of, e.g. {"n_params": 1e6, "n_tokens": 1e8}; name: for
    messages.

    lrs, losses: those tried that did not diverge, means over seeds in nats/token; diverged: the
    rates of which no run is done; n_fitted: rates of the parabola, the nearest to the best;
    lr_opt: its lowest point, with its 95 % interval by Fieller; error: its standard error, of
    ln(rate); noise, dof: of a rate's loss, in nats. nan where there is no minimum, or the noise is
    unknown. inside: the parabola has a minimum, between the rates tried.
    """

    model: str
    budget: float
    at: Mapping[str, float]
    name: str
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: tuple[float, ...]
    n_seeds: int
    n_fitted: int
    lr_opt: float
    lr_interval: tuple[float, float]
    error: float
    loss_opt: float
    noise: float
    dof: int
    inside: bool
    flags: tuple[Flag, ...]
    warnings: tuple[str, ...]

    @property
    def status(self) -> FitStatus:
        return status_of(self.warnings)

    @property
    def lr_tried(self) -> float:
        return self.lrs[int(np.argmin(self.losses))]


class _Tried(NamedTuple):
    """A cell before its fit. u: ln of the rates, in order; diverged: the rates."""

    model: str
    budget: float
    at: dict[str, float]
    name: str
    u: Array
    losses: Array
    n_seeds: int
    diverged: Array


@dataclass(frozen=True, kw_only=True)
class Cells:
    """found: those with a parabola, by model, budget and size; skipped: why others have none."""

    found: tuple[BestRate, ...]
    skipped: tuple[str, ...]


def best_rates(
    table: pd.DataFrame,
    columns: Sequence[str],
    keys: Sequence[str],
    *,
    n_nearest: int = NEAREST,
    noise: float | None = None,
) -> Cells:
    """The best rate of each cell of a checked table, whose rates are known and above 0.

    columns: of which `at` is; keys: of them, those that part cells of one series and budget.
    Seeds are averaged within a rate, as in best_of_cells. noise: sd of a loss of one seed, in nats,
    if it is known; else it is from the scatter about the parabolas of a series.
    """
    tried, skipped = _tried(table, columns, keys)
    found: list[BestRate] = []
    for model in dict.fromkeys(cell.model for cell in tried):
        own = [cell for cell in tried if cell.model == model]
        kept = [nearest(cell.u, cell.losses, n_nearest) for cell in own]
        shapes = [fit_parabola(c.u[on], c.losses[on]) for c, on in zip(own, kept, strict=True)]
        sd, dof = (noise, _KNOWN) if noise is not None else _pooled(own, shapes)
        found += [_best(cell, shape, sd, dof) for cell, shape in zip(own, shapes, strict=True)]
    return Cells(found=tuple(found), skipped=tuple(skipped))


def _tried(
    table: pd.DataFrame, columns: Sequence[str], keys: Sequence[str]
) -> tuple[list[_Tried], list[str]]:
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
        diverged = sorted(lost.get(number, set()) - set(part["lr"]))
        cell = _Tried(
            model=model,
            budget=budget,
            at=at,
            name=_name(model, budget, {name: at[name] for name in naming}),
            u=np.log(part["lr"].to_numpy(dtype=np.float64)),
            losses=part["loss"].to_numpy(dtype=np.float64),
            n_seeds=int(part["n_seeds"].min()),
            diverged=np.array(diverged, dtype=np.float64),
        )
        if len(cell.u) < NEEDED:
            n = pluralize(len(cell.u), "rate")
            skipped.append(f"{cell.name}: {n}, and a parabola needs {NEEDED}")
        else:
            cells.append(cell)
    return cells, skipped


def _pooled(cells: Sequence[_Tried], shapes: Sequence[FittedShape]) -> tuple[float, int]:
    """The pooled noise of one seed's loss: scatter of a mean over n seeds counts n times."""
    dof = sum(len(shape.residuals) - 3 for shape in shapes)
    squares = sum(
        cell.n_seeds * float(shape.residuals @ shape.residuals)
        for cell, shape in zip(cells, shapes, strict=True)
    )
    return (float(np.sqrt(squares / dof)), dof) if dof else (float("nan"), 0)


def _best(cell: _Tried, shape: FittedShape, sd_of_seed: float, dof: int) -> BestRate:
    sd = sd_of_seed / np.sqrt(cell.n_seeds)
    low, high = shape.u_interval(sd, t_quantile(dof, 0.95))
    flagged = check_rates(cell.u, cell.losses, cell.diverged, shape, (low, high))
    inside = bool(cell.u[0] <= shape.u_opt <= cell.u[-1])
    with np.errstate(over="ignore"):
        interval = float(np.exp(low)), float(np.exp(high))
        lr_opt = float(np.exp(shape.u_opt))
    return BestRate(
        model=cell.model,
        budget=cell.budget,
        at=cell.at,
        name=cell.name,
        lrs=tuple(np.exp(cell.u).tolist()),
        losses=tuple(cell.losses.tolist()),
        diverged=tuple(cell.diverged.tolist()),
        n_seeds=cell.n_seeds,
        n_fitted=len(shape.residuals),
        lr_opt=lr_opt,
        lr_interval=interval,
        error=float(shape.u_error(sd)),
        loss_opt=float(shape.loss_opt),
        noise=float(sd),
        dof=dof,
        inside=inside,
        flags=tuple(flag for flag, _ in flagged),
        warnings=tuple(text for _, text in flagged),
    )


def _name(model: str, budget: float, at: Mapping[str, float]) -> str:
    flops = [f"C={numbers.flops(budget)}"] if np.isfinite(budget) else []
    sizes = [f"{name}={numbers.count(value, 4)}" for name, value in at.items()]
    return " ".join([model, *flops, *sizes])


def frame_of(cells: Sequence[BestRate]) -> pd.DataFrame:
    """A row a cell."""
    rows: list[dict[str, Any]] = []
    for cell in cells:
        low, high = cell.lr_interval
        rows.append(
            {
                "model": cell.model,
                "budget": cell.budget,
                **cell.at,
                "n_rates": len(cell.lrs),
                "lr_tried": cell.lr_tried,
                "lr_opt": cell.lr_opt if cell.inside else float("nan"),
                "lr_lower": low,
                "lr_upper": high,
                "loss_opt": cell.loss_opt if cell.inside else float("nan"),
                "warnings": ", ".join(cell.flags) or "none",
            }
        )
    return pd.DataFrame(rows)
