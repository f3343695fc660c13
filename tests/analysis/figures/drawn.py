"""What the tests of the figures draw, and how they ask what is in a drawing."""

import itertools
from functools import cache

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from analysis import compute_contrasts, contrast_parts, figures
from analysis.experts.fit import fit_expert_law, size_slopes
from analysis.fits import find_multipliers
from analysis.isoflop.fit import fit_isoflop
from analysis.parametric import fit_parametric
from analysis.table.load import check_table
from tests.analysis.contrast.test_documents import runs, scored

mpl.use("Agg")
BUDGETS = tuple(1e17 * 4**i for i in range(5))
GAINS = {("dense", None): 0.0, ("moe", 64): 0.04, ("peer", 4096): 0.06, ("peer", 65536): 0.1}


def sweep(budgets=BUDGETS, models=GAINS, n_sizes=7, noise=0.002, curvature=0.06):
    """Runs about a minimum that grows with compute, and one that failed."""
    rng = np.random.default_rng(0)
    rows = []
    for (model, n_experts), gain in models.items():
        for C in budgets:
            for factor in np.geomspace(0.3, 4, n_sizes):
                N = 2e7 * (C / 1e17) ** 0.5 * factor
                loss = 1.8 + (1.9 - gain) * (C / 1e17) ** -0.08 + curvature * np.log(factor) ** 2
                rows.append(
                    {
                        "model": model,
                        "n_experts": n_experts,
                        "budget": C,
                        "n_active_params": N,
                        "n_params": N + 1024 * (n_experts or 0),
                        "n_tokens": C / 6 / N,
                        "loss": loss + rng.normal(0, noise),
                        "status": "done",
                    }
                )
    return check_table(pd.DataFrame([*rows, {**rows[0], "loss": np.nan, "status": "failed"}]))


def isoflop(table):
    return fit_isoflop(table, n_draws=30)


@cache
def usual():
    """A table and its fit, for reading only."""
    table = sweep()
    return table, isoflop(table)


@cache
def many_budgets():
    table = sweep([1e16 * 2**i for i in range(12)], {("dense", None): 0.0})
    return table, isoflop(table)


@cache
def expert_sweep(n_seeds=3):
    """Two sizes of PEER at five numbers of experts; the baseline is one dense model a size."""
    rng = np.random.default_rng(1)
    rows = []
    for size, seed in itertools.product((2e6, 8e6), range(n_seeds)):
        for n_experts in (None, 16384, 65536, 262144, 1048576):
            loss = 2.2 + 9 * size**-0.11 * (n_experts or 1024) ** -0.035 + rng.normal(0, 0.004)
            rows.append(
                {
                    "model": "peer" if n_experts else "dense",
                    "n_experts": n_experts,
                    "n_active_params": size,
                    "n_params": size + 256 * (n_experts or 0),
                    "budget": 1e16,
                    "n_tokens": 1e16 / 6 / size,
                    "seed": seed,
                    "lr": 1e-3,
                    "loss": loss,
                }
            )
    return check_table(pd.DataFrame(rows))


# He 2024 (arXiv:2407.04153), Fig. 3b, digitised: h k -> h -> perplexity
ACTIVE = {
    32: {2: 21.50, 4: 21.70, 8: 22.30},
    64: {2: 21.11, 4: 21.03, 8: 21.22},
    128: {4: 20.67, 8: 20.64, 16: 20.83},
    256: {4: 20.65, 8: 20.43, 16: 20.42},
    512: {8: 20.32, 16: 20.26, 32: 20.37},
}
# Table 2: experts, then perplexity, usage and unevenness without and with query norm
USAGE = (
    (128**2, (23.47, 1.0, 0.45), (23.47, 1.0, 0.30)),
    (256**2, (22.61, 1.0, 0.63), (22.55, 1.0, 0.44)),
    (512**2, (21.54, 1.0, 0.97), (21.47, 1.0, 0.66)),
    (1024**2, (20.73, 0.998, 1.52), (20.64, 1.0, 1.06)),
)
PEER = {"model": "peer", "budget": 6e18, "n_params": 2e9, "n_active_params": 1.6e8}


def active_table():
    return check_table(
        pd.DataFrame(
            {**PEER, "n_experts": 2**20, "n_heads": h, "top_k": hk // h, "loss": np.log(ppl)}
            for hk, line in ACTIVE.items()
            for h, ppl in line.items()
        )
    )


def usage_table():
    return check_table(
        pd.DataFrame(
            {
                **PEER,
                "n_experts": n_experts,
                "layer.query_norm": norm,
                "loss": np.log(ppl),
                "usage": usage,
                "unevenness": unevenness,
            }
            for n_experts, *both in USAGE
            for norm, (ppl, usage, unevenness) in zip(("none", "batch"), both, strict=True)
        )
    )


@cache
def surface(status=True):
    table = sweep(models={("dense", None): 0.0}, noise=0.01)
    loss = 1.7 + 400 * table["n_params"] ** -0.34 + 410 * table["n_tokens"] ** -0.28
    table = table.assign(loss=loss.where(table["status"] == "done"))
    done = table[table["status"] == "done"]
    fit = fit_parametric(done["n_params"], done["n_tokens"], done["loss"], n_draws=50)
    return fit, table if status else done[["n_params", "n_tokens", "loss"]]


@cache
def residual_frame():
    done = usual()[0][lambda t: t["status"] == "done"]
    noise = np.random.default_rng(2).normal(0, 0.003, len(done))
    names = ["series", "model", "budget", "n_params", "n_tokens", "n_experts"]
    return done[names].assign(residual=noise)


@cache
def laws_of(*forms):
    return [fit_expert_law(expert_sweep(), form, baseline="dense", n_draws=30) for form in forms]


def law_of_experts():
    table = expert_sweep()
    slopes = size_slopes(table, baseline="dense")
    return figures.draw_experts(table, laws_of("power_floor"), slopes, baseline="dense")


@cache
def multipliers():
    return find_multipliers(usual()[1], "dense")


def laws_compared():
    return figures.draw_experts(expert_sweep(), laws_of("loglinear", "power_floor", "clark"))


def contrasts():
    return compute_contrasts(usual()[0], "n_active_params", baselines=["dense", "moe"])


def domains():
    table = runs()
    documents = scored(table, domains=("news", "poems"))
    return contrast_parts(table, documents, "d_model", baselines=["none"])


ALL = {
    "isoflop": lambda: figures.draw_isoflop(*usual()),
    "isoflop, 12 budgets": lambda: figures.draw_isoflop(*many_budgets()),
    "isoflop together": lambda: figures.draw_isoflop(*usual(), together=True),
    "isoflop together, 12 budgets": lambda: figures.draw_isoflop(*many_budgets(), together=True),
    "laws": lambda: figures.draw_laws(usual()[1]),
    "frontier": lambda: figures.draw_frontier(*usual()),
    "multipliers": lambda: figures.draw_multipliers(multipliers()),
    "forest": lambda: figures.draw_forest(multipliers(), [1e19], [3.0]),
    "contrasts": lambda: figures.draw_contrasts(contrasts()),
    "contrasts' multipliers": lambda: figures.draw_contrast_multipliers(
        contrasts(), {"another study": (1.65, 1.91)}
    ),
    "domains": lambda: figures.draw_parts(domains()),
    "experts": law_of_experts,
    "experts, laws compared": laws_compared,
    "active": lambda: figures.draw_active(active_table()),
    "usage": lambda: figures.draw_usage(usage_table()),
    "residuals": lambda: figures.draw_residuals(residual_frame()),
    "contours": lambda: figures.draw_contours(*surface()),
}


def stars(axis):
    return [line for line in axis.lines if line.get_marker() == "*"]


def is_hollow(line):
    return to_rgb(line.get_markerfacecolor()) == to_rgb(plt.rcParams["axes.facecolor"])


def legend_labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]
