"""Which rates of the cells their curves are of: those so near to the best that the shape holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.fitting.intervals import Array
from analysis.isoflop.flags import MIN_POINTS
from analysis.isoflop.resample import nearest
from analysis.isoflop.shape import fit_parabola
from analysis.isoflop.slices import LEAST_DOF, SliceFit, fit_slices
from analysis.rates.misfit import ROUNDING, chance_of_misfit
from analysis.rates.tried import Tried

# Of skewed curves. At 4 the loss goes with the rate's fourth power, as before a wall; below 0 it
# flattens away from the best rate, as below it. Neither 0 nor two of sum 0 are points of a grid.
EXPONENTS = (-0.6, 4.0)
WINDOWS = (np.inf, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03)  # nats above a cell's lowest loss
_CHANCE = 0.3  # of a misfit by distance, below which a window is too wide: rather noise than bias
_PASSES = 3  # each with the scatter that the last one left
# The same of points that a wider window adds. Small: with more, narrow windows are taken where
# their scatter is small by luck, and intervals are too narrow.
_BESIDE = 0.005
_MISFIT = 0.05  # chance of a misfit that is said, of rates that were asked for
_IN_ALL = 0.2  # the same of the least misfit of all windows


def weighted(cells: Sequence[Tried], kept: Sequence[np.ndarray]) -> tuple[list[Array], list[Array]]:
    """u and losses of the rates kept. Losses are times the root of the seeds: of equal noise."""
    u = [cell.u[on] for cell, on in zip(cells, kept, strict=True)]
    losses = [c.losses[on] * np.sqrt(c.n_seeds) for c, on in zip(cells, kept, strict=True)]
    return u, losses


def alike(u: Sequence[Array], losses: Sequence[Array]) -> SliceFit:
    """Slices of losses of equal noise, by their scatter, without draws."""
    dof = max(sum(len(places) - 3 for places in u), 1)
    squares = sum(float((fit_parabola(*own).residuals ** 2).sum()) for own in zip(u, losses))
    for _ in range(_PASSES):
        noise = float(np.sqrt(squares / dof)), dof
        fit = fit_slices(u, losses, noise, 0, np.random.default_rng(0), exponents=EXPONENTS)
        squares = fit.squares
    return fit


def kept_rates(
    cells: Sequence[Tried], n_nearest: int | None, given: float | None
) -> tuple[list[np.ndarray], str]:
    """Rates of each cell that the curves are of, and how these miss the losses; "" if not.

    In the widest window that shows no misfit: neither by distance nor beside a narrower one. In the
    narrowest where all do.
    """
    off = "all cells' losses are off the curves at the same distances"
    if n_nearest is not None:
        kept = [nearest(cell.u, cell.losses, n_nearest) for cell in cells]
        chance = _Window.of(cells, kept, given).chance
        return kept, f"{off} (p={chance:.1g})" if chance < _MISFIT else ""
    windows: list[_Window] = []
    for width in reversed(WINDOWS):
        kept = [_within(cell, width) for cell in cells]
        if windows and all(map(np.array_equal, kept, windows[-1].kept)):
            continue
        windows.append(_Window.of(cells, kept, given))
    for k in reversed(range(len(windows))):
        if not windows[k].chance < _CHANCE and all(
            not windows[k].beside(narrower, given) < _BESIDE for narrower in windows[:k]
        ):
            return windows[k].kept, ""
    chances = [window.chance for window in windows]
    if not all(chance < _IN_ALL for chance in chances):
        return windows[0].kept, ""
    return windows[0].kept, f"{off}, even near the best rates (p={max(chances):.1g} at most)"


@dataclass(frozen=True, kw_only=True)
class _Window:
    """chance: of such a misfit by distance; squares, dof: of the points about their curves, and of
    seeds about their means.
    """

    kept: list[np.ndarray]
    chance: float
    squares: float
    dof: int

    @staticmethod
    def of(cells: Sequence[Tried], kept: list[np.ndarray], given: float | None) -> "_Window":
        u, losses = weighted(cells, kept)
        fit = alike(u, losses)
        apart = sum(cell.squares for cell in cells), sum(cell.dof for cell in cells)
        shapes = [one.shape for one in fit.slices]
        return _Window(
            kept=kept,
            chance=chance_of_misfit(u, losses, shapes, apart, given),
            squares=fit.squares + apart[0],
            dof=sum(len(own) - 3 for own in kept) - 2 + apart[1],
        )

    def beside(self, narrower: "_Window", given: float | None) -> float:
        """Chance that the points beyond a narrower window are as far off by noise alone.

        The predictive test of Chow 1960 (Econometrica 28, 591, section 2).
        """
        n, gained = self.dof - narrower.dof, max(self.squares - narrower.squares, 0.0)
        if given is not None:
            return float(stats.chi2.sf(gained / given**2, n))
        if narrower.dof < LEAST_DOF or narrower.squares < narrower.dof * ROUNDING**2:
            return float("nan")
        return float(stats.f.sf(gained / n / (narrower.squares / narrower.dof), n, narrower.dof))


def _within(cell: Tried, window: float) -> np.ndarray:
    """From the first to the last rate that is in the window, MIN_POINTS of low losses at least."""
    near = np.flatnonzero(cell.losses <= cell.losses.min() + window)
    first, last = int(near[0]), int(near[-1])
    walls = np.concatenate([[np.inf], cell.losses, [np.inf]])
    while last - first + 1 < min(MIN_POINTS, len(cell.u)):
        below, above = walls[first], walls[last + 2]
        first, last = (first - 1, last) if below < above else (first, last + 1)
    return np.arange(first, last + 1)
