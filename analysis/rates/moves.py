"""How far the differences between models move once each has its best rate.

Of each cell that both tables have: the rate used, and what the best one gains by the cell's
curve. A difference between two models moves by the difference of their gains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.fitting.intervals import Array, percentiles
from analysis.fitting.results import Warned
from analysis.fitting.status import FitError
from analysis.fitting.text import join_first, unsaid
from analysis.isoflop import slices
from analysis.rates.cells import BestRate
from analysis.rates.fit import DEPTH, HORIZONS, Rates
from analysis.settings import setting
from analysis.table.checks import finished, require
from analysis.table.load import best_of_cells
from analysis.table.warned import warned

MORE_THAN = 0.01  # nats that a difference moves by, to be named
_DRAWS = 4000
_NATS = ("difference", "moved_by", "lower", "upper", "at_best_rates")
_COLUMNS = ("budget", "model", "other", *_NATS)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Gain of a cell's best rate. lr: the rate used; loss: with it, the mean over seeds; gain:
    nats/token, by the curve between the rates tried; interval: 95 %, as the losses are drawn
    again with the cell's noise, of skewed curves the shape too, nan where the noise is unknown. A
    gain is never below 0, so noise alone makes it larger.
    """

    cell: BestRate
    lr: float
    loss: float
    gain: float
    interval: tuple[float, float]
    draws: Array = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Move:
    """difference: loss of `model` less that of `other`, at the rates used; moved_by: what is added
    to it at the best rates of both.
    """

    budget: float
    model: str
    other: str
    difference: float
    moved_by: float
    interval: tuple[float, float]

    @property
    def at_best_rates(self) -> float:
        return self.difference + self.moved_by


@dataclass(frozen=True, kw_only=True, repr=False)
class RateMoves(Warned):
    """gains: of the cells that both tables have; moves: of all pairs at one budget and size, or of
    all with the baseline; left_out: cells that are not compared, and why.
    """

    gains: tuple[Gain, ...]
    moves: tuple[Move, ...]
    left_out: tuple[str, ...]
    more_than: float

    @property
    def far(self) -> tuple[Move, ...]:
        return tuple(move for move in self.moves if abs(move.moved_by) > self.more_than)

    @property
    def warnings(self) -> tuple[str, ...]:
        flagged = [gain.cell.name for gain in self.gains if gain.cell.flags]
        found = [f"best rates with warnings: {join_first(flagged, 6, '; ')}"] if flagged else []
        if self.left_out:
            found.append(f"not compared: {join_first(self.left_out, 6, '; ')}")
        return (*self.of_table, *found)

    def to_frame(self) -> pd.DataFrame:
        """A row a move."""
        return _frame(self.moves)

    def summary(self) -> str:
        rows = [
            {
                "cell": gain.cell.name,
                "lr_used": f"{gain.lr:.3g}",
                "lr_opt": f"{gain.cell.lr_opt:.3g}" if gain.cell.inside else "",
                "gain": f"{gain.gain:.4f}",
                "lower": f"{gain.interval[0]:.4f}",
                "upper": f"{gain.interval[1]:.4f}",
            }
            for gain in self.gains
        ]
        lines = [
            "what the best rate of each gains over the one used, nats/token",
            pd.DataFrame(rows).to_string(index=False),
            "",
            f"{len(self.far)} of {len(self.moves)} differences move by more than "
            f"{self.more_than:g} nats at the best rates of both",
        ]
        if self.far:
            formats = dict.fromkeys(_NATS, "{:+.4f}".format) | {"budget": "{:.3g}".format}
            lines.append(_frame(self.far).to_string(index=False, formatters=formats))
        return "\n".join([*lines, *(f"  warning: {text}" for text in unsaid(self.warnings))])


def _frame(moves: Sequence[Move]) -> pd.DataFrame:
    rows = [
        (m.budget, m.model, m.other, m.difference, m.moved_by, *m.interval, m.at_best_rates)
        for m in moves
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


@warned("used")
def compare_rates(
    rates: Rates,
    used: pd.DataFrame,
    *,
    baseline: str | None = None,
    more_than: float = MORE_THAN,
    seed: int = 0,
) -> RateMoves:
    """rates: of a search or a grid; used: the checked table of the comparisons, with lr.

    Cells are matched by series, budget, width and blocks; where budgets are unknown by length too.
    Of several rates of a cell of `used` that with the lowest loss is the one used. Raises FitError
    if no cells match, ValueError for a baseline that none has.
    """
    width, horizon = rates.columns[0], next(n for n in rates.columns if n in HORIZONS)
    has_budgets = any(np.isfinite(cell.budget) for cell in rates.cells)
    has_depth = all(np.isfinite(cell.at[DEPTH]) for cell in rates.cells)
    at = [width, *([DEPTH] if has_depth else []), *([] if has_budgets else [horizon])]
    require(used, ["lr", "loss", *at], "rates --used")
    runs = best_of_cells(finished(used), by=["series", "budget", *at])
    rng = np.random.default_rng(seed)
    gains, left_out = [], []
    for cell in rates.cells:
        same = (runs["series"] == cell.model) & _close(runs["budget"], cell.budget)
        for name in at:
            same &= _close(runs[name], cell.at[name])
        own = runs[same]
        if not len(own):
            left_out.append(f"{cell.name}: no run of the other table")
            continue
        lr, loss = float(own["lr"].iloc[0]), float(own["loss"].iloc[0])
        if (place := _outside(cell, lr)) is not None:
            left_out.append(f"{cell.name}: the rate used, {lr:.3g}, is outside of {place}")
            continue
        gains.append(_gain(cell, lr, loss, rng))
    if not gains:
        raise FitError(f"no cell to compare: {join_first(left_out, 3, '; ')}")
    if baseline and baseline not in {gain.cell.model for gain in gains}:
        found = ", ".join(dict.fromkeys(gain.cell.model for gain in gains))
        raise ValueError(
            f"{setting('baseline', baseline)} is no model of these cells; found {found}"
        )
    pairs = [(a, b) for b, a in combinations(gains, 2) if _comparable(a.cell, b.cell, at)]
    if baseline:
        pairs = [(b, a) if a.cell.model == baseline else (a, b) for a, b in pairs]
        pairs = [(a, b) for a, b in pairs if b.cell.model == baseline]
    return RateMoves(
        gains=tuple(gains),
        moves=tuple(_move(one, other) for one, other in pairs),
        left_out=tuple(left_out),
        more_than=more_than,
    )


def _outside(cell: BestRate, lr: float) -> str | None:
    """Rates that lr is outside of, where the curve would have to be extrapolated."""
    # a rate is a number of the config times a root: the last bits may differ
    low, high = lr * (1 - 1e-9), lr * (1 + 1e-9)
    if high < min(cell.lrs) or low > max(cell.lrs):
        return "those tried"
    fitted = np.array(cell.lrs)[list(cell.fitted)]
    if high < fitted.min() or low > fitted.max():
        name = "parabola" if cell.shape.is_parabola else "curve"
        return f"the {len(fitted)} that the {name} is of"
    return None


def _comparable(one: BestRate, other: BestRate, at: Sequence[str]) -> bool:
    """True for cells of one budget and size."""
    alike = all(one.at[name] == other.at[name] for name in at)
    budgets = np.isclose(one.budget, other.budget, rtol=1e-6, equal_nan=True)
    return bool(budgets) and alike and one.model != other.model


def _close(values: pd.Series, value: float) -> np.ndarray:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.isclose(numbers, value, rtol=1e-6, equal_nan=True)


def _gain(cell: BestRate, lr: float, loss: float, rng: np.random.Generator) -> Gain:
    u = np.log(cell.lrs)
    place = float(np.clip(np.log(lr), u[0], u[-1]))
    found, draws = (_of_parabola if cell.shape.is_parabola else _of_slice)(cell, place, rng)
    low, high = percentiles(draws, 0.95) if np.isfinite(cell.noise) else (np.nan, np.nan)
    return Gain(
        cell=cell,
        lr=lr,
        loss=loss,
        gain=found,
        interval=(float(low), float(high)),
        draws=draws,
    )


def _of_slice(cell: BestRate, place: float, rng: np.random.Generator) -> tuple[float, Array]:
    shape = cell.shape
    mean = np.array([[shape.alpha, shape.beta, shape.a, shape.slope, shape.level]])
    u = np.log(np.array(cell.lrs)[list(cell.fitted)])
    (found,) = _gains_of_slices(shape.centre, mean, u, place)
    drawn = rng.integers(len(cell.draws), size=_DRAWS)  # each cell's noise is its own
    return float(found), _gains_of_slices(shape.centre, cell.draws[drawn], u, place)


def _gains_of_slices(centre: float, draws: Array, u: Array, place: float) -> Array:
    """Gains (S,) by skewed curves (S, 5): as _gains has them of parabolas."""
    vertex, _ = slices.minima(centre, draws)
    between = (vertex > u[0]) & (vertex < u[-1])  # not where it is nan
    ends = np.broadcast_to([u[-1], place], (len(draws), 2))
    at = np.column_stack([np.where(between, vertex, u[0]), ends])
    values = slices.losses(centre, draws, at)
    return np.asarray(values[:, 2] - values.min(axis=1), dtype=np.float64)


def _of_parabola(cell: BestRate, place: float, rng: np.random.Generator) -> tuple[float, Array]:
    on = list(cell.fitted)
    u, losses = np.log(cell.lrs)[on], np.array(cell.losses)[on]
    (found,) = _gains(u, losses[None], place)
    drawn = losses + rng.normal(0.0, 1.0, (_DRAWS, len(on))) * cell.noise
    return float(found), _gains(u, drawn, place)


def _gains(u: Array, losses: Array, place: float) -> Array:
    """Gains (S,) from losses (S, n) at u (n,), by parabolas.

    Each is its value at `place`, less its lowest from the first to the last u and at `place`.
    """
    centre, scale = u.mean(), np.abs(u - u.mean()).max()

    def columns(at: Array) -> Array:
        v = (at - centre) / scale
        return np.stack([v**2, v, np.ones_like(v)], axis=-1)

    found = losses @ np.linalg.pinv(columns(u)).T
    a, slope = found[:, 0], found[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = centre - scale * slope / (2 * a)
    # where there is none between, the first end; else that is higher
    vertex = np.where((a > 0) & (vertex > u[0]) & (vertex < u[-1]), vertex, u[0])
    at = np.stack([vertex, np.full_like(vertex, u[-1]), np.full_like(vertex, place)], axis=1)
    values = np.einsum("ski,si->sk", columns(at), found)
    return np.asarray(values[:, 2] - values.min(axis=1), dtype=np.float64)


def _move(one: Gain, other: Gain) -> Move:
    draws = other.draws - one.draws
    known = np.isfinite([one.interval[0], other.interval[0]]).all()
    low, high = percentiles(draws, 0.95) if known else (np.nan, np.nan)
    return Move(
        budget=one.cell.budget,
        model=one.cell.model,
        other=other.cell.model,
        difference=one.loss - other.loss,
        moved_by=other.gain - one.gain,
        interval=(float(low), float(high)),
    )
