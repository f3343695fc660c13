"""Whether the points of a model's curves are farther off them than noise explains."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.fitting.intervals import Array
from analysis.isoflop.scatter import SHARED, Noise
from analysis.isoflop.shape import FittedShape
from analysis.isoflop.slices import Seeds

_CHANCE = 1e-3  # of a warning about any curve of a model that only noise is about
_SKEWED = 0.01  # the same of its parabolas together
CHANCE = 0.02  # the same of what all curves of a model miss, by either of two tests
LEAST = 3  # degrees of freedom of what is compared with
ROUNDING = 1e-6  # nats: scatter below it is no noise


@dataclass(frozen=True, kw_only=True)
class BesideSeeds:
    """Scatter of points about a model's curves beside that of the seeds about the points, both
    of a run's loss in nats; chance: of one so much larger where both are noise, by an F test.
    """

    scatter: Noise
    seeds: Noise
    chance: float

    @property
    def is_lack(self) -> bool:
        return self.chance < CHANCE

    def __str__(self) -> str:
        return (
            f"points scatter by {self.scatter.sd:.3g} nats about the curves "
            f"({self.scatter.dof} degrees of freedom), seeds by {self.seeds.sd:.3g} "
            f"({self.seeds.dof})"
        )


def beside_seeds(
    scaled: Sequence[Array], seeds: Sequence[Seeds], n_shared: int
) -> BesideSeeds | None:
    """scaled: residuals of the curves, in the noise of one run; n_shared: parameters that the
    curves share. None without seeds, or without points to spare.
    """
    dof = sum(len(r) - 3 for r in scaled) - n_shared
    squares = sum(behind.squares for behind in seeds)
    of_seeds = sum(behind.dof for behind in seeds)
    if dof < 1 or of_seeds < 1 or squares <= of_seeds * ROUNDING**2:
        return None
    scatter = Noise(float(np.sqrt(sum(float(r @ r) for r in scaled) / dof)), dof)
    noise = Noise(float(np.sqrt(squares / of_seeds)), of_seeds)
    chance = float(stats.f.sf((scatter.sd / noise.sd) ** 2, dof, of_seeds))
    return BesideSeeds(scatter=scatter, seeds=noise, chance=chance)


def off_curves(shapes: Sequence[FittedShape], noise: float | None) -> list[str | None]:
    """Why a curve's points are too far off, for each curve of one model, or None.

    Given the noise (nats) by its chi-squared; else by an F test against the other curves' scatter,
    where that has 3 degrees of freedom.
    """
    squares = np.array([float(shape.scaled @ shape.scaled) for shape in shapes])
    free = np.array([len(shape.residuals) - 3 for shape in shapes])
    found: list[str | None] = []
    for own, dof in zip(squares, free, strict=True):
        rest = float(squares.sum() - own), int(free.sum() - dof)
        if dof < 1 or (noise is None and (rest[1] < LEAST or rest[0] < rest[1] * ROUNDING**2)):
            found.append(None)
            continue
        if noise is not None:
            chance, beside = stats.chi2.sf(own / noise**2, dof), f"a noise of {noise:.3g}"
        else:
            scale = rest[0] / rest[1]
            chance = stats.f.sf(own / dof / scale, dof, rest[1])
            beside = f"{np.sqrt(scale):.3g} at the other budgets"
        sd = np.sqrt(own / dof)
        off = chance < _CHANCE / len(shapes)
        found.append(f"its points scatter by {sd:.3g} nats, beside {beside}" if off else None)
    return found


def too_skewed(
    parabolas: Sequence[FittedShape], slice_squares: float, noise: float | None
) -> str | None:
    """Why parabolas do not describe a model's curves, or None.

    By two parameters fewer than skewed curves have, whose residual sum of squares is
    slice_squares: an F test, or of known noise chi-squared, unless they are farther off than it.
    """
    gain = sum(float(p.scaled @ p.scaled) for p in parabolas) - slice_squares
    dof = sum(len(p.residuals) - 3 for p in parabolas) - SHARED
    if noise is not None:
        scale = max(noise**2, slice_squares / dof if dof > 0 else 0.0)
        chance = stats.chi2.sf(gain / scale, SHARED)
    elif dof < LEAST or slice_squares < dof * ROUNDING**2:
        return None
    else:
        chance = stats.f.sf(gain / SHARED / (slice_squares / dof), SHARED, dof)
    if chance >= _SKEWED:
        return None
    return f"skewed curves (method=slice) fit this model's runs better (p={chance:.1g})"
