"""Chinchilla's law whose exponent of tokens or of size changes once: Caballero 2022
(arXiv:2210.14891), eq. 1.

Their break has a sharpness f, which runs hardly identify. It is fixed: nine tenths of the change
are within a factor of four.
"""

from itertools import product
from typing import Literal

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model, side_by_side, some_of
from analysis.laws.law import Centre, Law, Start, Variables, floor_texts
from analysis.laws.powers import EXPONENT_BOUNDS, project

SHARPNESS = 0.25  # f
_EXPONENTS = tuple(np.geomspace(0.08, 0.8, 7).tolist())
_TURNS = (0.2, 0.35, 0.5, 0.65, 0.8)  # quantiles of the logarithm to start the break from
_ENDS = (0.1, 0.9)  # those between which it may be: beyond, a branch has too few runs
_N_STARTS = 32
_LOW, _HIGH = float(np.log(1e-4)), 50.0  # ln of a term's share of the lowest loss
_OF = {"N": ("A", "alpha", "sizes"), "D": ("B", "beta", "tokens")}


def broken(
    letter: Literal["N", "D"],
    *,
    name: str,
    least: float = EXPONENT_BOUNDS[0],
    beyond: tuple[float, ...] = _EXPONENTS,
) -> Law:
    """Law with the break in this variable; least: the lowest exponent beyond the break, and
    beyond: those to start from.
    """
    other = "D" if letter == "N" else "N"
    (term, exponent, what), (plain, own, _) = _OF[letter], _OF[other]
    last, turn = f"{exponent}_beyond", f"{letter}_turn"
    edge = f"{turn} stopped among the {{end}} {what} of the runs: no break is seen within them"

    def compute_logs(at: Variables, centre: Centre) -> tuple[Array, Array]:
        return at.log(other) - centre[other], at.log(letter) - centre[letter]

    def model(at: Variables, centre: Centre) -> Model:
        """theta: ln E, and ln of both terms in the middle of the runs, the exponents, the break."""
        n, d = compute_logs(at, centre)

        def of(theta: Array) -> tuple[Array, Array]:
            e, a, b, alpha, beta, beyond, turn = (column[:, None] for column in theta.T)
            soft, on = _softplus((d - turn) / SHARPNESS)
            soft = SHARPNESS * soft
            bent = b - beta * d - (beyond - beta) * soft
            logs = np.stack(np.broadcast_arrays(e, a - alpha * n, bent))
            top = logs.max(axis=0)
            parts = np.exp(logs - top)
            total = parts.sum(axis=0)
            floor, straight, rest = parts / total
            columns = [floor, straight, rest, -straight * n, rest * (soft - d), -rest * soft]
            columns.append(rest * (beyond - beta) * on)
            return top + np.log(total), side_by_side(columns)

        return of

    def start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
        """For a grid of exponents and breaks the coefficients of relative least squares."""
        every, some = compute_logs(at, centre)[1], some_of(len(loss), 7)
        n, d = compute_logs(at.only(some), centre)
        turns = np.quantile(every, _TURNS)
        grid = np.array(list(product(_EXPONENTS, _EXPONENTS, beyond, turns)))
        alpha, beta, after, turn = (column[:, None] for column in grid.T)
        soft = SHARPNESS * _softplus((d - turn) / SHARPNESS)[0]
        powers = [np.zeros_like(soft), -alpha * n, -beta * d - (after - beta) * soft]
        solved, misfit = project(np.exp(np.stack(powers, axis=1)), loss[some])
        best = np.argsort(misfit, kind="stable")[:_N_STARTS]
        top = float(np.log(loss.min()))
        logs = np.log(np.maximum(solved[best], np.exp(top + _LOW)))
        low, high = np.quantile(every, _ENDS)
        most = EXPONENT_BOUNDS[1]
        lower = [top + _LOW] * 3 + [EXPONENT_BOUNDS[0]] * 2 + [least, low]
        upper = [top, top + _HIGH, top + _HIGH, most, most, most, max(high, low + 1e-9)]
        starts = np.column_stack([logs, grid[best]])
        return Start(starts=starts, lower=np.array(lower), upper=np.array(upper))

    def natural(theta: Array, centre: Centre) -> Array:
        found = theta.copy()
        found[:, 1] += theta[:, 3] * centre[other]
        found[:, 2] += theta[:, 4] * centre[letter]
        found[:, 6] += centre[letter]
        found[:, [0, 1, 2, 6]] = np.exp(found[:, [0, 1, 2, 6]])
        return found

    return Law(
        name=name,
        formula=f"L = E + {plain}/{other}^{own} + {term}/{letter}^{exponent} "
        f"(1 + ({letter}/{turn})^(1/f))^(-f ({last} - {exponent})), f = {SHARPNESS:g}",
        source="Caballero 2022 (arXiv:2210.14891), eq. 1 with one break, in Chinchilla's term of "
        + ("tokens" if letter == "D" else "parameters"),
        names=("E", plain, term, own, exponent, last, turn),
        variables="ND",
        model=model,
        start=start,
        natural=natural,
        logs=("E", plain, term, turn),
        terms={plain: (own,), term: (exponent, last, turn)},
        at_bound={
            **floor_texts("E", " of the data: this form does not describe these runs"),
            (turn, False): edge.format(end="fewest" if letter == "D" else "smallest"),
            (turn, True): edge.format(end="most" if letter == "D" else "largest"),
        },
        condition_limit=3e3,  # as of chinchilla
        bends=True,
    )


def _softplus(x: Array) -> tuple[Array, Array]:
    """ln(1 + e^x) and its derivative."""
    value = np.logaddexp(0.0, x)
    return value, np.exp(x - value)
