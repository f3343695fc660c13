"""Compute multipliers at each budget, against the obvious way to find them."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.differences.models import compare_models
from analysis.differences.multipliers import budget_multipliers
from analysis.fitting.status import FitError, FitStatus
from analysis.table.load import check_table

BUDGETS = (1e12, 4e12, 1e13)
LOSSES = {"dense": (4.0, 3.5, 3.3), "peer": (3.8, 3.4, 3.1), "moe": (4.1, 3.6, 3.35)}


def differences(losses=LOSSES, n_seeds=3, noise=0.01):
    rng = np.random.default_rng(0)
    rows = [
        {
            "model": model,
            "budget": budget,
            "n_params": 1e6,
            "n_active_params": 1e6,
            "n_tokens": budget / 6e6,
            "lr": 1e-3,
            "seed": seed,
            "loss": loss + rng.normal(0, noise),
        }
        for model, each in losses.items()
        for budget, loss in zip(BUDGETS, each, strict=True)
        for seed in range(n_seeds)
    ]
    table = check_table(pd.DataFrame(rows))
    return {budget: compare_models(table, budget=budget) for budget in BUDGETS}


def means(found, model):
    return np.array([next(m.loss for m in d.means if m.model == model) for d in found.values()])


def log_factor(losses, baseline, i):
    """Where the baseline's line has the loss: found by a search, not by its equation."""
    x = np.log(BUDGETS)

    def line(at):
        k = 0 if at < x[1] else 1
        share = (at - x[k]) / (x[k + 1] - x[k])
        return baseline[k] + share * (baseline[k + 1] - baseline[k])

    return optimize.brentq(lambda at: line(at) - losses[i], x[0] - 30, x[-1] + 30) - x[i]


@pytest.mark.parametrize("model", ["peer", "moe"])
def test_the_factor_is_where_the_baselines_line_has_the_loss(model):
    found = differences()
    factors = budget_multipliers(found).factors
    arms = means(found, model), means(found, "dense")
    for i, budget in enumerate(BUDGETS):
        expected = math.exp(log_factor(*arms, i))
        assert factors[budget][model].value == pytest.approx(expected, rel=1e-9)


def test_the_interval_is_of_the_noise_of_all_three_losses():
    found = differences()
    arms = [means(found, "peer"), means(found, "dense")]
    for i, budget in enumerate(BUDGETS):
        by_budget, step = np.zeros(3), 1e-6
        for arm in range(2):
            for k in range(3):
                moved = [losses.copy() for losses in arms]
                moved[arm][k] += step
                slope = (log_factor(*moved, i) - log_factor(*arms, i)) / step
                by_budget[k] += slope**2 * found[BUDGETS[k]].noise.sd ** 2 / 3
        dofs = [found[b].noise.dof for b in BUDGETS]
        dof = by_budget.sum() ** 2 / (by_budget**2 / dofs).sum()
        half = stats.t.ppf(0.975, dof) * math.sqrt(by_budget.sum())
        value, lower, upper = np.log(budget_multipliers(found).factors[budget]["peer"])
        # a numerical derivative over 1e-6 nats
        assert (value - lower, upper - value) == pytest.approx((half, half), rel=1e-4)


def test_a_line_that_is_continued_is_a_warning():
    found = budget_multipliers(differences())
    assert [text.partition(" for ")[2] for text in found.warnings] == ["moe", "peer"]
    assert "at C=1e13 the line of dense is continued beyond its budgets" in found.warnings[1]
    assert found.status is not FitStatus.CONVERGED
    inside = {**LOSSES, "peer": (3.8, 3.4, 3.31), "moe": (3.9, 3.45, 3.305)}
    assert budget_multipliers(differences(inside, noise=1e-4)).warnings == ()


def test_what_cannot_be_said_is_refused():
    found = differences()
    with pytest.raises(FitError, match="fewer than two budgets with several seeds"):
        budget_multipliers({1e12: found[1e12]})
    with pytest.raises(FitError, match="loss of dense does not fall from 4e12 to 1e13 FLOPs"):
        budget_multipliers(differences({**LOSSES, "dense": (4.0, 3.5, 3.6)}))
