"""Laws that are sums of powers: L = the sum of coefficients times powers of the variables.

Such a law is written down as a table of its terms; its derivatives, starts and box follow.
"""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.fitting.power_sum import non_negative, power_sum
from analysis.laws.law import NOTHING, Centre, Law, Start, Variables

EXPONENT_BOUNDS = (0.01, 2.0)  # published exponents are between 0.05 and 0.7
_HIGH = 50.0  # ln of a term's share of the lowest loss

# A factor variable^-exponent of a term; the variable is a letter, or a number.
Power = tuple[str, str | float]
# The misfit of a grid's points, flat, and the grid's shape -> the points to start from
Choice = Callable[[Array, tuple[int, ...]], np.ndarray]


def nearest(n: int) -> Choice:
    """Finds the n points of a grid that are nearest to the losses."""
    return lambda misfit, shape: np.argsort(misfit, kind="stable")[:n]


NEAREST = nearest(48)


def sum_of_powers(
    *,
    names: tuple[str, ...],
    terms: Mapping[str, tuple[Power, ...]],
    exponents: Mapping[str, tuple[float, float, tuple[float, ...]]],
    idle: Mapping[str, tuple[str, ...]] | None = None,
    low: float = -9.2,
    chosen: Choice = NEAREST,
    **law: Any,
) -> Law:
    """L = the sum of `terms`: coefficient -> its powers. A coefficient without powers is a floor.

    A power (exponent, variable) is variable^-exponent; the variable S stands for 1 - S.
    exponents: name -> lowest, highest, and the values to start from. idle: Law.terms. low: ln of
    the share of the lowest loss at which a term counts as nothing, its lower bound. chosen: which
    points of the grid of exponents to start from. law: the other fields of Law.
    """
    k = len(names)

    def designs(at: Variables, centre: Centre) -> list[Array]:
        """theta: ln of each term at the centre, and the exponents. (n, p) a term."""
        found = []
        for coefficient, powers in terms.items():
            design = np.zeros((len(at.N), k))
            design[:, names.index(coefficient)] = 1.0
            for exponent, of in powers:
                if isinstance(of, str):
                    design[:, names.index(exponent)] -= at.log(of) - centre[of]
            found.append(design)
        return found

    def model(at: Variables, centre: Centre) -> Model:
        return power_sum(designs(at, centre))

    def natural(theta: Array, centre: Centre) -> Array:
        found = theta.copy()
        for coefficient, powers in terms.items():
            j = names.index(coefficient)
            for exponent, of in powers:
                log = centre[of] if isinstance(of, str) else np.log(of)
                found[:, j] += theta[:, names.index(exponent)] * log
            found[:, j] = np.exp(found[:, j])
        return found

    def start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
        top = float(np.log(loss.min()))
        box = np.zeros((2, k))
        for j, name in enumerate(names):
            if name in fixed:
                box[:, j] = top + NOTHING if name in terms else 0.0
            elif name in terms:
                box[:, j] = top + low, top + (_HIGH if terms[name] else 0.0)
            else:
                box[:, j] = exponents[name][:2]
        starts = _starts(at, centre, loss, fixed, box[0])
        return Start(starts=starts, lower=box[0], upper=box[1])

    def _starts(
        at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...], lower: Array
    ) -> Array:
        """For a grid of exponents the coefficients >= 0 of relative least squares."""
        free = [name for name in names if name not in terms]
        values = [(0.0,) if name in fixed else exponents[name][2] for name in free]
        grid = np.array(list(product(*values)))
        places = [names.index(name) for name in free]
        on = [name for name in terms if name not in fixed]
        by_name = dict(zip(terms, designs(at, centre), strict=True))
        columns = np.stack([np.exp(grid @ by_name[name][:, places].T) for name in on], axis=1)
        solved, misfit = project(columns, loss)
        best = chosen(misfit, tuple(len(v) for v in values))
        found = np.zeros((len(best), k))
        found[:, places] = grid[best]
        for name, column in zip(on, solved[best].T, strict=True):
            i = names.index(name)
            found[:, i] = np.log(np.maximum(column, np.exp(lower[i])))
        return found

    return Law(
        names=names,
        model=model,
        start=start,
        natural=natural,
        logs=tuple(terms),
        terms=idle or {},
        **law,
    )


def project(columns: Array, loss: Array) -> tuple[Array, Array]:
    """Coefficients >= 0 (S, k) of columns (S, k, n) nearest to the loss, and their misfit (S,).

    Nearest by relative squares, as for residuals of ln L.
    """
    weighted = columns * loss**-2
    gram, moments = weighted @ columns.transpose(0, 2, 1), weighted @ loss
    solved = non_negative(gram, moments)
    gain = 2 * (solved * moments).sum(axis=-1) - np.einsum("si,sij,sj->s", solved, gram, solved)
    return solved, len(loss) - gain
