"""Laws in size, tokens and sparsity: known ones come back, others are refused by name."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from analysis.experts.compare import DEFAULT_FORMS, compare_laws
from analysis.experts.fit import fit_expert_law
from analysis.experts.runs import find_rows
from analysis.figures import draw_experts
from analysis.fitting.average import akaike
from analysis.fitting.status import FitError, FitStatus
from analysis.laws.forms import OF_EXPERTS
from analysis.table.load import check_table
from analysis.validation.residuals import compute_residuals
from tests.analysis.expert_laws import (
    FEW,
    JOINT_GRIDS,
    LUDZIEJEWSKI,
    WITH_EXPERTS,
    granularity_experts,
    joint,
    joint_runs,
    saturated,
)
from tests.analysis.tables import joined

NAMES = {  # of the arguments of predict
    "E": "n_experts", "D": "n_tokens", "G": "granularity", "S": "sparsity",
}  # fmt: skip
COLUMNS = {"N": "n_active_params", **NAMES}


def asked(form, table):
    letters = [letter for letter in JOINT_GRIDS[form][2] if letter != "N"]
    return {NAMES[letter]: table[NAMES[letter]].to_numpy(dtype=float) for letter in letters}


@pytest.mark.parametrize("residual", ["log", "loss"])
@pytest.mark.parametrize("form", JOINT_GRIDS)
def test_a_clean_law_comes_back(form, residual):
    table, (_, truth, _) = joint_runs(form), JOINT_GRIDS[form]
    fit = fit_expert_law(table, form, residual=residual, **FEW)
    assert fit.params == pytest.approx(truth, rel=1e-6)
    assert fit.rmse < 1e-8
    assert fit.fixed == ()
    assert fit.n_points == len(table)
    found = fit.predict(table["n_active_params"], **asked(form, table)).value
    np.testing.assert_allclose(found, table["loss"], rtol=1e-7)
    if form != "sparsity":  # whose own numbers have a warning: see below
        assert fit.status is FitStatus.CONVERGED
        assert fit.warnings == ()


@pytest.mark.parametrize("form", ["joint", "granularity_experts"])
def test_a_noisy_law_is_within_its_intervals(form):
    _, truth, _ = JOINT_GRIDS[form]
    fit = fit_expert_law(joint_runs(form, noise=0.003), form, n_draws=200)
    bounds = fit.conf_int(level=0.99)
    for name, value in truth.items():
        assert bounds.loc[name, "lower"] <= value <= bounds.loc[name, "upper"], name
    assert fit.condition < 300  # a third of what is warned of
    assert fit.share_at_best > 0.9


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("form", JOINT_GRIDS)
def test_no_start_at_the_truth_ends_below(form, seed):
    table, (law, truth, grid) = joint_runs(form, noise=0.003, seed=seed), JOINT_GRIDS[form]
    fit = fit_expert_law(table, form, **FEW)
    at = {letter: table[COLUMNS[letter]].to_numpy(dtype=float) for letter in grid}

    def residuals(scaled):
        p = {name: s * truth[name] for name, s in zip(fit.names, scaled, strict=True)}
        with np.errstate(invalid="ignore"):
            found = np.log(law(**at, **p)) - np.log(table["loss"].to_numpy())
        return np.where(np.isfinite(found), found, 1e3)

    theirs = optimize.least_squares(residuals, np.ones(len(truth)), xtol=1e-15, ftol=1e-15)
    assert fit.objective <= theirs.cost * (1 + 1e-6)


@pytest.mark.night
def test_abnars_constant_is_not_identifiable_from_runs_with_noise():
    # c/(1-S)^lambda with a small lambda is nearly a constant, and there is one besides
    clean = fit_expert_law(joint_runs("sparsity"), "sparsity", n_draws=0)
    assert clean.status is FitStatus.WARNING
    (text,) = clean.warnings
    assert text.startswith("the parameters, e and c above all, are hardly identifiable")
    noisy = fit_expert_law(joint_runs("sparsity", noise=0.003), "sparsity", n_draws=60)
    low, high = noisy.conf_int().loc["c"]
    assert high > 1.2 * low
    # What identifies them is not the loss that they predict: within the noise of 120 runs' mean
    N, D, S = 5e9, 5e10, 0.9
    truth = clean.predict(N, n_tokens=D, sparsity=S).value
    found = noisy.predict(N, n_tokens=D, sparsity=S).value
    assert found == pytest.approx(float(truth), rel=0.002)


def test_saturation_that_few_experts_do_not_identify_has_a_warning():
    # E_max of 290 and 32 experts at most: the noise of this table makes it 2.5
    table = joint_runs("joint", noise=0.003, seed=2, E=[1, 2, 4, 8, 16, 32])
    fit = fit_expert_law(table, "joint", **FEW)
    assert fit.status is not FitStatus.CONVERGED
    assert fit.params["E_max"] < 10
    assert any("are hardly identifiable from these runs" in text for text in fit.warnings)


def test_one_token_count_leaves_its_exponents_out():
    for form, fixed in (("joint", ("beta", "zeta")), ("sparsity", ("b", "beta"))):
        table = joint_runs(form, D=[2e10])
        fit = fit_expert_law(table, form, **FEW)
        assert fit.fixed == fixed
        assert all(fit.params[name] == 0.0 for name in fixed)
        says = f"one token count: {' and '.join(fixed)} are not identifiable and were not fitted"
        assert any(text.startswith(says) for text in fit.warnings)
        found = fit.predict(table["n_active_params"], **asked(form, table)).value
        np.testing.assert_allclose(found, table["loss"], rtol=1e-4)


@pytest.mark.parametrize(
    ("form", "values", "says"),
    [
        (
            "joint",
            {"N": [1e8, 1e9]},
            r"needs 3 sizes, not 2 \(alpha and gamma are not identifiable",
        ),
        ("joint", {"D": [1e9, 4e9]}, r"3 token counts \(or one\), not 2 \(beta and zeta are not"),
        ("joint", {"E": [1, 8, 64]}, r"4 numbers of experts, not 3 \(E_start and E_max and delta"),
        ("sparsity", {"S": [0.5, 0.9]}, r"3 sparsities, not 2 \(lambda and delta are not"),
        ("sparsity", {"N": [1e8]}, r"3 sizes, not 1 \(alpha and gamma are not identifiable\)"),
        ("granularity_experts", {"G": [1, 8]}, r"3 granularities, not 2 \(gamma and g are not"),
        ("granularity_experts", {"E": [8]}, r"2 numbers of experts, not 1 \(delta is not identif"),
        # A shape's own variation, of keys or routers, is no size
        ("joint", {"N": [1e8, 1.01e8, 1e9, 1.02e9]}, "needs 3 sizes, not 2"),
    ],
)
def test_what_a_table_can_not_identify_is_refused_by_name(form, values, says):
    with pytest.raises(FitError, match=f"moe: {form} needs .*|moe: .*") as refused:
        fit_expert_law(joint_runs(form, **values), form, **FEW)
    assert refused.match(says)


def test_tokens_that_follow_size_are_refused():
    table = joint_runs("joint", noise=0.003)
    fixed = table.assign(n_tokens=20 * table["n_active_params"]).drop_duplicates(
        ["n_active_params", "n_experts", "n_tokens"]
    )
    says = r"ln N and ln D of these runs follow from each other \(alpha and gamma and beta and zeta"
    with pytest.raises(FitError, match=says):
        fit_expert_law(fixed, "joint", **FEW)
    experts = fixed.assign(n_tokens=table["n_tokens"])
    size = dict(zip(np.unique(table["n_active_params"]), (1, 2, 4, 8, 16), strict=True))
    own = experts["n_experts"] == experts["n_active_params"].map(size)
    follow = joined(*(experts[own].assign(n_tokens=D) for D in (1e9, 5e9, 2e10)))
    with pytest.raises(FitError, match="ln N and ln E of these runs follow from each other"):
        fit_expert_law(follow, "joint", **FEW)


def test_tokens_of_a_step_more_or_less_are_one_count():
    table = joint_runs("joint", noise=0.003, D=[2e10])
    steps = table.assign(n_tokens=2e10 * (table["n_active_params"] / 1e9) ** 1e-3)  # 0.4 % in all
    fit = fit_expert_law(steps, "joint", n_draws=0)
    assert fit.fixed == ("beta", "zeta")
    same = fit_expert_law(table, "joint", n_draws=0)
    assert fit.objective == pytest.approx(same.objective, rel=1e-9)


def test_a_term_that_does_not_matter_is_named_with_its_exponents():
    truth = {**WITH_EXPERTS, "g": 0.0}
    _, _, grid = JOINT_GRIDS["granularity_experts"]
    table = joint_runs("granularity_experts")
    exact = granularity_experts(
        *(table[COLUMNS[letter]].to_numpy(dtype=float) for letter in ("N", "E", "D", "G")), **truth
    )
    assert set(grid) == {"N", "E", "D", "G"}
    fit = fit_expert_law(table.assign(loss=exact), "granularity_experts", n_draws=0)
    says = (
        "g is at its bound: its term does not matter to these runs, and gamma is not identifiable"
    )
    assert says in fit.warnings
    assert fit.status is FitStatus.BOUND_HIT


# The sparsity of a table, and what may vary


def test_sparsity_is_of_active_experts():
    table = joint_runs("joint", E=[1, 8, 64])
    routed = table.assign(top_k=pd.array(np.where(table["n_experts"] > 1, 2, 1), "Int64"))
    found = find_rows(routed, "moe", None)
    assert dict(zip(found["n_experts"], found["sparsity"])) == {1: 0.0, 8: 0.75, 64: 1 - 2 / 64}
    heads = find_rows(routed.assign(n_heads=pd.array([4] * len(table), "Int64")), "moe", None)
    assert set(heads.loc[heads["n_experts"] == 64, "sparsity"]) == {1 - 8 / 64}
    dense = table.assign(model="dense", n_experts=pd.NA, top_k=pd.NA).iloc[:4]
    both = find_rows(joined(routed, dense.astype(routed.dtypes)), "moe", "dense")
    assert (both.loc[both["model"] == "dense", "sparsity"] == 0.0).all()
    given = find_rows(routed.assign(sparsity=0.5), "moe", None)
    assert (given["sparsity"] == 0.5).all()


def test_the_sparsity_law_needs_to_know_it():
    table = joint_runs("joint")
    with pytest.raises(ValueError, match="form=sparsity needs top_k: the table has none"):
        fit_expert_law(table, "sparsity", **FEW)
    with pytest.raises(ValueError, match=r"sparsity\[0\]=1.0 must be 0 or more and below 1"):
        fit_expert_law(joint_runs("sparsity").assign(sparsity=1.0), "sparsity", **FEW)
    routed = table.assign(
        **{"top_k": pd.array([1, 2] * 60, "Int64"), "layer.query_norm": ["a", "b"] * 60}
    )
    with pytest.raises(ValueError, match=r"several query_norm .*sparsity can't distinguish them"):
        fit_expert_law(routed, "sparsity", **FEW)
    with pytest.raises(ValueError, match=r"several top_k and query_norm .*joint can't"):
        fit_expert_law(routed, "joint", **FEW)
    fit = fit_expert_law(joint_runs("sparsity"), "sparsity", n_draws=0)
    for how, says in (
        ({"n_tokens": 1e10}, "the law sparsity is in sparsity too: give it"),
        ({"n_tokens": 1e10, "sparsity": 1.0}, "sparsity=1.0 must be 0 or more and below 1"),
        ({"sparsity": 0.5}, "is in n_tokens too"),
    ):
        with pytest.raises(ValueError, match=says):
            fit.predict(1e9, **how)
    with pytest.raises(ValueError, match="the sparsity law has no number of experts, only S, N"):
        fit.slope(1e9, 64)
    assert fit.predict(1e9, n_tokens=1e10, sparsity=0).value > 0  # a dense model is one of them


# What follows from a law


def test_slopes_at_given_tokens():
    fit = fit_expert_law(joint_runs("joint"), "joint", **FEW)
    N, E, D, h = 3e8, 8.0, 2e10, 1e-5
    up, down = (np.log(joint(N, E * np.exp(s), D, **LUDZIEJEWSKI)) for s in (h, -h))
    slope = fit.slope(N, E, n_tokens=D)
    assert slope.value == pytest.approx((down - up) / (2 * h), rel=1e-5)
    with pytest.raises(ValueError, match="the law joint is in n_tokens too: give it"):
        fit.slope(N, E)
    assert saturated(1.0, 2.0732, 290.4521) == pytest.approx(2.0732)
    assert fit.cutoff_interval() is None


@pytest.mark.parametrize("residual", ["log", "loss"])
def test_the_interval_of_a_new_run_by_hand(residual):
    table = joint_runs("joint", noise=0.003)
    fit = fit_expert_law(table, "joint", residual=residual, n_draws=100)
    off = fit.predict(table["n_active_params"], **asked("joint", table)).value
    rest = np.log(off) - np.log(table["loss"]) if residual == "log" else off - table["loss"]
    assert fit.dof == 120 - 11
    assert fit.scatter == pytest.approx(np.sqrt((rest**2).sum() / fit.dof), rel=1e-9)
    assert fit.objective == pytest.approx((rest**2).sum() / 2, rel=1e-9)
    assert fit.aicc == pytest.approx(akaike(2 * fit.objective, 120, 11))
    logs = np.log(off) - np.log(table["loss"])
    assert fit.rmse == pytest.approx(np.sqrt((logs**2).mean()))
    left = compute_residuals(fit, table)
    assert len(left) == 120
    assert np.sqrt((left["residual"] ** 2).mean()) == pytest.approx(fit.rmse, rel=1e-6)
    law = fit.predict(1e9, 8, 1e10)
    new = fit.predict(1e9, 8, 1e10, new_run=True)
    assert new.value == law.value
    to = np.log if residual == "log" else float
    t = 1.98197  # Student's 97.5 % point of 109 degrees of freedom
    for bound, outer in ((law.lower, new.lower), (law.upper, new.upper)):
        expected = np.hypot(to(bound) - to(law.value), t * fit.scatter)
        assert abs(to(outer) - to(law.value)) == pytest.approx(expected, rel=1e-5)


def test_residuals_of_the_sparsity_law_are_of_its_runs():
    table = joint_runs("sparsity", noise=0.003)
    fit = fit_expert_law(table, "sparsity", n_draws=0)
    left = compute_residuals(fit, table)
    assert len(left) == 120
    assert np.sqrt((left["residual"] ** 2).mean()) == pytest.approx(fit.rmse, rel=1e-6)


def test_what_is_in_experts_alone_says_so():
    fit = fit_expert_law(joint_runs("joint"), "joint", n_draws=0)
    assert not fit.of_experts_alone
    assert all(OF_EXPERTS[form].needs == ("n_experts",) for form in DEFAULT_FORMS)
    with pytest.raises(
        ValueError, match=r"draw_experts draws laws .* joint has other variables too"
    ):
        draw_experts(joint_runs("joint"), [fit])
    with pytest.raises(ValueError, match="residual='nats' is neither 'log' nor 'loss'"):
        fit_expert_law(joint_runs("joint"), "joint", residual="nats")
    json.dumps(fit.to_dict(), allow_nan=False)


# Compared, with the largest runs held out


@pytest.mark.parametrize("hold_out", ["size", "experts", "tokens", "cells"])
def test_the_joint_law_predicts_its_largest_runs_and_others_do_not(hold_out):
    table = joint_runs("joint", noise=0.001)
    compared = compare_laws(table, ["power_floor", "joint"], hold_out=hold_out, n_draws=0)
    assert compared.laws[0].form_name == "joint"
    by_form = {law.form_name: law for law in compared.laws}
    assert by_form["power_floor"].delta_aicc > 100
    # The noise itself is .003 nats
    assert by_form["joint"].held_out_rmse < 0.02
    assert by_form["power_floor"].held_out_rmse > 2 * by_form["joint"].held_out_rmse
    if hold_out == "tokens":
        assert compared.held_out == "n_tokens = 1.3e+11, the largest"


def test_the_largest_cells_are_those_of_the_most_compute():
    table = joint_runs("joint", noise=0.001)
    compared = compare_laws(table, ["joint"], hold_out="cells", n_draws=0)
    compute = table["n_active_params"] * table["n_tokens"]
    held = compute > np.sort(compute)[: int(0.8 * 120)][-1] * (1 + 1e-9)
    assert compared.held_out == f"the {held.sum()} runs of the most compute"
    assert 0 < held.sum() <= 24
    blind = fit_expert_law(table[~held], "joint", n_draws=0)
    sizes = table[held]["n_active_params"]
    off = blind.predict(sizes, **asked("joint", table[held])).value - table[held]["loss"]
    assert compared.laws[0].held_out_rmse == pytest.approx(np.sqrt((off**2).mean()))
    unknown = table.assign(n_tokens=np.nan)
    without = compare_laws(unknown, ["power_floor"], hold_out="cells", n_draws=0)
    assert without.skipped == ("hold-out: neither budget nor n_tokens of each run is known",)


def test_a_law_that_can_not_be_fitted_is_skipped_by_name():
    table = joint_runs("joint", N=[1e8, 1e9], noise=0.001)
    compared = compare_laws(table, ["power_floor", "joint"], hold_out="experts", n_draws=0)
    assert [law.form_name for law in compared.laws] == ["power_floor"]
    assert compared.skipped[0].startswith("joint: moe: joint needs 3 sizes, not 2 (alpha and gamma")


@pytest.mark.parametrize(("router", "ahead"), [("S-Base", 15), ("RL-R", 40), ("Hash", 40)])
def test_clark_s_runs_prefer_the_joint_law_in_the_sample_only(published, router, ahead):
    """One token count: what is left of it are powers of E and N. Best by AICc, not held out."""
    frame = pd.read_csv(published("clark_final_163.csv")).assign(n_tokens=1.3e11)
    table = check_table(
        frame,
        columns={
            "model": "router_type",
            "n_active_params": "dense_parameter_count",
            "n_params": "total_parameter_count",
            "n_experts": "num_experts",
            "loss": "loss_validation",
        },
    )
    compared = compare_laws(
        table, ["joint", "clark_floor", "power_floor"], model=router, baseline="Dense", n_draws=0
    )
    assert compared.laws[0].form_name == "joint"
    assert compared.laws[1].delta_aicc > ahead
    held = {law.form_name: law.held_out_rmse for law in compared.laws}
    assert held["power_floor"] < 0.85 * held["joint"]
    assert 0.02 < held["joint"] < 0.025
    says = "joint is best by AICc, power_floor on what was held out: neither is established"
    assert says in compared.warnings
