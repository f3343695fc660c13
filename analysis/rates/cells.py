"""Best peak learning rate of each cell: the lowest point of its curve in ln(rate)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.intervals import Array
from analysis.fitting.status import FitStatus, find_status
from analysis.isoflop.flags import Flag
from analysis.isoflop.shape import FittedShape
from analysis.rates.curves import CellCurve, Method, fit_curves_by_cell
from analysis.rates.flags import check_rates
from analysis.rates.tried import Tried, tried_in_cells


@dataclass(frozen=True, kw_only=True)
class BestRate:
    """A cell's best rate. at: what it is of, e.g. {"n_params": 1e6, "n_tokens": 1e8}; name: for
    messages.

    lrs, losses: those tried that did not diverge, means over seeds in nats/token; diverged: the
    rates of which no run is done; fitted: places in lrs of those that the curve, `shape`, is of;
    lr_opt: its lowest point, with its 95 % interval; error: its standard error, of ln(rate), the
    shape taken as known; noise, dof: of a rate's loss, in nats. nan where there is no minimum, or
    the noise is unknown. inside: the curve has a minimum, between the rates tried. draws (S, 5),
    common (S,): of skewed curves, as CellCurve has them.
    """

    model: str
    budget: float
    at: Mapping[str, float]
    name: str
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: tuple[float, ...]
    n_seeds: int
    fitted: tuple[int, ...]
    lr_opt: float
    lr_interval: tuple[float, float]
    error: float
    loss_opt: float
    noise: float
    dof: int
    inside: bool
    flags: tuple[Flag, ...]
    warnings: tuple[str, ...]
    shape: FittedShape = field(repr=False, compare=False)
    draws: Array = field(repr=False, compare=False)
    common: Array = field(repr=False, compare=False)

    @property
    def status(self) -> FitStatus:
        return find_status(self.warnings)

    @property
    def lr_tried(self) -> float:
        return self.lrs[int(np.argmin(self.losses))]


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
    method: Method = "slice",
    n_nearest: int | None = None,
    noise: float | None = None,
) -> Cells:
    """Best rate of each cell of a checked table, whose rates are known and above 0.

    columns: of which `at` is; keys: of them, those that part cells of one series and budget.
    noise: sd of a loss of one seed, in nats, if it is known; else it is from the scatter about the
    curves of a series, and that of seeds about their means.
    """
    tried, skipped = tried_in_cells(table, columns, keys)
    found: list[BestRate] = []
    for model in dict.fromkeys(cell.model for cell in tried):
        own = [cell for cell in tried if cell.model == model]
        curves = fit_curves_by_cell(own, method, n_nearest, noise)
        found += [_best(cell, curve) for cell, curve in zip(own, curves, strict=True)]
    return Cells(found=tuple(found), skipped=tuple(skipped))


def _best(cell: Tried, curve: CellCurve) -> BestRate:
    shape, (low, high) = curve.shape, curve.u_interval
    flagged = check_rates(cell.u, cell.losses, cell.diverged, shape, curve.u_opt, (low, high))
    flagged += curve.found_off
    with np.errstate(over="ignore"):
        interval = float(np.exp(low)), float(np.exp(high))
        lr_opt = float(np.exp(curve.u_opt))
    return BestRate(
        model=cell.model,
        budget=cell.budget,
        at=cell.at,
        name=cell.name,
        lrs=tuple(np.exp(cell.u).tolist()),
        losses=tuple(cell.losses.tolist()),
        diverged=tuple(cell.diverged.tolist()),
        n_seeds=cell.n_seeds,
        fitted=tuple(curve.on.tolist()),
        lr_opt=lr_opt,
        lr_interval=interval,
        error=curve.error,
        loss_opt=float(shape.loss_opt) if np.isfinite(shape.u_opt) else float("nan"),
        noise=curve.noise.sd,
        dof=curve.noise.dof,
        inside=bool(cell.u[0] <= curve.u_opt <= cell.u[-1]),
        flags=tuple(flag for flag, _ in flagged),
        warnings=tuple(text for _, text in flagged),
        shape=shape,
        draws=curve.draws,
        common=curve.common,
    )


def make_frame(cells: Sequence[BestRate]) -> pd.DataFrame:
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
