"""Tables of runs made from known laws, written out here apart from the package's own."""

import math

import numpy as np
import pandas as pd

from analysis.table.load import check_table

HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
BESIROGLU = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
SIZES = np.geomspace(5e4, 2e6, 7)
BUDGETS = (1e12, 4e12, 1.6e13, 6.4e13, 2.56e14)


def surface(N, D, *, E, A, B, alpha, beta):
    """Chinchilla's loss in nats/token."""
    return E + A / N**alpha + B / D**beta


def best_size(C, *, E, A, B, alpha, beta):
    """Hoffmann 2022, eq. 4, for C = 6ND."""
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    return G * (C / 6) ** (beta / (alpha + beta))


def around_the_optimum(budgets, n_sizes, factor, law):
    """C, N, D of isoFLOP curves, each from 1/factor to factor times its best size."""
    C = np.repeat(np.asarray(budgets, dtype=float), n_sizes)
    factors = np.geomspace(1 / factor, factor, n_sizes)
    N = best_size(C, **law) * np.tile(factors, len(budgets))
    return C, N, C / 6 / N


def parabola(size, budget=1e12, *, a=0.05, x_opt=3e5, loss_opt=4.5):
    return loss_opt + a * math.log(size / x_opt) ** 2


def growing(size, budget, *, a=0.05, exponent=0.5, x_opt=3e5):
    """Parabolas whose minimum moves as C^exponent, its loss as 2 + 30 C^-0.1."""
    scale = (budget / 1e12) ** exponent
    return parabola(size, a=a, x_opt=x_opt * scale, loss_opt=2 + 30 * budget**-0.1)


def curves(losses_of, sizes=SIZES, budgets=(1e12,), model="dense", **columns):
    """A checked table: a row for each size at each budget, losses_of(size, budget) nats."""
    rows = [
        {
            "model": model,
            "budget": budget,
            "n_params": size,
            "n_tokens": budget / (6 * size),
            "loss": losses_of(size, budget),
            "status": "done",
            **columns,
        }
        for budget in budgets
        for size in sizes
    ]
    return check_table(pd.DataFrame(rows))


def moving(losses_of=growing, n_budgets=5, **columns):
    """A table of isoFLOP curves whose sizes follow the minimum that `growing` has."""
    parts = [
        curves(losses_of, 3e5 * (budget / 1e12) ** 0.5 * np.geomspace(1 / 6, 6, 7), (budget,))
        for budget in BUDGETS[:n_budgets]
    ]
    return joined(*(part.assign(**columns) for part in parts))


def joined(*tables):
    return pd.concat(tables, ignore_index=True)


def noisy(table, sd, seed=0):
    """Same with normal noise of sd nats on the losses."""
    noise = np.random.default_rng(seed).normal(0.0, sd, len(table))
    return table.assign(loss=table["loss"] + noise)


def expert_runs(loss_of, sizes, experts, *, noise=0.0, seed=0, **columns):
    """A checked table: loss_of(N, E) nats for each size and number of experts, noise relative."""
    N, E = (v.ravel() for v in np.meshgrid(np.float64(sizes), np.float64(experts), indexing="ij"))
    factor = np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
    frame = {
        "model": "moe",
        "n_params": N * (0.5 + E),
        "n_active_params": N,
        "n_experts": E.astype(int),
        "loss": loss_of(N, E) * factor,
        "status": "done",
    }
    return check_table(pd.DataFrame({**frame, **columns}))
