"""Chinchilla's law whose exponent of tokens changes once: Caballero 2022 (arXiv:2210.14891), eq. 1.

Their break has a sharpness f, which runs hardly identify. It is fixed: nine tenths of the change
are within a factor of four in tokens.
"""

from itertools import product

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.laws.forms.chinchilla import EXPONENT_BOUNDS
from analysis.laws.law import Centre, Law, Start, Variables, floor_texts
from analysis.laws.powers import project

SHARPNESS = 0.25  # f
_EXPONENTS = np.geomspace(0.08, 0.8, 7)
_TURNS = (0.2, 0.35, 0.5, 0.65, 0.8)  # quantiles of ln D to start the break from
_ENDS = (0.1, 0.9)  # those between which it may be: beyond, a branch has too few runs
_N_STARTS = 32
_LOW, _HIGH = float(np.log(1e-4)), 50.0  # ln of a term's share of the lowest loss


def _softplus(x: Array) -> tuple[Array, Array]:
    """ln(1 + e^x) and its derivative."""
    value = np.logaddexp(0.0, x)
    return value, np.exp(x - value)


def _model(at: Variables, centre: Centre) -> Model:
    """theta: ln E, ln A and ln B in the middle of the runs, the exponents, ln D_turn there."""
    n, d = at.log("N") - centre["N"], at.log("D") - centre["D"]

    def model(theta: Array) -> tuple[Array, Array]:
        e, a, b, alpha, beta, beyond, turn = (column[:, None] for column in theta.T)
        soft, on = _softplus((d - turn) / SHARPNESS)
        soft = SHARPNESS * soft
        tokens = b - beta * d - (beyond - beta) * soft
        logs = np.stack(np.broadcast_arrays(e, a - alpha * n, tokens))
        top = logs.max(axis=0)
        parts = np.exp(logs - top)
        total = parts.sum(axis=0)
        floor, size, rest = parts / total
        columns = [floor, size, rest, -size * n, rest * (soft - d), -rest * soft]
        columns.append(rest * (beyond - beta) * on)
        return top + np.log(total), np.stack(columns, axis=-1)

    return model


def _start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    """For a grid of exponents and breaks the coefficients of relative least squares; the best."""
    n, d = at.log("N") - centre["N"], at.log("D") - centre["D"]
    turns = np.quantile(d, _TURNS)
    grid = np.array(list(product(_EXPONENTS, _EXPONENTS, _EXPONENTS, turns)))
    alpha, beta, beyond, turn = (column[:, None] for column in grid.T)
    soft = SHARPNESS * _softplus((d - turn) / SHARPNESS)[0]
    powers = [np.zeros_like(soft), -alpha * n, -beta * d - (beyond - beta) * soft]
    solved, misfit = project(np.exp(np.stack(powers, axis=1)), loss)
    best = np.argsort(misfit, kind="stable")[:_N_STARTS]
    top = float(np.log(loss.min()))
    logs = np.log(np.maximum(solved[best], np.exp(top + _LOW)))
    low, high = np.quantile(d, _ENDS)
    least, most = EXPONENT_BOUNDS
    lower = [top + _LOW, top + _LOW, top + _LOW, least, least, least, low]
    upper = [top, top + _HIGH, top + _HIGH, most, most, most, max(high, low + 1e-9)]
    starts = np.column_stack([logs, grid[best]])
    return Start(starts=starts, lower=np.array(lower), upper=np.array(upper))


def _natural(theta: Array, centre: Centre) -> Array:
    found = theta.copy()
    found[:, 1] += theta[:, 3] * centre["N"]
    found[:, 2] += theta[:, 4] * centre["D"]
    found[:, 6] += centre["D"]
    found[:, [0, 1, 2, 6]] = np.exp(found[:, [0, 1, 2, 6]])
    return found


_AT_EDGE = "D_turn stopped among the {end} tokens of the runs: no break is seen within them"
LAW = Law(
    name="broken",
    formula="L = E + A/N^alpha + B/D^beta (1 + (D/D_turn)^(1/f))^(-f (beta_beyond - beta)), "
    f"f = {SHARPNESS:g}",
    source="Caballero 2022 (arXiv:2210.14891), eq. 1 with one break, in Chinchilla's term of "
    "tokens",
    names=("E", "A", "B", "alpha", "beta", "beta_beyond", "D_turn"),
    variables="ND",
    model=_model,
    start=_start,
    natural=_natural,
    logs=("E", "A", "B", "D_turn"),
    terms={"A": ("alpha",), "B": ("beta", "beta_beyond", "D_turn")},
    at_bound={
        **floor_texts("E", " of the data: this form does not describe these runs"),
        ("D_turn", False): _AT_EDGE.format(end="fewest"),
        ("D_turn", True): _AT_EDGE.format(end="most"),
    },
    condition_limit=3e3,  # as of chinchilla
)
