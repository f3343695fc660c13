"""Laws in experts: known ones come back, and what the runs do not identify is fixed or flagged."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.experts.fit import fit_expert_law
from analysis.fitting.least_squares import minimise
from analysis.fitting.status import FitError, FitStatus
from analysis.laws import fit as laws
from tests.analysis.expert_laws import (
    EXPERTS,
    FEW,
    KRAJEWSKI,
    LAWS,
    OTHERS,
    SIZES,
    TRUTHS,
    granular,
    granularity,
    runs_of,
    saturated,
)
from tests.analysis.tables import expert_runs, joined


@pytest.mark.parametrize("truths", [TRUTHS, OTHERS], ids=["first", "second"])
@pytest.mark.parametrize("form", LAWS)
def test_a_clean_law_comes_back(form, truths):
    table = runs_of(form, truths[form])
    fit = fit_expert_law(table, form, **FEW)
    assert fit.params == pytest.approx(truths[form], rel=1e-6)
    assert fit.status is FitStatus.CONVERGED
    assert fit.warnings == fit.fixed == ()
    assert fit.rmse < 1e-8
    assert fit.n_points == 60
    assert fit.sizes == pytest.approx(SIZES)
    assert fit.experts == tuple(EXPERTS)
    np.testing.assert_allclose(
        fit.predict(table["n_active_params"], table["n_experts"]).value, table["loss"], rtol=1e-7
    )


def test_a_clean_granularity_law_comes_back():
    table = granular(np.geomspace(6e7, 4e9, 5), np.geomspace(1e9, 1e11, 4), [1, 2, 4, 8, 16])
    fit = fit_expert_law(table, "granularity", **FEW)
    assert fit.params == pytest.approx(KRAJEWSKI, rel=1e-6)
    assert fit.status is FitStatus.CONVERGED
    band = fit.predict(1e9, None, 1e10, [1, 4])
    expected = granularity(1e9, 1e10, np.array([1, 4]), **KRAJEWSKI)
    np.testing.assert_allclose(band.value, expected, rtol=1e-9)
    heads = table.rename(columns={"granularity": "G"}).assign(n_heads=2)
    heads["top_k"] = (table["granularity"] / 2).astype("float64")
    halves = fit_expert_law(heads, "granularity", **FEW)  # n_heads * top_k
    assert halves.params == pytest.approx(KRAJEWSKI, rel=1e-6)
    with pytest.raises(ValueError, match="the granularity law has no number of experts"):
        fit.slope(1e9, 64)
    assert fit.cutoff_interval() is None


def test_granularity_at_one_number_of_tokens_takes_their_term_into_the_floor():
    table = granular(np.geomspace(6e7, 4e9, 5), [1e10], [1, 2, 4, 8, 16])
    fit = fit_expert_law(table, "granularity", **FEW)
    assert fit.fixed == ("b", "beta")
    assert fit.params["b"] == 0.0
    floor = KRAJEWSKI["c"] + KRAJEWSKI["b"] / 1e10 ** KRAJEWSKI["beta"]
    expected = {**KRAJEWSKI, "c": floor, "b": 0.0, "beta": 0.0}
    assert fit.params == pytest.approx(expected, rel=1e-6)
    found = fit.predict(table["n_active_params"], None, 1e10, table["granularity"]).value
    np.testing.assert_allclose(found, table["loss"], rtol=1e-6)


def test_loglinear_is_ordinary_least_squares():
    table = runs_of("loglinear", noise=0.01)
    fit = fit_expert_law(table, "loglinear", **FEW)
    n = np.log10(table["n_active_params"].to_numpy())
    e = np.log10(table["n_experts"].to_numpy(dtype=float))
    X = np.stack([n, e, n * e, np.ones(60)], axis=1)
    theirs, *_ = np.linalg.lstsq(X, np.log10(table["loss"]), rcond=None)
    # 1e-8: uncentred, X has a condition of 1e4
    assert fit.estimates == pytest.approx(theirs, rel=1e-8)


@pytest.mark.parametrize("form", ["power_floor", "clark", "clark_floor"])
@pytest.mark.parametrize("seed", range(3))
def test_no_start_near_the_truth_ends_below(form, seed):
    table = runs_of(form, noise=0.005, seed=seed)
    fit = fit_expert_law(table, form, **FEW)
    N, E = (table[c].to_numpy(dtype=float) for c in ("n_active_params", "n_experts"))
    names = fit.names

    def residuals(scaled):
        p = {name: s * TRUTHS[form][name] for name, s in zip(names, scaled, strict=True)}
        return np.log(LAWS[form](N, E, **p)) - np.log(table["loss"].to_numpy())

    theirs = optimize.least_squares(residuals, np.ones(len(names)), xtol=1e-15, ftol=1e-15)
    assert fit.objective <= theirs.cost * (1 + 1e-9)
    assert fit.rmse == pytest.approx(np.sqrt(2 * fit.objective / 60), rel=1e-12)
    at = [fit.params[name] / TRUTHS[form][name] for name in names]
    # 1e-9: estimates are reported to a double's precision
    assert (residuals(at) ** 2).sum() / 2 == pytest.approx(fit.objective, rel=1e-9)


@pytest.mark.parametrize("form", LAWS)
def test_one_size_leaves_its_part_out(form):
    table = runs_of(form, sizes=[5e7], noise=0.001)
    fit = fit_expert_law(table, form, **FEW)
    floored = "L0" in fit.names
    assert fit.fixed == (("a",) if floored else ("a", "c"))
    assert all(fit.params[name] == 0.0 for name in fit.fixed)
    if form == "loglinear":
        truth = TRUTHS[form]
        slope = truth["b"] + truth["c"] * np.log10(5e7)
        line = stats.linregress(np.log10(EXPERTS), np.log10(table["loss"]))
        assert fit.params["b"] == pytest.approx(line.slope, rel=1e-9)
        assert fit.params["b"] == pytest.approx(slope, rel=0.05)  # its noise
    assert fit.cutoff_interval() is None


@pytest.mark.parametrize(("form", "to"), [("loglinear", "clark"), ("power_floor", "clark_floor")])
def test_without_saturation_its_bound_is_hit(form, to):
    fit = fit_expert_law(runs_of(form), to, **FEW)
    assert fit.status is FitStatus.BOUND_HIT
    assert any("E_max ran to its bound: no saturation is seen" in w for w in fit.warnings)


def test_an_edge_is_a_bound_whichever_way_rounding_points(monkeypatch):
    def none_stuck(*args, **how):
        found = minimise(*args, **how)
        return dataclasses.replace(found, at_bound=np.zeros_like(found.at_bound))

    monkeypatch.setattr(laws, "minimise", none_stuck)
    fit = fit_expert_law(runs_of("loglinear"), "clark", **FEW)
    assert fit.status is FitStatus.BOUND_HIT


def test_without_a_floor_its_bound_is_hit():
    truth = {"a": -0.083, "b": -0.03, "c": 0.0, "d": 1.11}
    fit = fit_expert_law(runs_of("loglinear", truth, noise=0.002), "power_floor", **FEW)
    assert fit.status is FitStatus.BOUND_HIT
    assert any("an irreducible loss is not identifiable" in w for w in fit.warnings)


def test_saturation_at_once_is_not_called_none():
    table = expert_runs(lambda N, E: 13 * N**-0.083 * np.where(E > 1, 0.95, 1.0), SIZES, EXPERTS)
    fit = fit_expert_law(table, "clark", **FEW)
    assert fit.status is FitStatus.BOUND_HIT
    assert not any("no saturation" in w for w in fit.warnings)
    assert any("E_max stopped at its lower bound: saturated at once" in w for w in fit.warnings)


@pytest.mark.parametrize("form", ["clark", "clark_floor"])
@pytest.mark.parametrize("experts", [[1, 16], [1, 16, 256]])
def test_saturation_needs_four_numbers_of_experts(form, experts):
    # b, E_start and E_max are three, and k numbers of experts tell k - 1 (clark: k - 2) of them
    table = runs_of(form, sizes=np.geomspace(1e7, 1e9, 8), experts=experts, noise=0.003)
    says = f"moe: {form} needs 4 numbers of experts, not {len(experts)}$"
    with pytest.raises(FitError, match=says):
        fit_expert_law(table, form, **FEW)


@pytest.mark.parametrize(
    ("form", "least"), [("loglinear", 2), ("power_floor", 3), ("clark", 4), ("clark_floor", 5)]
)
def test_one_size_needs_a_number_of_experts_for_each_parameter(form, least):
    seeds = joined(
        *(
            runs_of(form, sizes=[5e7], noise=0.01, seed=i).assign(seed=pd.array([i] * 10, "Int64"))
            for i in range(6)
        )
    )
    few = seeds[seeds["n_experts"] < 2 ** (least - 1)]
    with pytest.raises(FitError, match=f"{form} needs {least} numbers of experts, not {least - 1}"):
        fit_expert_law(few, form, **FEW)
    enough = seeds[seeds["n_experts"] < 2**least]
    assert fit_expert_law(enough, form, **FEW).n_points == 6 * least


@pytest.mark.parametrize("form", LAWS)
@pytest.mark.parametrize("sizes", [SIZES, [1e7, 1e8, 1e9]])
def test_clean_designs_tell_the_parameters_apart(form, sizes):
    fit = fit_expert_law(runs_of(form, sizes=sizes, experts=[1, 4, 16, 64, 256], noise=0.003), form)
    assert fit.condition < 100  # a tenth of what is warned of
    assert fit.share_at_best > 0.9
    assert fit.status is FitStatus.CONVERGED


def test_experts_that_hardly_differ_are_warned_of():
    table = runs_of("clark_floor", OTHERS["clark_floor"], sizes=SIZES[:3], experts=[4, 5, 6, 7])
    fit = fit_expert_law(table, "clark_floor", **FEW)
    assert fit.status is not FitStatus.CONVERGED
    assert any("hardly identifiable from these runs (condition number" in w for w in fit.warnings)
    assert fit.share_at_best > 0.5  # it's one minimum, however flat, and most descents reach it


def test_the_condition_is_of_what_was_fitted():
    # With one size, a line in log E: its slope and its level are left
    fit = fit_expert_law(runs_of("loglinear", sizes=[5e7]), "loglinear", **FEW)
    e = np.log10(EXPERTS)
    design = np.stack([e / np.linalg.norm(e), np.full(10, 10**-0.5)], axis=1)
    assert fit.condition == pytest.approx(np.linalg.cond(design))


@pytest.mark.parametrize(
    ("sizes", "tokens", "grains", "says"),
    [
        (5, 4, 1, "3 granularities, not 1"),  # g and a are one, gamma none
        (5, 4, 2, "3 granularities, not 2"),
        (5, 2, 5, r"3 token counts \(or one\), not 2"),  # c, b and beta from two
        (1, 4, 5, "3 sizes, not 1"),
        (2, 1, 5, "3 sizes, not 2"),
        (2, 4, 2, "3 sizes, not 2 and 3 granularities, not 2"),
    ],
)
def test_granularity_needs_three_of_each(sizes, tokens, grains, says):
    table = granular(
        np.geomspace(6e7, 4e9, sizes), np.geomspace(1e9, 1e11, tokens), 2.0 ** np.arange(grains)
    )
    with pytest.raises(FitError, match=f"moe: granularity needs {says}$"):
        fit_expert_law(table, "granularity", **FEW)


def test_granularity_of_sizes_that_hardly_differ_does_not_tell_alpha():
    """Whichever way it drifts, which is rounding."""
    table = granular([6e7, 6.01e7, 6.02e7], np.geomspace(1e9, 1e11, 4), [1, 2, 4, 8])
    fit = fit_expert_law(table, "granularity", n_draws=0)
    assert fit.status is not FitStatus.CONVERGED


def closed_slopes(form, N, E, p):
    """-d ln L / d ln E, by hand."""
    L = LAWS[form](N, E, **p)
    if form == "loglinear":
        return -(p["b"] + p["c"] * np.log10(N)) * np.ones_like(E)
    if form == "power_floor":
        return p["b"] * (L - p["L0"]) / L
    hat = saturated(E, p["E_start"], p["E_max"])
    kappa = 1 / (1 / p["E_start"] - 1 / p["E_max"])
    growth = E * hat / (E - 1 + kappa) ** 2  # d ln hat / d ln E
    if form == "clark":
        return -(p["b"] + p["c"] * np.log10(N)) * growth
    return p["b"] * (L - p["L0"]) / L * growth


@pytest.mark.parametrize("form", LAWS)
def test_slopes_are_those_by_hand(form):
    fit = fit_expert_law(runs_of(form, noise=0.003), form, n_draws=0)
    N, E = np.array([[1e7], [1e9]]), np.array([1.0, 8.0, 512.0])
    slopes = fit.slope(N, E)
    # 1e-6: central differences of 1e-4
    np.testing.assert_allclose(slopes.value, closed_slopes(form, N, E, fit.params), rtol=1e-6)
    assert slopes.value.shape == (2, 3)
    assert (slopes.lower < slopes.value).all()  # by how much is tested in fitting/test_profile.py
    assert (slopes.value < slopes.upper).all()


@pytest.mark.parametrize("form", ["loglinear", "clark"])
def test_the_cutoff_is_given_as_an_interval_of_draws(form):
    fit = fit_expert_law(runs_of(form, noise=0.005), form, n_draws=100)
    low, high = fit.cutoff_interval()
    cutoffs = [10 ** (-b / c) if c > 0 else np.inf for b, c in fit.draws[:, 1:3]]
    assert low == pytest.approx(np.quantile(cutoffs, 0.025, method="nearest"))
    assert high == pytest.approx(np.quantile(cutoffs, 0.975, method="nearest"))
    truth = 10 ** (-TRUTHS[form]["b"] / TRUTHS[form]["c"])
    assert low < truth < high
    flat = dict(TRUTHS[form], c=-0.001)  # more experts help large models more: no such size
    without = fit_expert_law(runs_of(form, flat, noise=0.003), form, n_draws=100)
    assert without.cutoff_interval()[1] == np.inf
    assert fit_expert_law(runs_of(form), form, n_draws=0).cutoff_interval() is None


def test_granularity_predicts_from_tokens_and_grains_only():
    table = granular(np.geomspace(6e7, 4e9, 5), np.geomspace(1e9, 1e11, 4), [1, 2, 4, 8, 16])
    fit = fit_expert_law(table, "granularity", **FEW)
    for how, says in (
        ({}, "is in n_tokens and granularity too: give it"),
        ({"n_tokens": 1e10}, "is in granularity too"),
        ({"granularity": 4}, "is in n_tokens too"),
        ({"n_tokens": 0, "granularity": 4}, "n_tokens=0.0 must be finite and above 0"),
        ({"n_tokens": 1e10, "granularity": -4}, "granularity=-4.0 must be finite and above 0"),
    ):
        with pytest.raises(ValueError, match=says):
            fit.predict(1e9, 64, **how)
    # It has no term for experts
    with_and_without = [fit.predict(1e9, E, 1e10, 4).value for E in (64, None)]
    assert with_and_without[0] == with_and_without[1] == fit.predict(1e9, None, 1e10, 4).value


def test_what_is_asked_of_a_law_is_an_amount():
    fit = fit_expert_law(runs_of("power_floor"), **FEW)
    for ask in (fit.predict, fit.slope):
        for size, n_experts, says in (
            ([1e8, -1e8], 8, r"size\S*=-\S+ must be finite and above 0"),
            (np.nan, 8, "size=nan must be finite"),
            (1e8, 0, "n_experts=0.0 must be finite and above 0"),
            (1e8, None, "the law power_floor is in n_experts too: give it"),
        ):
            with pytest.raises(ValueError, match=says):
                ask(size, n_experts)
