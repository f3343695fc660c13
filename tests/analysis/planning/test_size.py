"""Plans say what the laws say, at the budget asked for, and how far that is from the runs."""

import dataclasses
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from analysis.experts.fit import fit_expert_law
from analysis.fitting.status import FitStatus
from analysis.isoflop.fit import fit_isoflop
from analysis.parametric import fit_parametric
from analysis.planning.size import plan
from analysis.synthetic import (
    ChinchillaSurface,
    ClarkSurface,
    simulate_isoflop,
)
from analysis.table.load import check_table
from tests.analysis.expert_laws import granular, joint_runs

SURFACE = ChinchillaSurface()
BUDGETS = np.geomspace(1e17, 1e21, 5)
EXPERTS = [1, 2, 4, 8, 16, 32, 64, 128, 256]


@pytest.fixture(scope="module")
def runs():
    return simulate_isoflop(
        SURFACE, BUDGETS, 9, span=8.0, noise=0.003, seed=1
    )  # no outlier by chance


@pytest.fixture(scope="module")
def curves(runs):
    return fit_isoflop(runs, n_draws=50)


@pytest.fixture(scope="module")
def surface(runs):
    return fit_parametric(runs["n_params"], runs["n_tokens"], runs["loss"], n_draws=200)


def trend(loss_of, sizes=(1e7, 1e8, 1e9), experts=EXPERTS, noise=0.0, seed=0, model="dense"):
    rng = np.random.default_rng(seed)
    rows = [
        {
            "model": model,
            "n_active_params": N,
            "n_params": N * (1 + E),
            "n_experts": E,
            "loss": loss_of(N, E) * math.exp(rng.normal(0, noise)),
            "status": "done",
        }
        for N in sizes
        for E in experts
    ]
    return check_table(pd.DataFrame(rows))


def floored(N, E):
    return 1.5 + 30 * N**-0.15 * E**-0.3


# From isoFLOP curves


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_values_are_the_laws_at_the_budget(curves, level):
    found = plan(3e20, curves, level=level)
    laws = curves.law().laws
    for name, law in laws.items():
        value, low, high, _ = law.predict(3e20, level)
        assert found.values[name] == (value[0], low[0], high[0])
        assert low[0] < value[0] < high[0]
    assert set(laws) == {"n_params", "n_active_params", "n_tokens", "loss"}
    assert (found.budget, found.model, found.level) == (3e20, "dense", level)
    assert found.status is FitStatus.CONVERGED
    assert found.warnings == ()


def test_sizes_and_tokens_are_lines_through_the_minima(curves):
    C = [c.budget for c in curves.curves]
    found = plan(3e20, curves).values
    for name, best in (
        ("n_params", [c.x_opt for c in curves.curves]),
        ("n_tokens", [c.at_optimum["n_tokens"] for c in curves.curves]),
    ):
        line = np.polynomial.Polynomial.fit(np.log(C), np.log(best), 1)
        assert math.log(found[name].value) == pytest.approx(line(math.log(3e20)), rel=1e-12)
    ratio = found["n_tokens"].value / found["n_params"].value
    assert found["tokens_per_param"].value == pytest.approx(ratio)
    assert math.isnan(found["tokens_per_param"].lower)


def test_a_plan_near_the_runs_is_near_the_truth(curves):
    N, D = SURFACE.optimum(3e20)
    found = plan(3e20, curves).values
    # A parabola's bias at a span of 8 is 3.2 %, the noise less
    assert found["n_params"].value == pytest.approx(N, rel=0.05)
    assert found["loss"].value == pytest.approx(float(SURFACE.loss(N, D)), rel=0.005)


def test_a_parabola_in_tokens_plans_too_few_of_them():
    runs = simulate_isoflop(SURFACE, BUDGETS, 15, span=16.0)
    found = plan(1e24, fit_isoflop(runs, "n_tokens", "parabola", n_draws=0))
    truth = float(SURFACE.optimum(1e24)[1])
    assert found.values["n_tokens"].value / truth - 1 == pytest.approx(-0.051, abs=5e-4)
    assert found.status is FitStatus.WARNING


def test_what_is_uncertain_about_the_laws_is_reported(runs):
    few = runs[runs["budget"].isin(BUDGETS[:2])]
    fit = fit_isoflop(few, n_draws=20)
    found = plan(1e18, fit)
    assert set(fit.law().warnings) <= set(found.warnings)
    assert found.status is fit.law().status is FitStatus.WARNING
    assert math.isnan(found.values["n_params"].lower)  # two points on a line


def test_each_model_has_its_own_plan(runs):
    larger = runs.assign(model="moe", series="moe", run_id=None, loss=runs["loss"] - 0.2)
    both = fit_isoflop(pd.concat([runs, larger], ignore_index=True), n_draws=0)
    dense, moe = (plan(1e20, both, model=name) for name in ("dense", "moe"))
    assert dense.values["loss"].value - moe.values["loss"].value == pytest.approx(0.2, abs=1e-3)
    assert "plan for moe at C=1e+20" in moe.summary()
    with pytest.raises(ValueError, match=r"model=None must name one .*: dense, moe"):
        plan(1e20, both)
    with pytest.raises(ValueError, match=r"model='peer' must name one .*: dense, moe"):
        plan(1e20, both, model="peer")


def test_no_law_no_plan(runs):
    one = fit_isoflop(runs[runs["budget"] == BUDGETS[0]], n_draws=0)
    with pytest.raises(ValueError, match="whose laws were fitted: none"):
        plan(1e20, one)


# From a surface


@pytest.mark.parametrize("budget", [2e17, 1e20])
def test_a_surface_s_plan_is_its_lowest_loss(surface, budget):
    def loss(u):
        N = math.exp(u)
        return float(surface.predict(N, budget / 6 / N).value)

    best = optimize.minimize_scalar(loss, bounds=(10, 40), method="bounded", options={"xatol": 0})
    found = plan(budget, surface).values
    # To the root of the rounding error of a loss
    assert math.log(found["n_params"].value) == pytest.approx(best.x, abs=1e-6)
    assert found["loss"].value == pytest.approx(best.fun, rel=1e-12)
    assert found["n_params"].value * found["n_tokens"].value * 6 == pytest.approx(budget)
    truth = float(SURFACE.optimum(budget)[0])
    assert found["n_params"].value == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_a_surface_s_intervals_are_of_its_draws(surface, level):
    E, A, B, alpha, beta = surface.draws.T
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (1e20 / 6) ** (beta / (alpha + beta))
    D = 1e20 / 6 / N
    found = plan(1e20, surface, level=level).values
    for name, drawn in (
        ("n_params", N),
        ("n_tokens", D),
        ("tokens_per_param", D / N),
        ("loss", E + A * N**-alpha + B * D**-beta),
    ):
        expected = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        assert found[name][1:] == pytest.approx(tuple(expected), rel=1e-9)


def test_flops_per_param_and_token_are_the_callers(surface):
    found = plan(1e20, surface, flops_per_param_token=2.0).values
    assert found["n_params"].value == pytest.approx(plan(3e20, surface).values["n_params"].value)
    assert found["n_params"].value * found["n_tokens"].value == pytest.approx(5e19)


# How far from the runs


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (1e17, None),
        (1e21, None),
        (2e21, "extrapolated: 2 times beyond the budgets that were fitted"),
        (9e21, "extrapolated: 9 times"),
        (1.1e22, "extrapolated, far: 11 times"),
        (1e24, r"extrapolated, far: 1e+03 times"),
        (5e16, "extrapolated: 2 times"),
        (1e15, "extrapolated, far: 100 times"),
    ],
)
def test_an_extrapolation_is_reported(curves, budget, text):
    found = plan(budget, curves)
    if text is None:
        assert found.warnings == ()
    else:
        assert len(found.warnings) == 1
        assert found.warnings[0].startswith(text)
        assert found.status is FitStatus.WARNING
        assert text in found.summary()


def test_an_extrapolation_has_exponents_that_may_drift(curves):
    laws = curves.law().laws
    found = plan(9e21, curves)
    (text,) = found.warnings
    assert text.endswith("intervals are of exponents that may drift")
    for name, law in laws.items():
        assert found.values[name] == law.extrapolate(9e21).first
        assert curves.predict(9e21, quantity=name).first == found.values[name]
        noise = law.predict(9e21).first
        assert noise.upper / noise.lower < found.values[name].upper / found.values[name].lower


@pytest.mark.parametrize(("budget", "times"), [(1e23, "100 times"), (1e24, "1e+03 times")])
def test_an_extrapolation_of_a_surface_is_reported(surface, budget, times):
    # The largest run has 1e21 FLOPs; a small model's many tokens times a large model's size do not
    (text,) = plan(budget, surface).warnings
    assert text.startswith(f"extrapolated, far: {times}")


def test_a_surface_s_own_budgets_are_no_extrapolation(surface):
    for budget in BUDGETS:
        assert plan(budget, surface).warnings == ()
    assert "extrapolated" in plan(1e26, surface).warnings[0]


# Experts


@pytest.mark.parametrize("min_gain", [0.003, 0.01, 0.02])
def test_experts_are_added_until_a_doubling_gains_too_little(curves, min_gain):
    law = fit_expert_law(trend(floored), "power_floor", n_draws=0)
    found = plan(1e20, curves, experts=law, min_gain=min_gain)
    N = found.values["n_active_params"].value
    # 30 N^-.15 (E^-.3 - (2E)^-.3) = min_gain, solved for E
    exact = (min_gain / (30 * N**-0.15 * (1 - 2**-0.3))) ** (-1 / 0.3)
    E = found.values["n_experts"].value
    assert exact <= E <= exact * 2**0.25 * (1 + 1e-9)  # a grid of quarter doublings
    assert floored(N, E) - floored(N, 2 * E) < min_gain
    assert floored(N, E / 2**0.26) - floored(N, 2 * E / 2**0.26) > min_gain
    assert found.min_gain == min_gain


def test_less_gain_asked_for_is_more_experts(curves):
    law = fit_expert_law(trend(floored), "power_floor", n_draws=0)
    numbers = [
        plan(1e20, curves, experts=law, min_gain=g).values["n_experts"].value
        for g in (0.04, 0.02, 0.01, 0.005)
    ]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 4


def from_which_on(loss_of, min_gain):
    """Smallest of a grid from which on no doubling gains min_gain."""
    E = 2.0 ** np.arange(0, 40, 0.25)
    gains = np.array([loss_of(e) - loss_of(2 * e) for e in E])
    enough = np.flatnonzero(gains >= min_gain)
    return E[enough[-1] + 1] if len(enough) else 1.0


@pytest.mark.parametrize(
    ("clark", "min_gain"),
    [
        (ClarkSurface(), 0.03),  # S-Base: 0.028 nats from 1 to 2 experts, 0.041 from 8 to 16
        (ClarkSurface(E_start=50.0, E_max=1e4), 0.01),
    ],
)
def test_a_gain_that_first_grows_does_not_end_it(curves, clark, min_gain):
    law = fit_expert_law(trend(clark.loss), "clark", n_draws=0)
    found = plan(1e20, curves, experts=law, min_gain=min_gain)
    N = found.values["n_active_params"].value
    expected = from_which_on(lambda E: float(clark.loss(N, E)), min_gain)
    assert found.values["n_experts"].value == expected


def test_where_the_first_doubling_gains_enough_it_does(curves):
    clark = ClarkSurface()
    law = fit_expert_law(trend(clark.loss), "clark", n_draws=0)
    found = plan(1e20, curves, experts=law, min_gain=0.015)
    N = found.values["n_active_params"].value
    expected = from_which_on(lambda E: float(clark.loss(N, E)), 0.015)
    assert found.values["n_experts"].value == expected


def test_the_interval_of_experts_is_of_the_laws_draws(curves):
    table = trend(floored, experts=[2**i for i in range(13)], noise=0.02)
    law = fit_expert_law(table, "power_floor", n_draws=40)
    found = plan(1e20, curves, experts=law, min_gain=0.02, level=0.9).values
    N = found["n_active_params"].value
    drawn = [
        from_which_on(lambda E, p=p: p[0] + p[1] * N ** -p[2] * E ** -p[3], 0.02) for p in law.draws
    ]
    low, high = np.quantile(drawn, [0.05, 0.95], method="nearest")
    assert found["n_experts"][1:] == (low, high)
    assert low < high
    no_draws = fit_expert_law(table, "power_floor", n_draws=0)
    assert math.isnan(plan(1e20, curves, experts=no_draws).values["n_experts"].lower)


def test_more_experts_than_were_tried_are_reported(curves):
    few = fit_expert_law(trend(floored, experts=[1, 2, 4, 8]), "power_floor", n_draws=0)
    found = plan(1e20, curves, experts=few, min_gain=0.01)
    E = found.values["n_experts"].value
    assert E > 8
    assert f"n_experts={E:.4g} is beyond the 8 experts that were tried" in found.warnings
    enough = fit_expert_law(
        trend(floored, experts=[2**i for i in range(20)]), "power_floor", n_draws=0
    )
    assert plan(1e20, curves, experts=enough, min_gain=0.01).warnings == ()


def test_experts_that_never_cease_to_help_are_infinitely_many(curves):
    law = fit_expert_law(trend(floored, noise=1e-3), "power_floor", n_draws=20)
    found = plan(1e20, curves, experts=law, min_gain=1e-9)
    assert found.values["n_experts"].value == math.inf
    assert found.status is FitStatus.WARNING
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["values"]["n_experts"]["value"] is None


def test_experts_that_do_not_help_are_reported(curves):
    law = fit_expert_law(trend(lambda N, E: 30 * N**-0.1 * E**-1e-4), "loglinear", n_draws=0)
    found = plan(1e20, curves, experts=law)
    assert found.values["n_experts"].value == 1
    assert "n_experts=1 is not above the fewest tried, 1" in found.warnings


def test_a_size_that_the_law_of_experts_never_saw_is_reported(curves):
    law = fit_expert_law(trend(floored, sizes=(1e5, 1e6, 1e7)), "power_floor", n_draws=0)
    far = plan(1e20, curves, experts=law, min_gain=0.08).warnings
    N = plan(1e20, curves).values["n_active_params"].value
    assert len(far) == 1
    assert "the law in experts was fitted at" in far[0]
    assert far[0].endswith(f"of 1e+05 to 1e+07, not at {N:.3g}")


def test_what_is_uncertain_about_the_law_of_experts_is_reported(curves):
    table = trend(lambda N, E: 30 * N**-0.1 * E**-0.05 - 0.3)  # L0 would have to be below 0
    law = fit_expert_law(table, "power_floor", n_draws=0)
    assert law.status is FitStatus.BOUND_HIT
    found = plan(1e20, curves, experts=law)
    assert found.status is FitStatus.BOUND_HIT
    assert {f"power_floor: {text}" for text in law.warnings} <= set(found.warnings)


def test_a_law_of_another_size_can_not_be_planned_with(curves, surface):
    law = fit_expert_law(trend(floored), "power_floor", n_draws=0)
    assert "n_experts" in plan(1e20, surface, experts=law).values  # at the surface's own N
    other = dataclasses.replace(law, size_name="width")
    with pytest.raises(ValueError, match="in width, which is not planned: n_params"):
        plan(1e20, curves, experts=other)


def test_a_law_in_more_than_size_and_experts_plans_none(surface):
    law = fit_expert_law(joint_runs("joint"), "joint", n_draws=0)
    with pytest.raises(ValueError, match="joint has other variables too"):
        plan(1e20, surface, experts=law)


def test_the_granularity_law_plans_no_experts(surface):
    table = granular([1e7, 1e8, 1e9], [1e9, 1e10, 1e11], [1, 2, 4, 8])
    law = fit_expert_law(table, "granularity", size="n_params", n_draws=0)
    with pytest.raises(ValueError, match="granularity law has no number of experts"):
        plan(1e20, surface, experts=law)


def test_experts_of_another_model_are_reported(curves):
    law = fit_expert_law(trend(floored, model="moe"), "power_floor", n_draws=0)
    (text,) = plan(1e20, curves, experts=law, min_gain=0.06).warnings
    assert text == "the law in experts is of moe, the plan of dense"


def test_a_series_is_of_its_model(runs):
    law = fit_expert_law(trend(floored, model="moe"), "power_floor", n_draws=0)
    series = runs.assign(model="moe", series="moe n_experts=8")
    assert plan(1e20, fit_isoflop(series, n_draws=0), experts=law, min_gain=0.06).warnings == ()


# Input and output


@pytest.mark.parametrize("budget", [0, -1e18, math.nan, math.inf])
def test_a_budget_is_an_amount(curves, surface, budget):
    for fit in (curves, surface):
        with pytest.raises(ValueError, match=re.escape(f"budget={budget} must be a finite")):
            plan(budget, fit)


def test_other_bad_values_are_named(curves, surface):
    with pytest.raises(ValueError, match="min_gain=0 must be above 0 nats per doubling"):
        plan(1e20, curves, min_gain=0)
    for fit in (curves, surface):
        with pytest.raises(ValueError, match="level=95 must be between 0 and 1"):
            plan(1e20, fit, level=95)


@pytest.mark.parametrize("k", [0.0, -6.0, math.nan])
def test_flops_per_param_and_token_are_above_0(surface, k):
    with pytest.raises(ValueError, match="flops_per_param_token="):
        plan(1e20, surface, flops_per_param_token=k)


def test_a_plan_is_frozen_and_plain(curves):
    found = plan(1e20, curves)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.budget = 1.0
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["values"]["n_params"]["value"] == found.values["n_params"].value
    assert values["values"]["tokens_per_param"]["lower"] is None
    assert values["status"] == "converged"
    lines = found.summary().splitlines()
    assert lines[0] == "plan for dense at C=1e+20 FLOPs (95% intervals)"
    assert len(lines) == 1 + len(found.values)
