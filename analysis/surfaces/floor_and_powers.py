"""Losses that are a floor of any sign and a sum of powers of columns."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model, side_by_side
from analysis.laws.law import Centre, Start
from analysis.surfaces.form import Form, Points

_LEAST, _MOST = 1e-4, 1e3  # of a term in the middle, in the losses' range
_CHOSEN = 12  # points of the grid to start from


def floor_and_powers(
    *,
    terms: Mapping[str, Mapping[str, str]],
    floor: str,
    sign: float,
    exponents: Mapping[str, tuple[float, float, tuple[float, ...]]],
    **form: Any,
) -> Form:
    """L = sign floor + the sum of coefficient times column^-exponent, of one column or several.

    terms: coefficient -> exponent -> column; exponents: name -> lowest, highest, and the values to
    start from; form: the other fields of Form.
    """
    k = len(terms)
    names = (floor, *terms, *exponents)
    columns_of = {name: column for powers in terms.values() for name, column in powers.items()}
    used = np.array([[name in powers for name in exponents] for powers in terms.values()], float)

    def logs(at: Points, centre: Centre) -> Array:
        return np.stack([at.log(columns_of[e]) - centre[columns_of[e]] for e in exponents])

    def model(at: Points, centre: Centre) -> Model:
        """theta: the floor, ln of each term in the middle of the runs, the exponents."""
        x = logs(at, centre)  # (m, n)

        def of(theta: Array) -> tuple[Array, Array]:
            moved = theta[:, k + 1 :, None] * x
            powers = np.exp(theta[:, 1 : k + 1, None] - used @ moved)  # (S, k, n)
            value = sign * theta[:, :1] + powers.sum(axis=1)
            slopes = -(used.T @ powers) * x
            columns = [np.full_like(value, sign), *powers.swapaxes(0, 1), *slopes.swapaxes(0, 1)]
            return value, side_by_side(columns)

        return of

    def start(at: Points, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
        """Coefficients by least squares on a grid of exponents; the nearest."""
        x, spread = logs(at, centre), float(np.ptp(loss)) or 1.0
        low, high = np.log(_LEAST * spread), np.log(_MOST * spread)
        found = []
        for powers in product(*(values for _, _, values in exponents.values())):
            columns = np.exp(-used @ (np.array(powers)[:, None] * x))
            design = np.vstack([np.ones(len(loss)), columns]).T
            solved, *_ = np.linalg.lstsq(design, loss, rcond=None)
            heights = np.log(np.clip(solved[1:], np.exp(low), np.exp(high)))
            off = loss - np.exp(heights) @ columns
            row = [sign * float(off.mean()), *heights, *powers]
            found.append((float(((off - off.mean()) ** 2).sum()), row))
        found.sort(key=lambda pair: pair[0])
        ends = sorted(sign * (loss.min() - np.array([20.0 * spread, -spread])))
        return Start(
            starts=np.array([row for _, row in found[:_CHOSEN]]),
            lower=np.array([ends[0], *[low] * k, *(e[0] for e in exponents.values())]),
            upper=np.array([ends[1], *[high] * k, *(e[1] for e in exponents.values())]),
        )

    def natural(theta: Array, centre: Centre) -> Array:
        found = theta.copy()
        middles = np.array([centre[columns_of[e]] for e in exponents])
        moved = (theta[:, k + 1 :] * middles) @ used.T
        found[:, 1 : k + 1] = np.exp(theta[:, 1 : k + 1] + moved)
        return found

    tells: dict[str, tuple[str, ...]] = {}
    for name, column in columns_of.items():
        tells[column] = (*tells.get(column, ()), name)
    return Form(
        names=names,
        model=model,
        start=start,
        natural=natural,
        logs=tuple(terms),
        terms={coefficient: tuple(powers) for coefficient, powers in terms.items()},
        tells=tells,
        **form,
    )
