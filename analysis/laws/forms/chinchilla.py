"""E + A/N^alpha + B/D^beta: Hoffmann 2022 (arXiv:2203.15556), §3.3."""

from itertools import product

import numpy as np

from analysis.fitting.intervals import Array
from analysis.laws.law import Law, floor_texts
from analysis.laws.powers import EXPONENT_BOUNDS, sum_of_powers

_GRID = 24  # values of each exponent that variable projection tries


def chinchilla(exponent_bounds: tuple[float, float] = EXPONENT_BOUNDS) -> Law:
    """Law with other bounds of alpha and beta."""
    box = (*exponent_bounds, tuple(np.geomspace(*exponent_bounds, _GRID).tolist()))
    edge = f" is at the edge of exponent_bounds={exponent_bounds}"
    both = product(("alpha", "beta"), (False, True))
    edges = {(name, top): f"{name}={{value:.3g}}{edge}" for name, top in both}
    unlike = " of the data: this form does not describe these runs"
    return sum_of_powers(
        name="chinchilla",
        formula="L = E + A/N^alpha + B/D^beta",
        source="Hoffmann 2022 (arXiv:2203.15556), §3.3",
        names=("E", "A", "B", "alpha", "beta"),
        variables="ND",
        terms={"E": (), "A": (("alpha", "N"),), "B": (("beta", "D"),)},
        exponents={"alpha": box, "beta": box},
        idle={"A": ("alpha",), "B": ("beta",)},
        low=float(np.log(1e-4)),
        chosen=_best_and_spread,
        at_bound={**floor_texts("E", unlike), **edges},
        condition_limit=3e3,  # docs/surfaces.md has what it is on known designs
    )


def _best_and_spread(misfit: Array, shape: tuple[int, ...]) -> np.ndarray:
    """Nearest, and a sixteenth of the grid all over: that few reach the best is a sign."""
    spread = np.arange(len(misfit)).reshape(shape)[1::4, 1::4].ravel()
    return np.r_[np.argmin(misfit), spread]


LAW = chinchilla()
