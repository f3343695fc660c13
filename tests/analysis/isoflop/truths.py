"""Surfaces that runs are drawn from: of the fits' own family, and of others."""

import numpy as np
import pandas as pd
from scipy import optimize

from analysis.table.load import check_table
from tests.analysis.tables import HOFFMANN, surface

BUDGETS = np.geomspace(1e18, 1e20, 5)


def hoffmann(N, D):
    return surface(N, D, **HOFFMANN)


def kaplan(N, D):
    """Kaplan 2020 (arXiv:2001.08361), eq. 1.5."""
    return ((8.8e13 / N) ** (0.076 / 0.095) + 5.4e13 / D) ** 0.095


def broken(N, D):
    """Hoffmann's, whose exponent of tokens goes from .28 to .40 about 2e9 (Caballero 2022,
    arXiv:2210.14891, eq. 1, with one break).
    """
    return 1.69 + 406.4 * N**-0.34 + 410.7 * D**-0.28 * (1 + (D / 2e9) ** 4) ** (0.12 / 4)


def optimum(law, budget):
    """The best size of 6ND FLOPs."""
    found = optimize.minimize_scalar(
        lambda u: law(np.exp(u), budget / 6 / np.exp(u)),
        bounds=(np.log(1e4), np.log(1e14)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(np.exp(found.x))


def runs(law, budgets=BUDGETS, n_sizes=7, factor=8.0, seeds=1):
    """Sizes from 1/factor to factor times the best, without noise."""
    rows = [
        {"model": "m", "budget": C, "n_params": N, "n_active_params": N, "n_tokens": C / 6 / N}
        for C in budgets
        for N in optimum(law, C) * np.geomspace(1 / factor, factor, n_sizes)
    ]
    frame = pd.DataFrame(rows)
    frame = frame.assign(loss=law(frame["n_params"], frame["n_tokens"]), status="done", lr=1e-3)
    every = [frame.assign(seed=seed) for seed in range(seeds)]
    return check_table(pd.concat(every, ignore_index=True))


def noisy(table, sd, seed):
    """sd: nats, one for all runs or (n,)."""
    drawn = np.random.default_rng(seed).normal(0, 1, len(table)) * sd
    return table.assign(loss=table["loss"] + drawn)
