"""Farseer's law (arXiv:2506.10972), in which tokens help the more the larger the model is.

L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)

It is reported at the middle N0, D0 of the runs: U, V and A there, their slope by ln N, and their
bend, the exponent of N in their logarithm. gamma and a3 = U_slope / (gamma N0^gamma) of the paper,
and likewise beta, a2 of V and alpha, a1 of A.
"""

from itertools import product

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model, side_by_side
from analysis.laws.forms.chinchilla import LAW as CHINCHILLA
from analysis.laws.law import Centre, Law, Start, Variables

_LOW, _HIGH = -9.2, 50.0  # ln of a term's share of the lowest loss: 1e-4 counts as nothing
_LEVELS = (0.08, 0.15, 0.25, 0.4, 0.6, 0.9)  # of A in the middle
_TILTS = (-0.4, -0.25, -0.15, -0.05, 0.0, 0.1)  # of ln A by ln N
_STRAIGHT = 1e-4  # of |exponent * n|: below, exp(x) - 1 - x and its like are series


def _bent(n: Array, p: Array) -> tuple[Array, Array]:
    """(e^(pn) - 1)/p (S, n) and its derivative by p, also where p is 0: n and n^2/2."""
    x = p[:, None] * n
    small = np.abs(x) < _STRAIGHT
    safe = np.where(small, 1.0, x)
    ratio = np.where(small, 1 + x / 2 + x**2 / 6, np.expm1(safe) / safe)
    # d/dx of (e^x - 1)/x = (e^x (x - 1) + 1)/x^2
    slope = np.where(small, 0.5 + x / 3, (np.exp(safe) * (safe - 1) + 1) / safe**2)
    return n * ratio, n**2 * slope


def _model(at: Variables, centre: Centre) -> Model:
    """theta: f, g, p of U, V and A. V's g is less what A's slope does to D0^-A, which is alike."""
    n, y, d0 = at.log("N") - centre["N"], at.log("D"), centre["D"]

    def model(theta: Array) -> tuple[Array, Array]:
        u0, u1, _, v0, v1, _, a0, a1, _ = (column[:, None] for column in theta.T)
        bend_u, by_pu = _bent(n, theta[:, 2])
        bend_v, by_pv = _bent(n, theta[:, 5])
        bend_a, by_pa = _bent(n, theta[:, 8])
        middle, slope = np.exp(a0), np.exp(a0 + a1 * bend_a)
        tilt = v1 + a1 * middle * d0
        logs = np.stack([u0 + u1 * bend_u, v0 + tilt * bend_v - slope * y + middle * d0])
        top = logs.max(axis=0)
        parts = np.exp(logs - top)
        total = parts.sum(axis=0)
        of_u, of_v = parts / total
        lever = middle * d0 * bend_v
        columns = [of_u, of_u * bend_u, of_u * u1 * by_pu]
        columns += [of_v, of_v * bend_v, of_v * tilt * by_pv]
        columns += [
            of_v * (a1 * lever - slope * y + middle * d0),
            of_v * (lever - slope * bend_a * y),
            -of_v * slope * a1 * by_pa * y,
        ]
        return top + np.log(total), side_by_side(columns)

    return model


def _start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    """For a grid of A and its slope, U and V as straight lines in n by least squares; the best."""
    n, d0 = at.log("N") - centre["N"], centre["D"]
    d = at.log("D") - d0
    found: list[tuple[float, list[float]]] = []
    for level, a1 in product(_LEVELS, _TILTS):
        slope = level * np.exp(a1 * n)
        z = np.exp(-slope * d - (slope - level * (1 + a1 * n)) * d0)
        columns = np.stack([np.ones_like(n), n, z, n * z], axis=1)
        solved, *_ = np.linalg.lstsq(columns / loss[:, None], np.ones_like(n), rcond=None)
        if min(solved[0], solved[2]) > 0:
            misfit = float(((columns @ solved / loss - 1) ** 2).sum())
            U, U_slope, V, V_slope = solved
            lines = [np.log(U), U_slope / U, np.log(V), V_slope / V, np.log(level), a1]
            found.append((misfit, lines))
    if not found:  # nothing like it: from a surface in size and tokens alone
        E, A, B, alpha, beta = CHINCHILLA.start(at, centre, loss, ()).starts[0]
        floor = float(np.logaddexp(E, A))
        found = [(0.0, [floor, -alpha * np.exp(A - floor), B, 0.0, np.log(beta), 0.0])]
    found.sort(key=lambda pair: pair[0])
    rows = [
        [u0, u1, p, v0, v1, q, a0, a1, q]
        for _, (u0, u1, v0, v1, a0, a1) in found[:6]
        for p, q in product((-0.3, 0.2), repeat=2)
    ]
    top, steep = float(np.log(loss.min())), 4.0 / max(float(np.abs(n).max()), 1e-9)
    lower = [top + _LOW, -steep, -2.0, top + _LOW, -steep, -2.0, np.log(0.01), -steep, -2.0]
    upper = [top + 3.0, steep, 2.0, top + _HIGH, steep, 2.0, np.log(2.0), steep, 2.0]
    return Start(starts=np.array(rows), lower=np.array(lower), upper=np.array(upper))


def _natural(theta: Array, centre: Centre) -> Array:
    found = theta.copy()
    found[:, [0, 3, 6]] = np.exp(theta[:, [0, 3, 6]])
    found[:, 4] += theta[:, 7] * found[:, 6] * centre["D"]
    return found


LAW = Law(
    name="farseer",
    formula="L = U(N) + V(N) D0^A(N0) D^-A(N), each of U, V, A = f exp(g ((N/N0)^p - 1)/p)",
    source="Farseer (arXiv:2506.10972): L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) "
    "D^-exp(a1 N^alpha + b1), at the middle N0, D0 of the runs",
    names=("U", "U_slope", "U_bend", "V", "V_slope", "V_bend", "A", "A_slope", "A_bend"),
    variables="ND",
    model=_model,
    start=_start,
    natural=_natural,
    logs=("U", "V", "A"),
    condition_limit=3e3,  # as of chinchilla
    bends=True,
)
