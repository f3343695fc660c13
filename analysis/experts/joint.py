"""Ludziejewski's joint law of dense models and mixtures of experts."""

import numpy as np

from analysis.experts.form import APART, Form, Problem, Runs, project
from analysis.experts.saturation import CAP, KAPPA, effective_experts, saturation, start_and_max
from analysis.fitting.intervals import Array

_NAMES = (
    "a", "alpha", "delta", "gamma", "b", "beta", "omega", "zeta", "c", "E_start", "E_max",
)  # fmt: skip
_STARTS = 48  # of the grid, those nearest to the losses
_KAPPAS = np.log([1.0, 2.5, 8.0])
_CAPS = np.log([60.0, 300.0, 3e3])
_SLOPES = (-0.6, -0.3, -0.15, -0.07)  # of ln of a term by ln N, or by ln D
_GAINS = (-0.4, -0.15, 0.0)  # of ln of a term by ln E, at the middle of the runs


def _pose(runs: Runs) -> Problem:
    """theta: as _NAMES, but ln a, ln b, ln c, ln kappa, ln E_max, at the middle of ln N, E, D.

    Centred, the two terms are the size of the loss and their slopes are those in the runs.
    """
    n0, d0, e0 = (float(np.log(v).mean()) for v in (runs.N, runs.D, runs.E))
    n, d = np.log(runs.N) - n0, np.log(runs.D) - d0
    same_tokens = bool(np.ptp(d) < APART)  # then D's powers are part of b and of omega

    def model(theta: Array) -> tuple[Array, Array]:
        a, alpha, delta, gamma, b, beta, omega, zeta, c = (v[:, None] for v in theta[:, :9].T)
        e, by_kappa, by_max = saturation(runs.E, theta[:, 9], theta[:, 10])
        e = e - e0
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
        return top + np.log(total), np.stack(columns, axis=-1)

    top = float(np.log(runs.loss.min()))
    low, high = top - 9.2, top + 40
    lower = np.array([low, -3, -3, -1, low, -3, -3, -1, low, KAPPA[0], CAP[0]])
    upper = np.array([high, -1e-3, 3, 1, high, -1e-3, 3, 1, top, KAPPA[1], CAP[1]])
    if same_tokens:
        lower[[5, 7]] = upper[[5, 7]] = 0.0

    def natural(theta: Array) -> Array:
        a, alpha, delta, gamma, b, beta, omega, zeta, c, log_kappa, log_max = theta.T
        ln_a = a - alpha * n0 - delta * e0 + gamma * e0 * n0
        ln_b = b - beta * d0 - omega * e0 + zeta * e0 * d0
        of_n = np.exp(ln_a), alpha - gamma * e0, delta - gamma * n0, gamma
        of_d = np.exp(ln_b), beta - zeta * e0, omega - zeta * d0, zeta
        return np.column_stack([*of_n, *of_d, np.exp(c), *start_and_max(log_kappa, log_max)])

    return Problem(
        model=model,
        starts=_starts(runs, n, d, e0, lower, same_tokens),
        lower=lower,
        upper=upper,
        fixed=("beta", "zeta") if same_tokens else (),
        natural=natural,
    )


def _starts(runs: Runs, n: Array, d: Array, e0: float, lower: Array, same_tokens: bool) -> Array:
    """For a grid of slopes and of saturations a, b, c >= 0 of relative least squares; the best."""
    rows, misfits = [], []
    betas = (0.0,) if same_tokens else _SLOPES
    slopes = np.array(
        [(al, de, be, om) for al in _SLOPES for de in _GAINS for be in betas for om in _GAINS]
    )
    alpha, delta, beta, omega = (v[:, None] for v in slopes.T)
    for log_kappa in _KAPPAS:
        for log_max in _CAPS:
            e = saturation(runs.E, np.array([log_kappa]), np.array([log_max]))[0][0] - e0
            columns = np.stack(
                [
                    np.exp(alpha * n + delta * e),
                    np.exp(beta * d + omega * e),
                    np.ones((len(slopes), len(n))),
                ],
                axis=1,
            )
            solved, misfit = project(columns, runs.loss)
            a, b, c = np.log(np.maximum(solved, np.exp(lower[[0, 4, 8]]))).T
            none = np.zeros(len(slopes))
            rows.append(
                np.column_stack(
                    [a, *slopes.T[:2], none, b, *slopes.T[2:], none, c]
                    + [np.full(len(slopes), v) for v in (log_kappa, log_max)]
                )
            )
            misfits.append(misfit)
    best = np.argsort(np.concatenate(misfits), kind="stable")[:_STARTS]
    return np.concatenate(rows)[best]


def _log_loss(
    p: Array,
    N: Array,
    E: Array,
    D: Array | None,
    G: Array | None,
    S: Array | None = None,
) -> Array:
    assert D is not None
    a, alpha, delta, gamma, b, beta, omega, zeta, c, E_start, E_max = np.moveaxis(p, -1, 0)
    e = np.log(effective_experts(E, E_start, E_max))
    # Powers by their logarithms: a and N^alpha alone may overflow, their product doesn't
    of_n = np.exp(np.log(a) + delta * e + (alpha + gamma * e) * np.log(N))
    of_d = np.exp(np.log(b) + omega * e + (beta + zeta * e) * np.log(D))
    return np.log(of_n + of_d + c)


JOINT = Form(
    name="joint",
    formula="L = a E'^delta N^(alpha + gamma ln E') + b E'^omega D^(beta + zeta ln E') + c, "
    "1/E' = 1/(E-1+1/(1/E_start-1/E_max)) + 1/E_max",
    source="Ludziejewski 2025 (arXiv:2502.05172), in active parameters; E' is Clark 2022's",
    names=_NAMES,
    needs=("n_experts", "n_tokens"),
    distinct={"N": 3, "E": 4, "D": 3},
    pose=_pose,
    log_loss=_log_loss,
    tells={
        "N": ("alpha", "gamma"),
        "E": ("E_start", "E_max", "delta", "omega"),
        "D": ("beta", "zeta"),
    },
    terms={"a": ("alpha", "delta", "gamma"), "b": ("beta", "omega", "zeta")},
)
