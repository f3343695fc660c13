"""Residuals are of the right run, of the right sign, and nothing on what made the runs."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.experts.fit import fit_expert_law
from analysis.isoflop.fit import fit_isoflop
from analysis.parametric import fit_parametric
from analysis.synthetic import (
    ChinchillaSurface,
    ClarkSurface,
    simulate_experts,
    simulate_isoflop,
)
from analysis.table.load import check_table
from analysis.validation.residuals import compute_residuals
from tests.analysis.expert_laws import granular

BUDGETS = np.geomspace(1e17, 1e20, 4)
EXPERTS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
EXACT = 1e-9  # least squares at 1e-15 of a loss, seen through parameters a thousand times as loose


@pytest.fixture(scope="module")
def table():
    return simulate_isoflop(ChinchillaSurface(), BUDGETS, 7, span=8.0)


@pytest.fixture(scope="module")
def surface(table):
    return fit_parametric(table["n_params"], table["n_tokens"], table["loss"], n_draws=0)


def parabolas(**columns):
    rows = [
        {
            "budget": budget,
            "n_params": size,
            "n_tokens": budget / 6 / size,
            "loss": 3 + 0.05 * math.log(size / 1e8) ** 2,
            "status": "done",
            **columns,
        }
        for budget in (1e18, 1e19)
        for size in np.geomspace(1e7, 1e9, 7)
    ]
    return check_table(pd.DataFrame(rows))


def matched(residuals, table, keys=("budget", "n_params")):
    """Table's loss beside each residual, by what the run is, not by its place."""
    merged = residuals.merge(table[[*keys, "loss"]], on=list(keys), how="left", validate="1:1")
    assert len(merged) == len(residuals)
    return merged


# Nothing is a residual


@pytest.mark.parametrize("x", ["n_params", "n_tokens"])
def test_nothing_is_left_of_a_parabola(x):
    table = parabolas()
    found = compute_residuals(fit_isoflop(table, x, "parabola", n_draws=0), table)
    assert len(found) == len(table)
    assert found["residual"].abs().max() < 1e-12


def test_nothing_is_left_of_an_interpolation(table):
    found = compute_residuals(fit_isoflop(table, method="akima", n_draws=0), table)
    assert len(found) == len(table)
    assert found["residual"].abs().max() < 1e-12


def test_nothing_is_left_of_a_surface(table, surface):
    found = compute_residuals(surface, table)
    assert len(found) == len(table)
    assert found["residual"].abs().max() < EXACT


def test_nothing_is_left_of_laws_of_experts():
    table = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], EXPERTS)
    found = compute_residuals(fit_expert_law(table, "clark", n_draws=0), table)
    assert len(found) == len(table)
    assert found["residual"].abs().max() < EXACT
    table = granular([1e7, 1e8, 1e9], [1e9, 1e10, 1e11], [1, 2, 4, 8])
    found = compute_residuals(fit_expert_law(table, "granularity", n_draws=0), table)
    assert len(found) == len(table)
    assert found["residual"].abs().max() < EXACT


def test_granularity_is_heads_times_top_k():
    table = granular([1e7, 1e8, 1e9], [1e9, 1e10, 1e11], [1, 2, 4, 8])
    named = table.assign(
        n_heads=table["granularity"].astype("Int64"), top_k=pd.array([1] * len(table), "Int64")
    ).drop(columns="granularity")
    found = compute_residuals(fit_expert_law(named, "granularity", n_draws=0), named)
    assert found["residual"].abs().max() < EXACT


# What they are


def test_they_are_ln_measured_less_ln_fitted(table, surface):
    measured = table.assign(loss=table["loss"] * np.where(table.index % 2, 1.1, 0.9))
    found = matched(compute_residuals(surface, measured), measured)
    fitted = surface.predict(found["n_params"], found["n_tokens"]).value
    assert found["residual"].to_numpy() == pytest.approx(np.log(found["loss"] / fitted))
    worse = found["loss"] > fitted
    assert (found["residual"] > 0).equals(worse)  # positive: worse than the law says
    assert worse.sum() == len(table) / 2


def test_a_curve_s_are_about_the_curve(table):
    fit = fit_isoflop(table, method="parabola", n_draws=0)
    found = matched(compute_residuals(fit, table), table)
    for curve in fit.curves:
        own = found[found["budget"] == curve.budget].sort_values("n_params")
        predicted = curve.loss(own["n_params"])
        assert own["residual"].to_numpy() == pytest.approx(np.log(own["loss"] / predicted))
    assert found["residual"].abs().max() > 1e-4  # Chinchilla's curves are no parabolas


@pytest.mark.parametrize("method", ["slice", "parabola", "akima"])
def test_a_run_keeps_its_own_in_any_order(table, surface, method):
    noisy = simulate_isoflop(ChinchillaSurface(), BUDGETS, 7, span=8.0, noise=0.02)
    shuffled = noisy.sample(frac=1, random_state=0)
    for fit in (surface, fit_isoflop(noisy, method=method, n_draws=0)):
        one, two = (
            compute_residuals(fit, runs).sort_values(["budget", "n_params"], ignore_index=True)
            for runs in (noisy, shuffled)
        )
        pd.testing.assert_frame_equal(one, two)


def test_experts_keep_their_own():
    table = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], EXPERTS, noise=0.02)
    fit = fit_expert_law(table, "loglinear", n_draws=0)
    found = matched(compute_residuals(fit, table), table, ("n_active_params", "n_experts"))
    p = fit.params
    n, e = np.log10(found["n_active_params"]), np.log10(found["n_experts"].astype(float))
    fitted = 10 ** (p["a"] * n + p["b"] * e + p["c"] * n * e + p["d"])
    assert found["residual"].to_numpy() == pytest.approx(np.log(found["loss"] / fitted))
    assert math.sqrt((found["residual"] ** 2).mean()) == pytest.approx(fit.rmse)


def test_what_stands_beside_them(table, surface):
    found = compute_residuals(surface, table)
    assert list(found.columns) == [
        "series", "model", "budget", "n_params", "n_active_params", "n_tokens", "n_experts",
        "residual",
    ]  # fmt: skip
    assert list(found.index) == list(range(len(found)))


# Which runs


def test_only_finished_runs_have_one(table, surface):
    failed = table.assign(loss=np.nan, status="failed", run_id=None)
    both = pd.concat([failed, table], ignore_index=True)
    for fit in (surface, fit_isoflop(table, n_draws=0)):
        assert len(compute_residuals(fit, both)) == len(table)
    with pytest.raises(ValueError, match="no finished run"):
        compute_residuals(surface, failed)


def test_a_curve_s_are_of_the_best_run_of_each_cell():
    table = parabolas(lr=1e-3)
    worse = table.assign(lr=2e-3, loss=table["loss"] + 1, run_id=None)
    both = pd.concat([worse, table], ignore_index=True)
    found = compute_residuals(fit_isoflop(both, method="parabola", n_draws=0), both)
    assert len(found) == len(table)
    assert found["residual"].abs().max() < 1e-12


@pytest.mark.parametrize("n_nearest", [3, 5])
def test_sizes_that_were_not_fitted_are_left_out(n_nearest):
    table = parabolas()
    fit = fit_isoflop(table, method="parabola", n_nearest=n_nearest, n_draws=0)
    found = compute_residuals(fit, table)
    assert found.groupby("budget").size().tolist() == [n_nearest] * 2
    sizes = sorted(set(found["n_params"]))
    assert sizes == pytest.approx(list(fit.curves[0].sizes))


def test_models_are_distinguished():
    dense = parabolas(model="dense")
    moe = parabolas(model="moe").assign(loss=lambda t: t["loss"] - 0.5)
    both = pd.concat([dense, moe], ignore_index=True)
    found = compute_residuals(fit_isoflop(both, method="parabola", n_draws=0), both)
    assert found["series"].value_counts().to_dict() == {"dense": 14, "moe": 14}
    assert found["residual"].abs().max() < 1e-12
    only = compute_residuals(fit_isoflop(dense, method="parabola", n_draws=0), both)
    assert set(only["series"]) == {"dense"}


def test_a_law_of_experts_is_of_its_model():
    table = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], EXPERTS)
    other = table.assign(model="peer", series="peer", run_id=None, loss=table["loss"] + 1)
    both = pd.concat([table, other], ignore_index=True)
    found = compute_residuals(fit_expert_law(both, "clark", model="moe", n_draws=0), both)
    assert set(found["model"]) == {"moe"}
    assert found["residual"].abs().max() < EXACT


def test_every_run_of_the_fit_has_one():
    moe = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], EXPERTS[1:], noise=0.01)
    dense = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], [1], noise=0.01)
    dense = dense.assign(model="dense", series="dense", run_id=None)
    both = pd.concat([moe, dense], ignore_index=True)
    fit = fit_expert_law(both, "clark", model="moe", baseline="dense", n_draws=0)
    found = compute_residuals(fit, both)
    assert len(found) == fit.n_points == 27
    assert math.sqrt((found["residual"] ** 2).mean()) == pytest.approx(fit.rmse)
    assert (found.loc[found["model"] == "dense", "n_experts"] == 1).all()


def test_runs_without_tokens_have_none(table, surface):
    # A surface can say nothing of them
    assert compute_residuals(surface, table.assign(n_tokens=np.nan)).empty
    some = table.assign(n_tokens=table["n_tokens"].where(table.index % 2 == 0))
    found = compute_residuals(surface, some)
    assert len(found) == len(table) / 2
    assert found["residual"].abs().max() < EXACT


def test_runs_without_what_a_law_of_experts_needs_have_none():
    table = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], EXPERTS)
    fit = fit_expert_law(table, "clark", n_draws=0)
    some = table.assign(n_experts=table["n_experts"].where(table["n_experts"] > 1))
    found = compute_residuals(fit, some)
    assert len(found) == len(table) - 3
    assert found["residual"].abs().max() < EXACT


def test_another_size_can_be_what_n_is(table):
    active = table.assign(n_active_params=table["n_params"] / 3)
    fit = fit_parametric(active["n_active_params"], active["n_tokens"], active["loss"], n_draws=0)
    right = compute_residuals(fit, active, "n_active_params")
    assert right["residual"].abs().max() < EXACT
    assert compute_residuals(fit, active)["residual"].abs().max() > 0.05
