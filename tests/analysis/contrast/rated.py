"""Rates of made tables, by a law with an error, and what they cost."""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.contrast.beside import OfRates
from analysis.rates.fit import fit_rates
from analysis.rates.saved import SavedLaw, SavedRates, read_rates
from analysis.table.load import check_table

CURVATURE = 0.09  # nats over the square of ln(rate), the study's
EXPONENT, MISSED = -1.2, 0.2  # of the width; ln(rate) of a cell that no law has
TRIALS = 2.0 ** np.arange(-2, 2)  # about .0085
BUDGETS = (1e12, 3e12, 3e13)  # of trials


class Rated(NamedTuple):
    """costs (S,): nats above the loss at the best rate; error: what contrast knows of them."""

    costs: np.ndarray
    error: OfRates


def _size(width: np.ndarray, budget: np.ndarray) -> pd.DataFrame:
    N = 12e3 * width**2
    return pd.DataFrame({"d_model": width, "n_params": N, "n_tokens": budget / 6 / N})


def _law(layers: tuple[str, ...], rng: np.random.Generator) -> tuple[SavedRates, np.ndarray]:
    """A law by six cells of each layer, and its numbers as they are in truth."""
    truth = np.array([*np.log(0.0085) + 0.1 * rng.standard_normal(len(layers)), EXPONENT])
    truth[:-1] -= EXPONENT * np.log(80)
    k = len(layers)
    widths = np.log(np.tile([48.0, 64, 64, 80, 80, 96], k))
    X = np.column_stack([np.repeat(np.eye(k), 6, axis=0), widths])
    missed = 0.15 * rng.standard_normal(len(X))  # of a cell, and its own error
    normal = np.linalg.inv(X.T @ X)
    theta = normal @ X.T @ (X @ truth + missed)
    dof = len(X) - k - 1
    left = float(((X @ (truth - theta) + missed) ** 2).sum()) / dof
    law = SavedLaw(
        models=layers,
        columns=("d_model",),
        theta=theta,
        covariance=left * normal,
        dof=dof,
        taus=np.array([MISSED]),
    )
    return SavedRates(
        path="law", laws=((law,),), curvatures=dict.fromkeys(layers, CURVATURE)
    ), truth


def _by_trials(
    layers: tuple[str, ...], rng: np.random.Generator, sd: float
) -> tuple[SavedRates, np.ndarray]:
    """A law that `analysis rates` has fitted to four trials of each layer and budget."""
    truth = np.array([*np.log(0.0085) + 0.1 * rng.standard_normal(len(layers)), EXPONENT])
    truth[:-1] -= EXPONENT * np.log(80)
    rows = []
    for i, layer in enumerate(layers):
        for width, budget in zip((48.0, 64.0, 96.0), BUDGETS, strict=True):
            best = truth[i] + EXPONENT * np.log(width) + MISSED * rng.standard_normal()
            lrs = 0.0085 * (width / 80) ** EXPONENT * TRIALS
            losses = 3 + CURVATURE * (np.log(lrs) - best) ** 2 + sd * rng.standard_normal(len(lrs))
            cell = _size(np.full(len(lrs), width), np.full(len(lrs), budget))
            rows.append(cell.assign(model=layer, budget=budget, lr=lrs, loss=losses))
    table = pd.concat(rows, ignore_index=True)
    table = check_table(table.assign(n_active_params=table["n_params"], status="done"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rates.json"
        path.write_text(json.dumps(fit_rates(table, method="parabola").to_dict()))
        return read_rates(path), truth


def _of_all(
    layers: tuple[str, ...], rng: np.random.Generator, trials: float | None
) -> tuple[SavedRates, np.ndarray, SavedLaw]:
    """Rates with a law of all layers, and that law: contrast refuses a layer without one, and who
    tried too few rates tries others.
    """
    while True:
        saved, truth = _law(layers, rng) if trials is None else _by_trials(layers, rng, trials)
        for law, *_ in saved.laws:  # the chosen one, which the rates are by
            if set(layers) <= set(law.models):
                return saved, truth, law


def rated(
    layers: tuple[str, ...],
    cells: list[tuple[str, float]],
    widths: np.ndarray,
    rng: np.random.Generator,
    trials: float | None,
) -> Rated:
    """Points of cells (S) and widths (S,), each at the rate that a law gives it. trials: the noise
    of a trial, of laws that are fitted to such; None: laws whose own error is as they say.

    What no law has of a curve's best rate all its sizes share.
    """
    saved, truth, law = _of_all(layers, rng, trials)
    series = [layer for layer, _ in cells]
    budget = np.array([at for _, at in cells])
    rows = _size(widths, budget).assign(series=series, model=series, budget=budget)
    rows["lr"] = np.exp(law.design(rows, series) @ law.theta)
    missed = {cell: MISSED * rng.standard_normal() for cell in dict.fromkeys(cells)}
    best = np.array([truth[layers.index(name)] for name in series]) + EXPONENT * np.log(widths)
    best += [missed[cell] for cell in cells]
    costs = CURVATURE * (np.log(rows["lr"].to_numpy()) - best) ** 2
    return Rated(costs, OfRates(draws=saved.costs(rows), path=saved.path))
