"""Tables of tuned runs, and cells, of a law that is known."""

import numpy as np
import pandas as pd

from analysis.isoflop.shape import fit_parabola
from analysis.rates.cells import BestRate

SIZES, TOKENS = (1e7, 3e7, 1e8), (1e9, 4e9, 1.6e10)
TRUE = {"n_params": -0.6, "n_tokens": 0.25}
GRID = 2 ** np.arange(-2, 2.5, 0.5)


def best(n_params, n_tokens, coefficient=20.0):
    return coefficient * n_params ** TRUE["n_params"] * n_tokens ** TRUE["n_tokens"]


def tuned(lr_opt, rates, noise=0.0, rng=None, **columns):
    """A row a rate: a parabola of curvature 0.05 nats in ln(rate)^2 about lr_opt."""
    draws = noise * (rng or np.random.default_rng(0)).normal(size=len(rates))
    losses = 3 + 0.05 * np.log(np.asarray(rates) / lr_opt) ** 2 + draws
    base = {"model": "dense", "n_params": 1e7, "n_tokens": 1e9, "status": "done"}
    return pd.DataFrame({**base, **columns, "lr": rates, "loss": losses})


def grid_of(noise=0.0, seed=0, coefficient=20.0, **columns):
    rng = np.random.default_rng(seed)
    parts = []
    for N in SIZES:
        for D in TOKENS:
            at = best(N, D, coefficient)
            where = {"n_params": N, "n_tokens": D, **columns}
            parts.append(tuned(at, 1.1 * at * GRID, noise, rng, **where))
    return pd.concat(parts, ignore_index=True)


def cell_of(lr_opt, error, model="dense", common=(), **at):
    u = np.log(lr_opt) + np.arange(-2, 3)
    return BestRate(
        model=model, budget=np.nan, at=at, name=model, lrs=tuple(np.exp(u)), losses=(), diverged=(),
        n_seeds=1, fitted=(0, 1, 2, 3, 4), lr_opt=lr_opt, lr_interval=(np.nan, np.nan), error=error,
        loss_opt=3.0, noise=0.0, dof=2, inside=True, flags=(), warnings=(),
        shape=fit_parabola(u, (u - u[2]) ** 2), draws=np.empty((0, 5)), common=np.asarray(common),
    )  # fmt: skip
