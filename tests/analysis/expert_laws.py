"""Laws in experts written out apart from the package's own, and tables of runs made from them."""

import numpy as np
import pandas as pd

from analysis.table.load import check_table
from tests.analysis.tables import expert_runs

SIZES = np.geomspace(1.5e7, 1.3e9, 6)

EXPERTS = 2 ** np.arange(10)

FEW = {"n_draws": 5}


def bilinear(N, e, a, b, c, d):
    n = np.log10(N)
    return 10 ** (a * n + b * e + c * n * e + d)


def saturated(E, E_start, E_max):
    return 1 / (1 / (E - 1 + 1 / (1 / E_start - 1 / E_max)) + 1 / E_max)


def loglinear(N, E, *, a, b, c, d):
    return bilinear(N, np.log10(E), a, b, c, d)


def power_floor(N, E, *, L0, K, a, b):
    return L0 + K * N**-a * E**-b


def clark(N, E, *, a, b, c, d, E_start, E_max):
    return bilinear(N, np.log10(saturated(E, E_start, E_max)), a, b, c, d)


def clark_floor(N, E, *, L0, K, a, b, E_start, E_max):
    return L0 + K * N**-a * saturated(E, E_start, E_max) ** -b


def granularity(N, D, G, *, c, g, a, b, alpha, beta, gamma):
    return c + (g / G**gamma + a) / N**alpha + b / D**beta


LAWS = {
    "loglinear": loglinear,
    "power_floor": power_floor,
    "clark": clark,
    "clark_floor": clark_floor,
}

TRUTHS = {
    "loglinear": {"a": -0.083, "b": -0.118, "c": 0.0099, "d": 1.11},
    "power_floor": {"L0": 1.5, "K": 35.0, "a": 0.18, "b": 0.07},
    "clark": {"a": -0.083, "b": -0.118, "c": 0.0099, "d": 1.11, "E_start": 2.07, "E_max": 239.0},
    "clark_floor": {"L0": 1.48, "K": 37.0, "a": 0.18, "b": 0.097, "E_start": 2.6, "E_max": 300.0},
}

OTHERS = {
    "loglinear": {"a": -0.06, "b": -0.05, "c": -0.002, "d": 0.9},
    "power_floor": {"L0": 0.2, "K": 8.0, "a": 0.1, "b": 0.15},
    "clark": {"a": -0.087, "b": -0.138, "c": 0.0126, "d": 1.16, "E_start": 4.3, "E_max": 427.0},
    "clark_floor": {"L0": 2.0, "K": 60.0, "a": 0.25, "b": 0.2, "E_start": 1.2, "E_max": 60.0},
}

KRAJEWSKI = {
    "c": 0.47,
    "g": 2.1,
    "a": 18.1,
    "b": 30.8,
    "alpha": 0.115,
    "beta": 0.147,
    "gamma": 0.58,
}


def runs_of(form, truth=None, sizes=SIZES, experts=EXPERTS, **how):
    truth = truth or TRUTHS[form]
    return expert_runs(lambda N, E: LAWS[form](N, E, **truth), sizes, experts, **how)


def granular(sizes, tokens, grains, noise=0.0, seed=0):
    """A checked table: a run for each size, number of tokens and granularity; noise relative."""
    grid = np.meshgrid(np.float64(sizes), np.float64(tokens), np.float64(grains))
    N, D, G = (v.ravel() for v in grid)
    factor = np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
    columns = {
        "model": "moe",
        "budget": 6 * N * D,
        "n_params": 8 * N,
        "n_active_params": N,
        "n_tokens": D,
        "n_experts": 64,
        "granularity": G,
        "loss": granularity(N, D, G, **KRAJEWSKI) * factor,
        "status": "done",
    }
    return check_table(pd.DataFrame(columns))


# Laws in several variables, with numbers like those of their papers: here they are the truth of
# made tables, and what is tested is that they come back. None was read in the paper itself.
# Ludziejewski's form is as public summaries of arXiv:2502.05172 give it. A public note on the paper
# has the same nine digits, with every exponent of the other sign. Abnar's law and numbers are as
# two public notes on arXiv:2501.12370 give its eq. 6 and Table 3.

LUDZIEJEWSKI = {
    "a": 35.91, "alpha": -0.1889, "delta": -0.2285, "gamma": 0.0098, "b": 35.98, "beta": -0.1775,
    "omega": 0.5529, "zeta": -0.0259, "c": 1.3637, "E_start": 2.0732, "E_max": 290.4521,
}  # fmt: skip

ABNAR = {
    "e": 0.94, "a": 16612.5, "b": 5455.67, "c": 0.4598, "d": 17.26, "alpha": 0.5962,
    "beta": 0.3954, "lambda": -0.1666, "delta": 0.1603, "gamma": 0.1595,
}  # fmt: skip

WITH_EXPERTS = {**KRAJEWSKI, "delta": 0.05}


def joint(N, E, D, *, a, alpha, delta, gamma, b, beta, omega, zeta, c, E_start, E_max):
    hat = saturated(E, E_start, E_max)
    of_size = a * hat**delta * N ** (alpha + gamma * np.log(hat))
    return of_size + b * hat**omega * D ** (beta + zeta * np.log(hat)) + c


def sparsity(N, D, S, **p):
    of_sparsity = p["c"] / (1 - S) ** p["lambda"] + p["d"] / (
        (1 - S) ** p["delta"] * N ** p["gamma"]
    )
    return p["a"] / N ** p["alpha"] + p["b"] / D ** p["beta"] + of_sparsity + p["e"]


def granularity_experts(N, E, D, G, *, c, g, a, b, alpha, beta, gamma, delta):
    return c + (g / G**gamma + a) / (N**alpha * E**delta) + b / D**beta


def grid_of(law, truth, noise=0.0, seed=0, **values):
    """A checked table with a run for each combination of N, E, D, G and S; noise relative."""
    axes = np.meshgrid(*(np.float64(v) for v in values.values()), indexing="ij")
    at = {name: axis.ravel() for name, axis in zip(values, axes, strict=True)}
    loss = law(**at, **truth)
    factor = np.exp(noise * np.random.default_rng(seed).normal(size=len(loss)))
    columns = {
        "model": "moe",
        "n_active_params": at["N"],
        "n_params": at["N"] * 8,
        "n_tokens": at["D"],
        "n_experts": at.get("E", np.full(len(loss), 64.0)).astype(int),
        "loss": loss * factor,
        "status": "done",
    }
    more = {"granularity": "G", "sparsity": "S"}
    columns |= {name: at[letter] for name, letter in more.items() if letter in at}
    return check_table(pd.DataFrame(columns))


JOINT_GRIDS = {  # form -> law, truth, and the values of a grid that identifies it
    "joint": (
        joint,
        LUDZIEJEWSKI,
        {
            "N": np.geomspace(3e7, 2.7e9, 5),
            "E": [1, 2, 4, 16, 64, 256],
            "D": np.geomspace(2e9, 1.3e11, 4),
        },
    ),
    "sparsity": (
        sparsity,
        ABNAR,
        {
            "N": np.geomspace(1e8, 2e10, 5),
            "D": np.geomspace(2e9, 1.3e11, 4),
            "S": [0, 0.25, 0.5, 0.75, 0.9, 0.95],
        },
    ),
    "granularity_experts": (
        granularity_experts,
        WITH_EXPERTS,
        {
            "N": np.geomspace(6e7, 4e9, 5),
            "E": [4, 16, 64],
            "D": np.geomspace(1e9, 1e11, 4),
            "G": [1, 2, 4, 8, 16],
        },
    ),
}


def joint_runs(form, noise=0.0, seed=0, **values):
    law, truth, grid = JOINT_GRIDS[form]
    return grid_of(law, truth, noise, seed, **{**grid, **values})
