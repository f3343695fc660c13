"""Size and tokens that a budget should buy, by any surface."""

import numpy as np

from analysis.fitting.checks import positive
from analysis.fitting.edges import error_of_form, times_beyond, widened
from analysis.fitting.intervals import Array, Prediction, percentiles
from analysis.laws.law import Variables
from analysis.surfaces.fit import SurfaceFit

FLOPS_PER_PARAM_TOKEN = 6.0  # C = 6ND, where nothing was counted: without attention and head
_STEPS = 400  # of ln N, over all that is looked at, then about the optima
_FAR = np.log(1e4)  # from sizes that grow as their tokens do from the middle of the runs


def find_optimum(
    fit: SurfaceFit,
    budget: float,
    flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN,
    level: float = 0.95,
    n_unique: float | None = None,
) -> dict[str, Prediction]:
    """Compute-optimal n_params, n_tokens, tokens_per_param and loss at a budget of FLOPs.

    The lowest loss of a grid of sizes, then of a finer one about those of all draws, and a parabola
    through three of it: within 1e-3 of the size. The sizes are a factor of 1e4 on each side of
    those that grow as their tokens do from the middle of the runs; an optimum at their edge is that
    of a form that has no minimum. Raises ValueError for what is not above 0.
    """
    spend = float(
        np.log(
            positive("budget", budget) / positive("flops_per_param_token", flops_per_param_token)
        )
    )
    middle = fit.centre["N"] + (spend - fit.centre["N"] - fit.centre["D"]) / 2
    u = np.linspace(middle - _FAR, middle + _FAR, _STEPS)
    every = [fit.thetas, *fit.without]
    values = [_optima(fit, thetas, u, spend, n_unique) for thetas in every]
    drawn = values[0]
    bounds = {name: percentiles(own[1:], level) for name, own in drawn.items()}
    of_compute = [edge for edge in fit.edges if edge.name == "compute"]
    times = times_beyond(of_compute, lambda _: np.array(spend)).max(initial=1.0)
    found = {}
    for name, own in drawn.items():
        logs = [np.log(each[name]) for each in values]
        m = fit.without.shape[1]
        sd = error_of_form(logs[0][:m], np.array(logs[1:]).reshape(-1, m), times, fit.misfit)
        alone = Prediction(own[0], *bounds[name], level).on(np.log)
        found[name] = widened(alone, sd, level, len(fit.without)).on(np.exp)
    return found


def _optima(
    fit: SurfaceFit, thetas: Array, u: Array, spend: float, n_unique: float | None
) -> dict[str, Array]:
    """Optimum of each theta (S,), from a grid of ln N, then from a finer one."""
    lowest = _losses(fit, thetas, u, spend, n_unique).argmin(axis=1)
    ends = u[max(lowest.min() - 1, 0)], u[min(lowest.max() + 1, _STEPS - 1)]
    u = np.linspace(*ends, _STEPS)
    losses = _losses(fit, thetas, u, spend, n_unique)
    at = np.clip(losses.argmin(axis=1), 1, _STEPS - 2)
    rows = np.arange(len(at))
    left, best, right = (losses[rows, at + k] for k in (-1, 0, 1))
    bend = left - 2 * best + right
    with np.errstate(divide="ignore", invalid="ignore"):
        move = np.clip((left - right) / (2 * bend), -1.0, 1.0)
    move = np.where(np.isfinite(move) & (bend > 0) & np.isfinite(bend), move, 0.0)
    N = np.exp(u[at] + move * (u[1] - u[0]))
    D = np.exp(spend) / N
    return {
        "n_params": N,
        "n_tokens": D,
        "tokens_per_param": D / N,
        "loss": best - np.where(move == 0, 0.0, left - right) * move / 4,
    }


def _losses(
    fit: SurfaceFit, thetas: Array, u: Array, spend: float, n_unique: float | None
) -> Array:
    """nats/token by each theta, (S, n), at sizes exp(u) of a budget."""
    unique = np.inf if n_unique is None else n_unique
    with np.errstate(over="ignore", invalid="ignore"):  # of a form that bends, far from the runs
        at = Variables.of(np.exp(u), np.exp(spend - u), U=unique)
        found = fit.losses_of(at, thetas)
    return np.where(np.isfinite(found), found, np.inf)
