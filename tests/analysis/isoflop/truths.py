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
    """Hoffmann's, whose exponent of tokens goes from .28 to .16 about 2e9 (Caballero 2022,
    arXiv:2210.14891, eq. 1, with one break).
    """
    return 1.69 + 406.4 * N**-0.34 + 410.7 * D**-0.28 * (1 + (D / 2e9) ** 4) ** (0.12 / 4)


def repeated(N, D, unique=1.5e9):
    """Muennighoff 2023 (arXiv:2305.16264): of repeated tokens each epoch is worth less."""
    repeats = np.maximum(D / unique - 1, 0)
    worth = np.minimum(D, unique) + unique * 15.4 * (1 - np.exp(-repeats / 15.4))
    return 1.87 + 521 * N**-0.353 + 1488 * worth**-0.353


def muennighoff(N, D, unique=1.5e9):
    """Same with excess parameters, as its authors' code has it; 1.5e9 of the tokens are unique.

    github.com/huggingface/datablations, README, "Parametric Fit", with its numbers.
    """
    A, B, E = np.exp([6.255414, 7.3049974, 0.6254804])
    alpha = beta = 0.3526596
    unique = np.minimum(unique, D)
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    wanted = np.minimum(N, (unique * G) ** (beta / alpha) * G)
    repeats, excess = D / unique - 1, N / wanted - 1
    size = wanted + wanted * 5.309743 * (1 - np.exp(-excess / 5.309743))
    tokens = unique + unique * 15.387756 * (1 - np.exp(-repeats / 15.387756))
    return E + A / size**alpha + B / tokens**beta


def interacting(N, D):
    """Hoffmann's, but tokens help the more the larger the model is, as in Farseer's law
    (arXiv:2506.10972).
    """
    exponent = 0.28 * (N / 1e9) ** 0.06
    return 1.69 + 406.4 * N**-0.34 + 410.7 * 2e10**-0.28 * (D / 2e10) ** -exponent


def badly_tuned(N, D, much=0.01):
    """Hoffmann's, but rates are the worse the larger the model is, from 3e8 on."""
    return hoffmann(N, D) + much * np.maximum(np.log(N / 3e8), 0) ** 2


def worse_tuned(N, D):
    """Twice as much."""
    return badly_tuned(N, D, 0.02)


def non_embedding(N, D):
    """Hoffmann's, of all parameters, where N are those without 50,257 embeddings; C is counted with
    them (Porian 2024, arXiv:2406.19146, §3).
    """
    every = N + 50257 * (128 * N / 12) ** (1 / 3)  # 12 L d^2 of d = 128 L
    return hoffmann(every, D * N / every)


def optimum(law, budget):
    """Best size of 6ND FLOPs."""
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


def on_ladder(law, budgets=BUDGETS, factor=12.0):
    """Sizes of powers of two within 1/factor to factor times the best, as a study shares them among
    budgets.
    """
    rungs = 1e6 * 2.0 ** np.arange(24)
    rows = [
        {"model": "m", "budget": C, "n_params": N, "n_active_params": N, "n_tokens": C / 6 / N}
        for C in budgets
        for N in rungs[np.abs(np.log(rungs / optimum(law, C))) < np.log(factor)]
    ]
    frame = pd.DataFrame(rows)
    frame = frame.assign(loss=law(frame["n_params"], frame["n_tokens"]), status="done", lr=1e-3)
    return check_table(frame.assign(seed=0))


def noisy(table, sd, seed):
    """sd: nats, one for all runs or (n,)."""
    drawn = np.random.default_rng(seed).normal(0, 1, len(table)) * sd
    return table.assign(loss=table["loss"] + drawn)
