"""Losses of runs beside their budget, against the surface that made them, in float64."""

import numpy as np
import pandas as pd
import pytest

from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.offsets import at_budgets
from analysis.table.budgets import COUNTED
from analysis.table.load import check_table
from analysis.validation.residuals import compute_residuals
from tests.analysis.tables import BESIROGLU, HOFFMANN, around_the_optimum, surface

BUDGETS = np.geomspace(1e18, 1e21, 5)


def pair(law, budgets=BUDGETS, *, off=0.01, span=4, seed=0):
    """Runs that are up to `off` beside their budget, and the same runs at the budget."""
    C, N, D = around_the_optimum(budgets, 9, span, law)
    factor = 1 + np.random.default_rng(seed).uniform(-off, off, len(C))
    made = []
    for f in (factor, np.ones_like(C)):
        loss = surface(N, D * f, **law)
        frame = pd.DataFrame({"budget": C * f, "n_params": N, "n_tokens": D * f, "loss": loss})
        made.append(check_table(frame, budgets=list(budgets), budget_tolerance=off))
    assert made[0]["n_params"].tolist() == made[1]["n_params"].tolist()
    assert COUNTED in made[0]
    assert COUNTED not in made[1]
    return made


def worst(table, true, name="loss"):
    return (table[name] / true[name] - 1).abs().max()


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU])
@pytest.mark.parametrize("span", [4, 16])
@pytest.mark.parametrize("x", ["n_params", "n_tokens"])
def test_losses_are_as_they_would_be_at_the_budget(law, span, x):
    beside, true = pair(law, span=span)
    moved = at_budgets(beside, x)
    if x == "n_params":  # of tokens the size moves, and the true run is another
        # The parabola is not the surface: most at the ends of wide curves
        assert worst(moved.table, true) < (0.03 if span == 4 else 0.08) * worst(beside, true)
        np.testing.assert_allclose(moved.table["n_tokens"], true["n_tokens"], rtol=1e-12)
    assert moved.n == len(beside)
    assert moved.left == {}
    fits = [fit_isoflop(table, x, n_draws=0).law() for table in (beside, true)]
    for name in ("n_params", "n_tokens"):
        exponents = [fit.laws[name].exponent for fit in fits]
        assert exponents[0] == pytest.approx(exponents[1], abs=3e-4)


def test_what_is_not_moved_would_be_wrong_by_far_more():
    beside, true = pair(HOFFMANN, off=0.05)
    as_counted = beside.drop(columns=COUNTED)
    laws = [fit_isoflop(t, n_draws=0).law().laws for t in (beside, as_counted, true)]
    moved, raw = (abs(law["n_params"].exponent - laws[2]["n_params"].exponent) for law in laws[:2])
    assert raw > 1e-3
    assert moved < raw / 50


def test_the_fit_and_its_residuals_are_of_moved_losses_and_say_so():
    beside, true = pair(HOFFMANN)
    fit = fit_isoflop(beside, n_draws=0)
    (text,) = fit.moved
    most = (at_budgets(beside).table["loss"] - beside["loss"]).abs().max()
    off = (beside[COUNTED] / beside["budget"] - 1).abs().max()
    assert text == (
        f"45 losses moved along the curves to their budget's FLOPs, by at most {most:.2g} "
        f"nats/token for {off:.2g} of the FLOPs"
    )
    for curve, same in zip(fit.curves, fit_isoflop(true, n_draws=0).curves, strict=True):
        np.testing.assert_allclose(curve.losses, same.losses, atol=1e-4)
    own = compute_residuals(fit, beside)["residual"]
    np.testing.assert_allclose(own, compute_residuals(fit, at_budgets(beside).table)["residual"])
    assert fit_isoflop(true, n_draws=0).moved == ()


def test_moving_twice_moves_once_and_failed_runs_stay():
    beside, _ = pair(HOFFMANN)
    status = beside["status"].where(beside.index > 0, "failed")
    beside = beside.assign(status=status)
    once = at_budgets(beside)
    again = at_budgets(once.table)
    pd.testing.assert_frame_equal(once.table, again.table)
    assert again.how == ()
    assert once.n == len(beside) - 1
    assert once.table["loss"][0] == beside["loss"][0]


def test_a_series_with_one_minimum_is_not_moved_and_says_so():
    beside, _ = pair(HOFFMANN, BUDGETS[:1])
    moved = at_budgets(beside)
    assert moved.table["loss"].tolist() == beside["loss"].tolist()
    (text,) = fit_isoflop(beside, n_draws=0).moved
    assert text.startswith(
        "losses of model not moved to their budget's FLOPs: fewer than two budgets have a minimum"
    )
    both = pd.concat([beside, pair(HOFFMANN)[0].assign(series="other")], ignore_index=True)
    assert at_budgets(both).left.keys() == {"model"}
    assert at_budgets(both).n == 45
