"""The surfaces: their formulas, derivatives, boxes and starting points.

n and d are ln N and ln D less their means over the runs, so that every parameter is of the runs'
own middle.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.fitting.power_sum import non_negative, power_sum

_LOW, _HIGH = -9.2, 50.0  # ln of a term's share of the lowest loss: 1e-4 counts as nothing
_EXPONENTS = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
_STARTS = 36
_LEVELS = (0.08, 0.15, 0.25, 0.4, 0.6, 0.9)  # of A in the middle
_TILTS = (-0.4, -0.25, -0.15, -0.05, 0.0, 0.1)  # of ln A by ln N
_STRAIGHT = 1e-4  # of |exponent * n|: below, exp(x) - 1 - x and its like are series


@dataclass(frozen=True, kw_only=True)
class Surface:
    """name, formula and source; natural: theta (S, p) and the centres of ln N, ln D -> reported.

    pose: n, d, the mean of ln D and the loss -> the starts and the box; model: the same without the
    loss -> theta's model of ln L.
    """

    name: str
    formula: str
    source: str
    names: tuple[str, ...]
    pose: Callable[[Array, Array, float, Array], "Posed"]
    model: Callable[[Array, Array, float], Model]
    natural: Callable[[Array, float, float], Array]


@dataclass(frozen=True, kw_only=True)
class Posed:
    """Where to start (S, p), and the box (p,)."""

    starts: Array
    lower: Array
    upper: Array


# L = E + A/N^alpha + B/D^beta


def _chinchilla_model(n: Array, d: Array, d0: float) -> Model:
    zero, one = np.zeros_like(n), np.ones_like(n)
    return power_sum(
        [
            np.stack([one, zero, zero, zero, zero], axis=1),
            np.stack([zero, one, zero, -n, zero], axis=1),
            np.stack([zero, zero, one, zero, -d], axis=1),
        ]
    )


def _pose_chinchilla(n: Array, d: Array, d0: float, loss: Array) -> Posed:
    grid = np.array(list(product(_EXPONENTS, _EXPONENTS)))
    one = np.ones((len(grid), len(n)))
    columns = np.stack([one, np.exp(-grid[:, :1] * n), np.exp(-grid[:, 1:] * d)], axis=1)
    return _posed(columns, loss, grid)


def _chinchilla_natural(theta: Array, n0: float, d0: float) -> Array:
    E, A, B, alpha, beta = theta.T
    columns = [np.exp(E), np.exp(A + alpha * n0), np.exp(B + beta * d0), alpha, beta]
    return np.stack(columns, axis=1)


# L = E + (a M^eta + b M^-eta) C^-eta, M = D/N, C = 6 N D: at M the frontier of its own compute


def _over_trained_model(n: Array, d: Array, d0: float) -> Model:
    # M^eta C^-eta = (6 N^2)^-eta, and M^-eta C^-eta = (6 D^2)^-eta
    zero, one = np.zeros_like(n), np.ones_like(n)
    return power_sum(
        [
            np.stack([one, zero, zero, zero], axis=1),
            np.stack([zero, one, zero, -2 * n], axis=1),
            np.stack([zero, zero, one, -2 * d], axis=1),
        ]
    )


def _pose_over_trained(n: Array, d: Array, d0: float, loss: Array) -> Posed:
    eta = np.geomspace(0.02, 0.6, 24)[:, None]
    one = np.ones((len(eta), len(n)))
    columns = np.stack([one, np.exp(-2 * eta * n), np.exp(-2 * eta * d)], axis=1)
    return _posed(columns, loss, eta)


def _over_trained_natural(theta: Array, n0: float, d0: float) -> Array:
    E, a, b, eta = theta.T
    six = eta * np.log(6.0)
    a, b = a + 2 * eta * n0 + six, b + 2 * eta * d0 + six
    return np.stack([np.exp(E), np.exp(a), np.exp(b), eta], axis=1)


def _posed(columns: Array, loss: Array, exponents: Array) -> Posed:
    """Starts with coefficients >= 0 of relative least squares, those nearest to the losses."""
    weighted = columns * loss**-2
    gram, moments = weighted @ columns.transpose(0, 2, 1), weighted @ loss
    solved = non_negative(gram, moments)
    gain = (solved * moments).sum(axis=-1)  # of the sum of squares over predicting nothing
    top = float(np.log(loss.min()))
    k, m = solved.shape[1], exponents.shape[1]
    logs = np.log(np.maximum(solved, np.exp(top + _LOW)))
    best = np.argsort(-gain, kind="stable")[:_STARTS]
    return Posed(
        starts=np.hstack([logs, exponents])[best],
        lower=np.array([top + _LOW] * k + [0.01] * m),
        upper=np.array([top] + [top + _HIGH] * (k - 1) + [2.0] * m),
    )


# L = U(N) + V(N) D0^A(N0) D^-A(N): each of ln U, ln V, ln A is f + g ((N/N0)^p - 1)/p


def _bent(n: Array, p: Array) -> tuple[Array, Array]:
    """(e^(pn) - 1)/p (S, n) and its derivative by p, also where p is 0: n and n^2/2."""
    x = p[:, None] * n
    small = np.abs(x) < _STRAIGHT
    safe = np.where(small, 1.0, x)
    ratio = np.where(small, 1 + x / 2 + x**2 / 6, np.expm1(safe) / safe)
    # d/dx of (e^x - 1)/x = (e^x (x - 1) + 1)/x^2
    slope = np.where(small, 0.5 + x / 3, (np.exp(safe) * (safe - 1) + 1) / safe**2)
    return n * ratio, n**2 * slope


def _farseer_model(n: Array, d: Array, d0: float) -> Model:
    """theta: f, g, p of U, V and A. V's g is less what A's slope does to D0^-A, which is alike."""
    y = d + d0

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
        return top + np.log(total), np.stack(columns, axis=-1)

    return model


def _pose_farseer(n: Array, d: Array, d0: float, loss: Array) -> Posed:
    """For a grid of A and its slope, U and V as straight lines in n by least squares; the best."""
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
        E, A, B, alpha, beta = _pose_chinchilla(n, d, d0, loss).starts[0]
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
    return Posed(starts=np.array(rows), lower=np.array(lower), upper=np.array(upper))


def _farseer_natural(theta: Array, n0: float, d0: float) -> Array:
    found = theta.copy()
    found[:, [0, 3, 6]] = np.exp(theta[:, [0, 3, 6]])
    found[:, 4] += theta[:, 7] * found[:, 6] * d0
    return found


SURFACES: Mapping[str, Surface] = {
    surface.name: surface
    for surface in (
        Surface(
            name="chinchilla",
            formula="L = E + A/N^alpha + B/D^beta",
            source="Hoffmann 2022 (arXiv:2203.15556), §3.3",
            names=("E", "A", "B", "alpha", "beta"),
            pose=_pose_chinchilla,
            model=_chinchilla_model,
            natural=_chinchilla_natural,
        ),
        Surface(
            name="over_trained",
            formula="L = E + (a M^eta + b M^-eta) C^-eta, M = D/N, C = 6ND",
            source="Gadre 2024 (arXiv:2403.08540): Chinchilla's with alpha = beta = 2 eta",
            names=("E", "a", "b", "eta"),
            pose=_pose_over_trained,
            model=_over_trained_model,
            natural=_over_trained_natural,
        ),
        Surface(
            name="farseer",
            formula="L = U(N) + V(N) D0^A(N0) D^-A(N), each of U, V, A = f exp(g ((N/N0)^p - 1)/p)",
            source="Farseer (arXiv:2506.10972): L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) "
            "D^-exp(a1 N^alpha + b1), at the middle N0, D0 of the runs",
            names=("U", "U_slope", "U_bend", "V", "V_slope", "V_bend", "A", "A_slope", "A_bend"),
            pose=_pose_farseer,
            model=_farseer_model,
            natural=_farseer_natural,
        ),
    )
}
