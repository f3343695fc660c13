"""Ludziejewski's joint law of dense models and mixtures of experts (arXiv:2502.05172)."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model, side_by_side
from analysis.laws.law import Centre, Law, Start, Variables
from analysis.laws.powers import NEAREST, project
from analysis.laws.saturation import AT_BOUND, CAP, KAPPA, saturation, start_and_max

_NAMES = (
    "a", "alpha", "delta", "gamma", "b", "beta", "omega", "zeta", "c", "E_start", "E_max",
)  # fmt: skip
_KAPPAS = np.log([1.0, 2.5, 8.0])
_CAPS = np.log([60.0, 300.0, 3e3])
_SLOPES = (-0.6, -0.3, -0.15, -0.07)  # of ln of a term by ln N, or by ln D
_GAINS = (-0.4, -0.15, 0.0)  # of ln of a term by ln E, at the middle of the runs


def _model(at: Variables, centre: Centre) -> Model:
    """theta: as _NAMES, but ln a, ln b, ln c, ln kappa, ln E_max, at the middle of ln N, E, D.

    Centred, the two terms are the size of the loss and their slopes are those in the runs.
    """
    n, d = at.log("N") - centre["N"], at.log("D") - centre["D"]

    def model(theta: Array) -> tuple[Array, Array]:
        a, alpha, delta, gamma, b, beta, omega, zeta, c = (v[:, None] for v in theta[:, :9].T)
        e, by_kappa, by_max = saturation(at.E, theta[:, 9:10], theta[:, 10:11])
        e = e - centre["E"]
        logs = np.stack(
            [
                a + alpha * n + delta * e + gamma * e * n,
                b + beta * d + omega * e + zeta * e * d,
                np.broadcast_to(c, e.shape),
            ]
        )
        top = logs.max(axis=0)
        parts = np.exp(logs - top)
        total = parts.sum(axis=0)
        of_n, of_d, of_c = parts / total
        by_e = of_n * (delta + gamma * n) + of_d * (omega + zeta * d)
        columns = [of_n, of_n * n, of_n * e, of_n * e * n]
        columns += [of_d, of_d * d, of_d * e, of_d * e * d]
        columns += [of_c, by_e * by_kappa, by_e * by_max]
        return top + np.log(total), side_by_side(columns)

    return model


def _natural(theta: Array, centre: Centre) -> Array:
    n0, d0, e0 = (centre[letter] for letter in "NDE")
    a, alpha, delta, gamma, b, beta, omega, zeta, c, log_kappa, log_max = theta.T
    ln_a = a - alpha * n0 - delta * e0 + gamma * e0 * n0
    ln_b = b - beta * d0 - omega * e0 + zeta * e0 * d0
    of_n = np.exp(ln_a), alpha - gamma * e0, delta - gamma * n0, gamma
    of_d = np.exp(ln_b), beta - zeta * e0, omega - zeta * d0, zeta
    return np.column_stack([*of_n, *of_d, np.exp(c), *start_and_max(log_kappa, log_max)])


def _start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    top = float(np.log(loss.min()))
    low, high = top - 9.2, top + 40
    lower = np.array([low, -3, -3, -1, low, -3, -3, -1, low, KAPPA[0], CAP[0]])
    upper = np.array([high, -1e-3, 3, 1, high, -1e-3, 3, 1, top, KAPPA[1], CAP[1]])
    same_tokens = "beta" in fixed  # then D's powers are part of b and of omega
    if same_tokens:
        lower[[5, 7]] = upper[[5, 7]] = 0.0
    return Start(starts=_grid(at, centre, loss, lower, same_tokens), lower=lower, upper=upper)


def _grid(at: Variables, centre: Centre, loss: Array, lower: Array, same_tokens: bool) -> Array:
    """For a grid of slopes and of saturations a, b, c >= 0 of relative least squares; the best."""
    n, d = at.log("N") - centre["N"], at.log("D") - centre["D"]
    rows, misfits = [], []
    betas = (0.0,) if same_tokens else _SLOPES
    slopes = np.array(
        [(al, de, be, om) for al in _SLOPES for de in _GAINS for be in betas for om in _GAINS]
    )
    alpha, delta, beta, omega = (v[:, None] for v in slopes.T)
    for log_kappa in _KAPPAS:
        for log_max in _CAPS:
            e = saturation(at.E, np.array([[log_kappa]]), np.array([[log_max]]))[0][0] - centre["E"]
            columns = np.stack(
                [
                    np.exp(alpha * n + delta * e),
                    np.exp(beta * d + omega * e),
                    np.ones((len(slopes), len(n))),
                ],
                axis=1,
            )
            solved, misfit = project(columns, loss)
            a, b, c = np.log(np.maximum(solved, np.exp(lower[[0, 4, 8]]))).T
            none = np.zeros(len(slopes))
            rows.append(
                np.column_stack(
                    [a, *slopes.T[:2], none, b, *slopes.T[2:], none, c]
                    + [np.full(len(slopes), v) for v in (log_kappa, log_max)]
                )
            )
            misfits.append(misfit)
    misfit = np.concatenate(misfits)
    return np.concatenate(rows)[NEAREST(misfit, misfit.shape)]


LAW = Law(
    name="joint",
    formula="L = a E'^delta N^(alpha + gamma ln E') + b E'^omega D^(beta + zeta ln E') + c, "
    "1/E' = 1/(E-1+1/(1/E_start-1/E_max)) + 1/E_max",
    source="Ludziejewski 2025 (arXiv:2502.05172), in active parameters; E' is Clark 2022's",
    names=_NAMES,
    variables="NED",
    model=_model,
    start=_start,
    natural=_natural,
    logs=("a", "b", "c", "E_start", "E_max"),
    distinct={"N": 3, "E": 4, "D": 3},
    left_out={"D": ("beta", "zeta")},
    tells={
        "N": ("alpha", "gamma"),
        "E": ("E_start", "E_max", "delta", "omega"),
        "D": ("beta", "zeta"),
    },
    terms={"a": ("alpha", "delta", "gamma"), "b": ("beta", "omega", "zeta")},
    at_bound=AT_BOUND,
)
