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
_LOST = 0.05  # of the draws may have no minimum


def find_optimum(
    fit: SurfaceFit,
    budget: float,
    flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN,
    level: float = 0.95,
    n_unique: float | None = None,
) -> dict[str, Prediction]:
    """Compute-optimal n_params, n_tokens, tokens_per_param and loss at a budget of FLOPs.

    The lowest loss of a grid of sizes, then of a finer one about those of all draws, and a parabola
    through three of it: within 1e-3 of the size. An end of the grid, sizes_within, is no minimum.
    All are nan where the fit has none there, or more than a twentieth of its draws, or more
    than half of the fits without an edge of the runs; fewer are left out. Raises ValueError for
    what is not above 0.
    """
    spend = _spend(budget, flops_per_param_token)
    low, high = np.log(sizes_within(fit, budget, flops_per_param_token))
    u = np.linspace(low, high, _STEPS)
    every = [fit.thetas, *fit.without]
    values = [_optima(fit, thetas, u, spend, n_unique) for thetas in every]
    drawn, *edged = values
    known = [each for each in edged if np.isfinite(each["n_params"][0])]
    if not has_minimum(drawn["n_params"]) or 2 * len(known) < len(edged):
        nothing = np.array(np.nan)
        return dict.fromkeys(drawn, Prediction(nothing, nothing, nothing, level))
    bounds = {name: percentiles(_known(own[1:]), level) for name, own in drawn.items()}
    of_compute = [edge for edge in fit.edges if edge.name == "compute"]
    times = times_beyond(of_compute, lambda _: np.array(spend)).max(initial=1.0)
    found = {}
    for name, own in drawn.items():
        m = fit.without.shape[1]
        without = np.log([each[name] for each in known]).reshape(-1, m)
        sd = error_of_form(np.log(own[:m]), without, times, fit.misfit)
        alone = Prediction(own[0], *bounds[name], level).on(np.log)
        found[name] = widened(alone, sd, level, len(known)).on(np.exp)
    return found


def _spend(budget: float, flops_per_param_token: float) -> float:
    """ln of N D."""
    k = positive("flops_per_param_token", flops_per_param_token)
    return float(np.log(positive("budget", budget) / k))


def sizes_within(
    fit: SurfaceFit, budget: float, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN
) -> tuple[float, float]:
    """Sizes among which a minimum is looked for: a factor of 1e4 on each side of those that grow as
    their tokens do from the middle of the runs.
    """
    n, d = fit.centre["N"], fit.centre["D"]
    middle = n + (_spend(budget, flops_per_param_token) - n - d) / 2
    return float(np.exp(middle - _FAR)), float(np.exp(middle + _FAR))


def has_minimum(sizes: Array) -> bool:
    """Whether the estimate and all but a twentieth of its draws (1 + S,) have one: are not nan."""
    return bool(np.isfinite(sizes[0]) and np.isnan(sizes).mean() <= _LOST)


def _known(values: Array) -> Array:
    return values[np.isfinite(values)]


def _optima(
    fit: SurfaceFit, thetas: Array, u: Array, spend: float, n_unique: float | None
) -> dict[str, Array]:
    """Optimum of each theta (S,), from a grid of ln N, then from a finer one; nan where there is
    none.
    """
    at, inside = _lowest(_losses(fit, thetas, u, spend, n_unique))
    known = at[inside] if inside.any() else at
    u = np.linspace(u[known.min() - 1], u[known.max() + 1], _STEPS)
    losses = _losses(fit, thetas, u, spend, n_unique)
    at, found = _lowest(losses)
    inside &= found
    rows = np.arange(len(at))
    left, best, right = (losses[rows, at + k] for k in (-1, 0, 1))
    bend = left - 2 * best + right
    with np.errstate(divide="ignore", invalid="ignore"):
        move = np.clip((left - right) / (2 * bend), -1.0, 1.0)
    move = np.where(np.isfinite(move) & (bend > 0) & np.isfinite(bend), move, 0.0)
    N = np.where(inside, np.exp(u[at] + move * (u[1] - u[0])), np.nan)
    D = np.exp(spend) / N
    loss = best - np.where(move == 0, 0.0, left - right) * move / 4
    return {
        "n_params": N,
        "n_tokens": D,
        "tokens_per_param": D / N,
        "loss": np.where(inside, loss, np.nan),
    }


def _lowest(losses: Array) -> tuple[np.ndarray, np.ndarray]:
    """Places (S,) of the lowest of the minima of each row (S, n), and whether there is one: ends,
    to which a form that bends may fall far from its runs, are none.
    """
    inner = losses[:, 1:-1]
    low = (inner < losses[:, :-2]) & (inner <= losses[:, 2:])
    return 1 + np.where(low, inner, np.inf).argmin(axis=1), np.asarray(low.any(axis=1))


def _losses(
    fit: SurfaceFit, thetas: Array, u: Array, spend: float, n_unique: float | None
) -> Array:
    """nats/token by each theta, (S, n), at sizes exp(u) of a budget."""
    unique = np.inf if n_unique is None else n_unique
    with np.errstate(over="ignore", invalid="ignore"):  # of a form that bends, far from the runs
        at = Variables.of(np.exp(u), np.exp(spend - u), U=unique)
        found = fit.losses_of(at, thetas)
    return np.where(np.isfinite(found), found, np.inf)
