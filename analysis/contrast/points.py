"""Points of the curves: a layer's mean loss over seeds at a budget and size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.fitting.intervals import Array
from analysis.fitting.status import FitError
from analysis.fitting.text import join_first
from analysis.table.cells import best_of_cells
from analysis.table.checks import finished, require

SIZES = ("d_model", "n_layers", "n_active_params", "n_non_embedding_params", "n_params")
XS = (*SIZES, "lr")  # of curves; lr: over the learning rates of one size
_LEAST = 2  # sizes of a curve whose curvature others tell


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """S points of curves. cells: (layer, budget in FLOPs), of which `of` (S,) says each point's.

    u (S,): ln(size) less `centre`; losses (S,): nats/token, means of n (S,) seeds; squares (S,):
    summed squares of the seeds about them. left_out: cells without a curve, in words. rows: the
    best run of each, as best_of_cells has it; none of points that are made.
    """

    x_name: str
    centre: float
    cells: tuple[tuple[str, float], ...]
    of: np.ndarray
    u: Array
    losses: Array
    n: np.ndarray
    squares: Array
    left_out: tuple[str, ...]
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def run_ids(self) -> list[tuple[str, ...]]:
        """Runs that each point is the mean of."""
        return list(self.rows["run_ids"])

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer for layer, _ in self.cells))

    @property
    def budgets(self) -> tuple[float, ...]:
        return tuple(sorted({budget for _, budget in self.cells}))

    def find_range(self, cell: tuple[str, float]) -> tuple[float, float]:
        """Smallest and largest size of a curve."""
        u = self.u[self.of == self.cells.index(cell)] + self.centre
        return float(np.exp(u.min())), float(np.exp(u.max()))


def make_points(table: pd.DataFrame, x: str | None = None) -> Points:
    """Points of a checked table. x: one of XS; by default the first of d_model and
    n_active_params that all finished runs have, for curves of one curvature need a size that means
    the same for every layer.

    Of several learning rates of a size the best counts, the mean over its seeds (best_of_cells).
    Over lr each rate is a point, and a layer has one size at a budget.
    Raises ValueError for another x or several sizes over lr, FitError where no layer has a curve.
    """
    x = x or _first_known(table)
    if x not in XS:
        raise ValueError(f"x={x!r} is not one of {', '.join(XS)}")
    require(table, ["budget", x], "contrast")
    if x == "lr":
        _require_one_size(table)
    sizes = best_of_cells(table, by=["series", "budget", x]).sort_values(["budget", x])
    n_sizes = sizes.groupby(["series", "budget"], sort=False)[x].transform("size")
    few = sizes[n_sizes < _LEAST]
    what = "learning rate" if x == "lr" else "size"
    left_out = [
        f"{series} at C={budget:.3g} has one {what}"
        for series, budget in zip(few["series"], few["budget"], strict=True)
    ]
    kept = sizes[n_sizes >= _LEAST]
    if kept.empty:
        raise FitError(
            f"no curve to fit, for each needs two {what}s: {join_first(left_out, 3, '; ')}"
        )
    names = list(dict.fromkeys(finished(table)["series"].astype(str)))
    each = list(zip(kept["series"].astype(str), kept["budget"].astype(float), strict=True))
    cells = sorted(set(each), key=lambda cell: (names.index(cell[0]), cell[1]))
    place: Mapping[tuple[str, float], int] = {cell: i for i, cell in enumerate(cells)}
    u = np.log(kept[x].to_numpy(dtype=np.float64))
    n = kept["n_seeds"].to_numpy(dtype=int)
    sd = np.nan_to_num(kept["loss_sd"].to_numpy(dtype=np.float64))
    return Points(
        x_name=x,
        centre=float(u.mean()),
        cells=tuple(cells),
        of=np.array([place[cell] for cell in each]),
        u=u - u.mean(),
        losses=kept["loss"].to_numpy(dtype=np.float64),
        n=n,
        squares=sd**2 * (n - 1),
        left_out=tuple(left_out),
        rows=kept.reset_index(drop=True),
    )


def _require_one_size(table: pd.DataFrame) -> None:
    done = finished(table)
    for size in (name for name in SIZES if name in done and done[name].notna().all()):
        for (series, budget), own in done.groupby(["series", "budget"], sort=False)[size]:
            if len(found := own.unique()) > 1:
                raise ValueError(
                    f"x='lr' needs one size of a layer at a budget: {series} at C={budget:.3g} has "
                    f"{size} {join_first([f'{value:g}' for value in found], 3)}; "
                    f"give where, e.g. {size}={found[0]:g}"
                )


def _first_known(table: pd.DataFrame) -> str:
    done = finished(table)
    known: Sequence[str] = [
        name for name in ("d_model", "n_active_params") if name in done and done[name].notna().all()
    ]
    return known[0] if known else "n_params"
