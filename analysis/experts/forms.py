"""The laws of loss against experts: their formulas, derivatives and starting points.

N is a model's size without its experts, E its number of experts, D its tokens, G its granularity.
All are fitted to ln L, so that their residuals can be compared.
"""

from collections.abc import Mapping

import numpy as np

from analysis.experts.form import NOTHING, Form, Problem, Runs
from analysis.experts.joint import JOINT
from analysis.experts.saturation import (
    CAP,
    CAP_STARTS,
    KAPPA,
    KAPPA_STARTS,
    effective_experts,
    saturation,
    start_and_max,
)
from analysis.experts.sparse import SPARSE
from analysis.fitting.intervals import Array
from analysis.fitting.power_sum import non_negative, power_sum

__all__ = ["FORMS", "Form", "Problem", "Runs", "effective_experts"]

LN10 = float(np.log(10.0))
_FLOORS = (0.02, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97)  # shares of the lowest loss


def _one_size(runs: Runs) -> bool:
    return bool(np.ptp(np.log(runs.N)) < 1e-9)


# log10 L = a log10 N + b log10 E + c log10 N log10 E + d


def _bilinear_natural(theta: Array, centre: float) -> Array:
    """From log10 N less its mean to log10 N."""
    a, b, c, d = theta[:, :4].T
    return np.column_stack([a, b - c * centre, c, d - a * centre])


def _pose_loglinear(runs: Runs) -> Problem:
    centre = float(np.log10(runs.N).mean())
    n, e = np.log10(runs.N) - centre, np.log10(runs.E)
    design = LN10 * np.stack([n, e, n * e, np.ones_like(n)], axis=1)

    def model(theta: Array) -> tuple[Array, Array]:
        return theta @ design.T, np.broadcast_to(design, (len(theta), *design.shape))

    limit = np.array([5.0, 5.0, 5.0, 50.0])
    one = _one_size(runs)
    free = np.array([not one, True, not one, True])
    start = np.array([[0.0, 0.0, 0.0, np.log10(runs.loss).mean()]])
    return Problem(
        model=model,
        starts=start,
        lower=np.where(free, -limit, 0.0),
        upper=np.where(free, limit, 0.0),
        fixed=("a", "c") if one else (),
        natural=lambda theta: _bilinear_natural(theta, 0.0 if one else centre),
    )


def _loglinear(
    p: Array, N: Array, E: Array, D: Array | None, G: Array | None, S: Array | None = None
) -> Array:
    a, b, c, d = np.moveaxis(p, -1, 0)
    n, e = np.log10(N), np.log10(E)
    return LN10 * (a * n + b * e + c * n * e + d)


def _pose_clark(runs: Runs) -> Problem:
    centre = float(np.log10(runs.N).mean())
    n, target = np.log10(runs.N) - centre, np.log10(runs.loss)
    one = _one_size(runs)

    def model(theta: Array) -> tuple[Array, Array]:
        a, b, c, d, log_kappa, log_max = (column[:, None] for column in theta.T)
        log_e, by_kappa, by_max = saturation(runs.E, log_kappa[:, 0], log_max[:, 0])
        e = log_e / LN10
        slope = b + c * n
        jacobian = np.stack(
            [
                np.broadcast_to(LN10 * n, e.shape),
                LN10 * e,
                LN10 * n * e,
                np.full(e.shape, LN10),
                slope * by_kappa,
                slope * by_max,
            ],
            axis=-1,
        )
        return LN10 * (a * n + slope * e + d), jacobian

    starts = []
    for log_kappa in KAPPA_STARTS:
        for log_max in CAP_STARTS:
            log_e, *_ = saturation(runs.E, np.array([log_kappa]), np.array([log_max]))
            e = log_e[0] / LN10
            columns = [e, np.ones_like(e)] if one else [n, e, n * e, np.ones_like(e)]
            solved, *_ = np.linalg.lstsq(np.stack(columns, axis=1), target, rcond=None)
            a, b, c, d = (0.0, solved[0], 0.0, solved[1]) if one else solved
            starts.append([a, b, c, d, log_kappa, log_max])
    free = np.array([not one, True, not one, True, True, True])
    lower = np.array([-5.0, -5.0, -5.0, -50.0, KAPPA[0], CAP[0]])
    upper = np.array([5.0, 5.0, 5.0, 50.0, KAPPA[1], CAP[1]])

    def natural(theta: Array) -> Array:
        bilinear = _bilinear_natural(theta, 0.0 if one else centre)
        return np.column_stack([bilinear, *start_and_max(theta[:, 4], theta[:, 5])])

    return Problem(
        model=model,
        starts=np.array(starts),
        lower=np.where(free, lower, 0.0),
        upper=np.where(free, upper, 0.0),
        fixed=("a", "c") if one else (),
        natural=natural,
    )


def _clark(
    p: Array, N: Array, E: Array, D: Array | None, G: Array | None, S: Array | None = None
) -> Array:
    hat = effective_experts(E, p[..., 4], p[..., 5])
    return _loglinear(p[..., :4], N, hat, D, G)


# L = L0 + K N^-a E^-b, with E or Clark's effective number


def _pose_power_floor(runs: Runs) -> Problem:
    centre = float(np.log(runs.N).mean())
    n, e = np.log(runs.N) - centre, np.log(runs.E)
    one = _one_size(runs)
    zero, ones = np.zeros_like(n), np.ones_like(n)
    model = power_sum(
        [np.stack([ones, zero, zero, zero], axis=1), np.stack([zero, ones, -n, -e], axis=1)]
    )
    rows = [_floor_start(runs, share, n, e, one) for share in _FLOORS]
    lower, upper = _floor_box(runs, one)

    def natural(theta: Array) -> Array:
        floor, k, a, b = theta.T
        return np.column_stack([np.exp(floor), np.exp(k + a * centre), a, b])

    return Problem(
        model=model,
        starts=np.array(rows),
        lower=lower,
        upper=upper,
        fixed=("a",) if one else (),
        natural=natural,
    )


def _floor_start(runs: Runs, share: float, n: Array, e: Array, one: bool) -> list[float]:
    """Given the floor, ln(L - L0) is linear in ln N and ln E."""
    floor = share * runs.loss.min()
    columns = [np.ones_like(n), -e] if one else [np.ones_like(n), -n, -e]
    solved, *_ = np.linalg.lstsq(np.stack(columns, axis=1), np.log(runs.loss - floor), rcond=None)
    k, a, b = (solved[0], 0.0, solved[1]) if one else solved
    return [float(np.log(floor)), float(k), float(a), float(b)]


def _floor_box(runs: Runs, one: bool) -> tuple[Array, Array]:
    top = float(np.log(runs.loss.min()))
    lower = np.array([top - 9.2, top - 30, 0.0 if one else -1.0, -2.0])
    upper = np.array([top, top + 30, 0.0 if one else 3.0, 3.0])
    return lower, upper


def _power_floor(
    p: Array, N: Array, E: Array, D: Array | None, G: Array | None, S: Array | None = None
) -> Array:
    L0, K, a, b = np.moveaxis(p, -1, 0)
    return np.log(L0 + K * N**-a * E**-b)


def _pose_clark_floor(runs: Runs) -> Problem:
    centre = float(np.log(runs.N).mean())
    n = np.log(runs.N) - centre
    one = _one_size(runs)

    def model(theta: Array) -> tuple[Array, Array]:
        floor, k, a, b, log_kappa, log_max = (column[:, None] for column in theta.T)
        e, by_kappa, by_max = saturation(runs.E, log_kappa[:, 0], log_max[:, 0])
        power = k - a * n - b * e
        log_loss = np.logaddexp(floor, power)
        share = np.exp(power - log_loss)
        columns = [1 - share, share, -share * n, -share * e]
        columns += [-share * b * by_kappa, -share * b * by_max]
        return log_loss, np.stack(columns, axis=-1)

    rows = []
    for log_kappa in KAPPA_STARTS[::2]:
        for log_max in CAP_STARTS[1::2]:
            e, *_ = saturation(runs.E, np.array([log_kappa]), np.array([log_max]))
            rows += [
                [*_floor_start(runs, share, n, e[0], one), log_kappa, log_max]
                for share in _FLOORS[::2]
            ]
    lower, upper = _floor_box(runs, one)

    def natural(theta: Array) -> Array:
        floor, k, a, b = theta[:, :4].T
        E_start, E_max = start_and_max(theta[:, 4], theta[:, 5])
        return np.column_stack([np.exp(floor), np.exp(k + a * centre), a, b, E_start, E_max])

    return Problem(
        model=model,
        starts=np.array(rows),
        lower=np.array([*lower, KAPPA[0], CAP[0]]),
        upper=np.array([*upper, KAPPA[1], CAP[1]]),
        fixed=("a",) if one else (),
        natural=natural,
    )


def _clark_floor(
    p: Array, N: Array, E: Array, D: Array | None, G: Array | None, S: Array | None = None
) -> Array:
    hat = effective_experts(E, p[..., 4], p[..., 5])
    return _power_floor(p[..., :4], N, hat, D, G)


# L = c + (g/G^gamma + a)/N^alpha + b/D^beta


def _pose_granularity(runs: Runs) -> Problem:
    centres = [float(np.log(v).mean()) for v in (runs.N, runs.D, runs.G)]
    n, d, g = (np.log(v) - m for v, m in zip((runs.N, runs.D, runs.G), centres, strict=True))
    zero, one = np.zeros_like(n), np.ones_like(n)
    same_tokens = bool(np.ptp(d) < 1e-9)  # then b/D^beta is part of c
    terms = [  # theta = ln c, ln g, ln a, ln b, alpha, beta, gamma
        np.stack([one, zero, zero, zero, zero, zero, zero], axis=1),
        np.stack([zero, one, zero, zero, -n, zero, -g], axis=1),
        np.stack([zero, zero, one, zero, -n, zero, zero], axis=1),
        np.stack([zero, zero, zero, one, zero, -d, zero], axis=1),
    ]
    top = float(np.log(runs.loss.min()))
    low, high = top - 9.2, top + 40
    alphas = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
    betas = np.zeros(1) if same_tokens else alphas
    alpha, beta, gamma = (
        m.ravel() for m in np.meshgrid(alphas, betas, np.array([0.2, 0.5, 1.0, 1.7]))
    )
    columns = [
        np.ones((len(alpha), len(n))),
        np.exp(-np.outer(alpha, n) - np.outer(gamma, g)),
        np.exp(-np.outer(alpha, n)),
        np.exp(-np.outer(beta, d)),
    ]
    design = np.stack(columns[:3] if same_tokens else columns, axis=1)
    weighted = design * runs.loss**-2
    solved = non_negative(weighted @ design.transpose(0, 2, 1), weighted @ runs.loss)
    logs = np.log(np.maximum(solved, np.exp(low)))
    lower = np.array([low, low, low, low, 1e-3, 1e-3, 1e-3])
    upper = np.array([top, high, high, high, 3.0, 3.0, 4.0])
    if same_tokens:
        logs = np.column_stack([logs, np.full(len(logs), top + NOTHING)])
        for box in (lower, upper):
            box[[3, 5]] = top + NOTHING, 0.0

    def natural(theta: Array) -> Array:
        c, log_g, log_a, log_b, alpha, beta, gamma = theta.T
        n0, d0, g0 = centres
        g, a = np.exp(log_g + alpha * n0 + gamma * g0), np.exp(log_a + alpha * n0)
        b = np.zeros_like(log_b) if same_tokens else np.exp(log_b + beta * d0)
        return np.column_stack([np.exp(c), g, a, b, alpha, beta, gamma])

    return Problem(
        model=power_sum(terms),
        starts=np.column_stack([logs, alpha, beta, gamma]),
        lower=lower,
        upper=upper,
        fixed=("b", "beta") if same_tokens else (),
        natural=natural,
    )


def _granularity(
    p: Array, N: Array, E: Array, D: Array | None, G: Array | None, S: Array | None = None
) -> Array:
    assert D is not None
    assert G is not None
    c, g, a, b, alpha, beta, gamma = np.moveaxis(p, -1, 0)
    return np.log(c + (g * G**-gamma + a) * N**-alpha + b * D**-beta)


FORMS: Mapping[str, Form] = {
    form.name: form
    for form in (
        Form(
            name="loglinear",
            formula="log10 L = a log10 N + b log10 E + c log10 N log10 E + d",
            source="Clark 2022 (arXiv:2202.01169), eq. 1 without saturation",
            names=("a", "b", "c", "d"),
            needs=("n_experts",),
            distinct={"E": 2},
            pose=_pose_loglinear,
            log_loss=_loglinear,
        ),
        Form(
            name="power_floor",
            formula="L = L0 + K N^-a E^-b",
            source="a power law with an irreducible loss, which Clark's lacks",
            names=("L0", "K", "a", "b"),
            needs=("n_experts",),
            distinct={"E": 2},
            pose=_pose_power_floor,
            log_loss=_power_floor,
        ),
        Form(
            name="clark",
            formula="log10 L = a log10 N + b log10 E' + c log10 N log10 E' + d, "
            "1/E' = 1/(E-1+1/(1/E_start-1/E_max)) + 1/E_max",
            source="Clark 2022 (arXiv:2202.01169), eqs. 1 and 2",
            names=("a", "b", "c", "d", "E_start", "E_max"),
            needs=("n_experts",),
            distinct={"E": 4},
            pose=_pose_clark,
            log_loss=_clark,
        ),
        Form(
            name="clark_floor",
            formula="L = L0 + K N^-a E'^-b, E' as in clark",
            source="Clark's saturation with an irreducible loss",
            names=("L0", "K", "a", "b", "E_start", "E_max"),
            needs=("n_experts",),
            distinct={"E": 4},
            pose=_pose_clark_floor,
            log_loss=_clark_floor,
        ),
        Form(
            name="granularity",
            formula="L = c + (g/G^gamma + a)/N^alpha + b/D^beta",
            source="Krajewski 2024 (arXiv:2402.07871), eq. 9 of He 2024 (arXiv:2407.04153)",
            names=("c", "g", "a", "b", "alpha", "beta", "gamma"),
            needs=("n_tokens", "granularity"),
            distinct={"N": 3, "D": 3, "G": 3},
            pose=_pose_granularity,
            log_loss=_granularity,
        ),
        *SPARSE,
        JOINT,
    )
}
