"""Runs drawn from known laws: for tests of the fits, and to plan how many runs a fit needs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm import tqdm

from analysis.fitting.intervals import Array
from analysis.fitting.power_law import PowerLaw, fit_power_law
from analysis.isoflop.shape import fit_parabola
from analysis.laws.saturation import effective_experts
from analysis.table.load import check_table


@dataclass(frozen=True, kw_only=True)
class ChinchillaSurface:
    """L = E + A/N^alpha + B/D^beta, with C = 6ND. Defaults: Hoffmann 2022 (arXiv:2203.15556)."""

    E: float = 1.69
    A: float = 406.4
    B: float = 410.7
    alpha: float = 0.34
    beta: float = 0.28

    def loss(self, n_params: ArrayLike, n_tokens: ArrayLike) -> Array:
        """nats/token."""
        N, D = np.asarray(n_params, dtype=np.float64), np.asarray(n_tokens, dtype=np.float64)
        return self.E + self.A * N**-self.alpha + self.B * D**-self.beta

    @property
    def exponent(self) -> float:
        """a of N* ~ C^a."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, budget: ArrayLike) -> tuple[Array, Array]:
        """N* and D* at a budget of 6ND FLOPs (Hoffmann 2022, eq. 4)."""
        G = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        spend = np.asarray(budget, dtype=np.float64) / 6
        return G * spend**self.exponent, spend ** (1 - self.exponent) / G


@dataclass(frozen=True, kw_only=True)
class ClarkSurface:
    """Clark's law of size and experts. Defaults: S-Base on Clark's runs, as fitted here."""

    a: float = -0.0830
    b: float = -0.1180
    c: float = 0.0099
    d: float = 1.1136
    E_start: float = 2.07
    E_max: float = 239.0

    def loss(self, size: ArrayLike, n_experts: ArrayLike) -> Array:
        """nats/token of a model of N parameters without its E experts."""
        n, E = np.log10(np.asarray(size, dtype=np.float64)), np.asarray(n_experts, dtype=np.float64)
        e = np.log10(effective_experts(E, self.E_start, self.E_max))
        return 10 ** (self.a * n + self.b * e + self.c * n * e + self.d)


def simulate_isoflop(
    surface: ChinchillaSurface,
    budgets: Sequence[float],
    n_sizes: int = 7,
    *,
    span: float = 16.0,
    noise: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """A table of n_sizes runs a budget, their tokens from D*/span to D* span, D = C/6N.

    noise: standard deviation of a run's loss in nats/token.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for budget in budgets:
        D = surface.optimum(budget)[1] * np.geomspace(1 / span, span, n_sizes)
        N = budget / (6 * D)
        losses = surface.loss(N, D) + rng.normal(0.0, noise, n_sizes)
        rows += [
            {"budget": budget, "n_params": n, "n_active_params": n, "n_tokens": d, "loss": loss}
            for n, d, loss in zip(N, D, losses, strict=True)
        ]
    return _table(rows, "dense")


def simulate_experts(
    surface: ClarkSurface,
    sizes: Sequence[float],
    experts: Sequence[int],
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """A table of a run for each size and number of experts; noise in nats/token."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "n_experts": E,
            "n_active_params": N,
            "n_params": N * (1 + E / 10),
            "loss": float(surface.loss(N, E)) + rng.normal(0.0, noise),
        }
        for N in sizes
        for E in experts
    ]
    return _table(rows, "moe")


def study_power(
    surface: ChinchillaSurface,
    *,
    budget_range: tuple[float, float],
    n_budgets: Sequence[int] = (3, 5, 7),
    n_sizes: Sequence[int] = (5, 7, 9),
    noise: float = 0.005,
    span: float = 8.0,
    target: float = 0.02,
    n_trials: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """How well the exponent a of N* ~ C^a is found, by the number of budgets and sizes.

    Answers "how many runs do I need for +-target in a?". Columns: n_budgets, n_sizes, n_runs,
    error (the 95th percentile of |a - truth| over the trials), bias, coverage (of the 95 % t
    interval), failed (share of trials with fewer than three minima inside their sizes, which have
    no part in the others), enough (error <= target, and none failed). Raises ValueError naming the
    value that makes no design.
    """
    for n in n_budgets:
        if n < 3:
            raise ValueError(f"n_budgets={n} must be 3 or more: two leave a line without an error")
    for n in n_sizes:
        if n < 3:
            raise ValueError(f"n_sizes={n} must be 3 or more: a parabola has 3 parameters")
    if not 1 < span < np.inf:
        raise ValueError(
            f"span={span!r} must be finite and above 1: D runs from D*/span to D* span"
        )
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise={noise!r} must be finite and 0 nats/token or more")
    if n_trials < 1:
        raise ValueError(f"n_trials={n_trials} must be 1 or more")
    rng = np.random.default_rng(seed)
    rows = []
    designs = [(b, s) for b in n_budgets for s in n_sizes]
    for nb, ns in tqdm(designs, desc="designs", disable=not progress):
        budgets = np.geomspace(*budget_range, nb)
        errors, covered, failed = [], [], 0
        for _ in range(n_trials):
            law = _law_of_minima(surface, budgets, ns, span, noise, rng)
            if law is None:
                failed += 1
                continue
            errors.append(law.exponent - surface.exponent)
            low, high = law.bounds("exponent")
            covered.append(low <= surface.exponent <= high)
        error = float(np.quantile(np.abs(errors), 0.95)) if errors else float("nan")
        rows.append(
            {
                "n_budgets": nb,
                "n_sizes": ns,
                "n_runs": nb * ns,
                "error": error,
                "bias": float(np.mean(errors)) if errors else float("nan"),
                "coverage": float(np.mean(covered)) if covered else float("nan"),
                "failed": failed / n_trials,
                "enough": error <= target and failed == 0,
            }
        )
    return pd.DataFrame(rows)


def _law_of_minima(
    surface: ChinchillaSurface,
    budgets: Array,
    n_sizes: int,
    span: float,
    noise: float,
    rng: np.random.Generator,
) -> PowerLaw | None:
    """fit_isoflop's law of simulate_isoflop's runs, on arrays: thousands of trials a minute."""
    kept, minima = [], []
    for budget in budgets:
        D = surface.optimum(budget)[1] * np.geomspace(1 / span, span, n_sizes)
        u = np.log(budget / (6 * D))[::-1]
        losses = surface.loss(np.exp(u), D[::-1]) + rng.normal(0.0, noise, n_sizes)
        u_opt = fit_parabola(u, losses).u_opt
        if u[0] <= u_opt <= u[-1]:
            kept.append(budget)
            minima.append(np.exp(u_opt))
    return fit_power_law(kept, minima, y_name="n_params") if len(kept) >= 3 else None


def _table(rows: list[dict[str, float]], model: str) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    labels = {"model": model, "status": "done", "run_id": [f"run{i}" for i in range(len(rows))]}
    return check_table(frame.assign(**labels))
