"""Curves of the losses of a series' cells in ln(rate), whose lowest points are the best rates.

Loss rises faster above the best rate than below it, so a parabola's lowest point is off, by what
depends on where the rates are. By default the curves are skewed ones (isoflop/slices.py), whose
shape all cells of a series share; each has a place, a height and a scale of its own. Far from the
best that shape holds no more, so the curves are of the rates near it (windows.py), and what they
may still miss moves the best rates and widens their intervals (form.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from analysis.fitting.intervals import Array, t_quantile
from analysis.isoflop import slices
from analysis.isoflop.flags import Flag
from analysis.isoflop.misfit import too_skewed
from analysis.isoflop.resample import nearest
from analysis.isoflop.scatter import SHARED, Noise
from analysis.isoflop.shape import FittedShape, compute_gradient, fit_parabola
from analysis.isoflop.slices import LEAST_DOF, fit_slices
from analysis.rates.form import form_error
from analysis.rates.tried import Tried
from analysis.rates.windows import EXPONENTS, alike, kept_rates, weighted

Method = Literal["slice", "parabola"]
METHODS: tuple[Method, ...] = ("slice", "parabola")
NEAREST = 5  # rates about the best that a parabola describes
_DRAWS = 2000
_KNOWN = 1_000_000  # degrees of freedom of a noise that was given: the normal distribution


@dataclass(frozen=True, kw_only=True)
class CellCurve:
    """A cell's curve. on (n,): the rates that it is of; noise: of a mean over the cell's seeds.

    u_opt, u_interval: the lowest point, moved by what the form misses, and its 95 % interval;
    error: its standard error, the shape taken as known.
    draws (S, 5): of a skewed curve's numbers, as Slice has them; common (S,): lowest points that
    differ by what the cells of the series share; both are empty for parabolas. found_off: what its
    points show beside noise.
    """

    shape: FittedShape
    on: np.ndarray
    noise: Noise
    u_opt: float
    u_interval: tuple[float, float]
    error: float
    draws: Array
    common: Array
    found_off: tuple[tuple[Flag, str], ...]


def fit_curves_by_cell(
    cells: Sequence[Tried], method: Method, n_nearest: int | None, noise: float | None
) -> list[CellCurve]:
    """Curves of one series. noise: of one seed's loss, where it is known."""
    if method == "parabola":
        return _parabolas(cells, n_nearest or NEAREST, noise)
    return _slices(cells, n_nearest, noise)


def _parabolas(cells: Sequence[Tried], n_nearest: int, given: float | None) -> list[CellCurve]:
    kept = [nearest(cell.u, cell.losses, n_nearest) for cell in cells]
    shapes = [fit_parabola(c.u[on], c.losses[on]) for c, on in zip(cells, kept, strict=True)]
    noise = _pooled(cells, shapes) if given is None else Noise(given, _KNOWN)
    u, losses = weighted(cells, kept)
    squares = alike(u, losses).squares
    weighed = [
        replace(shape, residuals=shape.residuals * np.sqrt(cell.n_seeds))
        for cell, shape in zip(cells, shapes, strict=True)
    ]
    skewed = too_skewed(weighed, squares, given)
    found = []
    for cell, on, shape in zip(cells, kept, shapes, strict=True):
        sd = noise.sd / np.sqrt(cell.n_seeds)
        found.append(
            CellCurve(
                shape=shape,
                on=on,
                noise=Noise(sd, noise.dof),
                u_opt=shape.u_opt,
                u_interval=shape.u_interval(sd, t_quantile(noise.dof, 0.95)),
                error=float(shape.u_error(sd)),
                draws=np.empty((0, 5)),
                common=np.empty(0),
                found_off=((Flag.SKEWED, skewed),) if skewed else (),
            )
        )
    return found


def _slices(cells: Sequence[Tried], n_nearest: int | None, given: float | None) -> list[CellCurve]:
    kept, misfit = kept_rates(cells, n_nearest, given)
    u, losses = weighted(cells, kept)
    noise = _estimate_noise(cells, u, losses, given)
    # of unknown noise the shape is drawn, and nothing else
    known = noise if np.isfinite(noise.sd) else Noise(0.0, 1)
    fit = fit_slices(u, losses, known, _DRAWS, np.random.default_rng(0), exponents=EXPONENTS)
    shapes = [one.shape for one in fit.slices]
    form = form_error(u, losses, shapes, noise.sd)
    shifts = form.draws(_DRAWS, np.random.default_rng(1))
    found = []
    for k, (cell, on, one) in enumerate(zip(cells, kept, fit.slices, strict=True)):
        scale = 1 / np.sqrt(cell.n_seeds)
        shape = _scaled(one.shape, scale)
        sd = noise.sd * scale
        drawn = _moved(one.u, shifts[:, k]) if np.isfinite(sd) else np.empty(0)
        found.append(
            CellCurve(
                shape=shape,
                on=on,
                noise=Noise(sd, noise.dof),
                u_opt=shape.u_opt + float(form.shift[k]),
                u_interval=slices.interval(drawn, 0.95),
                error=sd * float(np.sqrt(_variance(shape))),
                draws=one.draws * np.array([1.0, 1.0, scale, scale, scale]),
                common=_moved(one.common_u, shifts[:, k]),
                found_off=((Flag.MISFIT, misfit),) if misfit else (),
            )
        )
    return found


def _moved(u: Array, by: Array) -> Array:
    """u + by; a draw without a lowest loss has none then either, whatever it is moved by."""
    return np.add(u, by, where=np.isfinite(u), out=u.copy())


def _scaled(shape: FittedShape, by: float) -> FittedShape:
    """Curve of losses times this."""
    return replace(
        shape,
        a=shape.a * by,
        slope=shape.slope * by,
        level=shape.level * by,
        residuals=shape.residuals * by,
    )


def _estimate_noise(
    cells: Sequence[Tried], u: Sequence[Array], losses: Sequence[Array], given: float | None
) -> Noise:
    """Noise about skewed curves: by their scatter and the seeds' together."""
    if given is not None:
        return Noise(given, _KNOWN)
    if sum(len(places) - 3 for places in u) < LEAST_DOF:
        shapes = [fit_parabola(*pair) for pair in zip(u, losses, strict=True)]
        return _of_squares(cells, sum(float(s.residuals @ s.residuals) for s in shapes), u, 0)
    return _of_squares(cells, alike(u, losses).squares, u, SHARED)


def _pooled(cells: Sequence[Tried], shapes: Sequence[FittedShape]) -> Noise:
    squares = sum(
        cell.n_seeds * float(shape.residuals @ shape.residuals)  # a mean over n scatters less
        for cell, shape in zip(cells, shapes, strict=True)
    )
    return _of_squares(cells, squares, [shape.residuals for shape in shapes], 0)


def _of_squares(
    cells: Sequence[Tried], squares: float, points: Sequence[Array], n_shared: int
) -> Noise:
    """squares: of the points about their curves, which share n_shared numbers, of one seed."""
    dof = sum(len(own) - 3 for own in points) - n_shared + sum(cell.dof for cell in cells)
    if dof < 1:
        return Noise(float("nan"), 0)
    return Noise(float(np.sqrt((squares + sum(cell.squares for cell in cells)) / dof)), dof)


def _variance(shape: FittedShape) -> float:
    """Variance of a skewed curve's lowest point at unit noise, by the delta method; nan without
    one.
    """
    gradient = compute_gradient(shape)
    return float(gradient @ shape.unscaled @ gradient)
