"""A study holds what each part finds alone, says why the rest is missing, and is plain JSON."""

import functools
import json

import numpy as np
import pandas as pd
import pytest

from analysis import fits, study
from analysis.experts.compare import compare_laws
from analysis.experts.fit import size_slopes
from analysis.fitting.status import FitError
from analysis.isoflop.fit import fit_isoflop
from analysis.parametric import fit_parametric
from analysis.report.compute import differences_section, parametric_section
from analysis.study import analyse
from analysis.synthetic import (
    ChinchillaSurface,
    ClarkSurface,
    simulate_experts,
    simulate_isoflop,
)
from analysis.table.load import load_table
from analysis.validation import hold_out
from analysis.validation.hold_out import hold_out_budgets
from analysis.validation.influence import compute_influence

SURFACE = ChinchillaSurface()
GAMMA = SURFACE.alpha * SURFACE.beta / (SURFACE.alpha + SURFACE.beta)
BUDGETS = (1e17, 1e18, 1e19, 1e20)
P5 = {
    "model": "router_type",
    "n_active_params": "dense_parameter_count",
    "n_params": "total_parameter_count",
    "n_experts": "num_experts",
    "loss": "loss_validation",
}


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    """Bootstraps are most of the time; the intervals are tested elsewhere."""
    for module in (fits, hold_out):
        few = functools.partial(fit_parametric, n_draws=20)
        monkeypatch.setattr(module, "fit_parametric", few)
    monkeypatch.setattr(fits, "fit_isoflop", functools.partial(fit_isoflop, n_draws=20))
    monkeypatch.setattr(study, "compare_laws", functools.partial(compare_laws, n_draws=20))


@pytest.fixture
def _curves_only(monkeypatch):
    """Without what takes the time and is no part of a multiplier."""
    for module, name in (
        (study, "compute_agreement"),
        (study, "hold_out_budgets"),
        (fits, "fit_parametric"),
    ):
        monkeypatch.setattr(module, name, _refuse)


def _refuse(*arguments, **options):  # at the top: other processes are told it by its name
    raise FitError("left out by the test")


simulated = functools.cache(simulate_isoflop)


def curves(model="dense", excess=1.0, noise=0.0, **columns):
    """Runs of one law whose excess over the floor is some share of the surface's."""
    table = simulated(SURFACE, BUDGETS, 7, span=8.0, noise=noise)
    loss = SURFACE.E + excess * (table["loss"] - SURFACE.E)
    ids = [f"{model}{i}" for i in range(len(table))]
    return table.assign(model=model, series=model, loss=loss, run_id=ids, **columns)


def dumped(found):
    """What JSON makes of it; raises where it is no JSON."""
    return json.loads(json.dumps(found.to_dict(), allow_nan=False))


def why(found):
    assert len(dict(found.missing)) == len(found.missing)  # each reason has its own name
    assert all(text for _, text in found.missing)
    return dict(found.missing)


# A demo's sweep


def test_a_sweep_of_three_models(sweep):
    table = load_table(sweep)
    found = analyse(table)
    assert [curve.model for curve in found.isoflop.curves] == ["dense"] * 2 + ["moe"] * 2 + [
        "peer"
    ] * 2
    assert found.agreement.to_frame()["model"].unique().tolist() == ["dense", "moe", "peer"]
    assert found.x_name == "n_params"
    assert found.table is table
    missing = why(found)
    assert "at least" in missing["held-out budgets"]  # two budgets
    assert missing["compute multipliers"] == "dense: the losses do not fall with compute"
    assert found.hold_out is None
    assert found.experts == {}  # 64 experts or none: no trend
    cautions = "; ".join(found.cautions)
    assert "moe: scored with routing that sees later tokens; not causal" in cautions
    assert "peer:" not in cautions
    assert "dense:" not in cautions
    assert "1 run failed" in cautions
    values = dumped(found)
    assert values["missing"] == missing
    assert values["isoflop"]["curves"][0]["x_opt"] == found.isoflop.curves[0].x_opt


@pytest.mark.usefixtures("_curves_only")
def test_differences_are_at_every_budget_with_seeds_and_over_its_sizes():
    table = pd.concat(
        [curves(m, e, seed=0, n_layers=0) for m, e in (("dense", 1.0), ("peer", 0.8))],
        ignore_index=True,
    )
    table["n_layers"] = table.groupby(["model", "budget"]).cumcount() + 1
    again = table[(table["budget"] <= BUDGETS[1]) & (table["n_layers"] == 4)]
    again = again.assign(seed=1, loss=again["loss"] + 0.01, run_id=again["run_id"] + "b")
    found = analyse(pd.concat([table, again], ignore_index=True))
    assert list(found.differences) == list(found.differences_over_sizes) == list(BUDGETS[:2])
    for budget, at_best in found.differences.items():
        pair = table[(table["budget"] == budget) & (table["n_layers"] == 4)]
        dense, peer = pair.set_index("model")["loss"][["dense", "peer"]]
        assert at_best.means[0].difference.value == pytest.approx(peer - dense, rel=1e-9)
        whole = table[table["budget"] == budget].groupby("model")["loss"].mean()
        # the size of two seeds is 0.005 higher in both models
        averaged = found.differences_over_sizes[budget]
        assert len(averaged.parts) == 7
        assert averaged.average["peer"].value == pytest.approx(
            whole["peer"] - whole["dense"], rel=1e-9
        )
    assert not [name for name in why(found) if "differences" in name]
    values = dumped(found)
    assert list(values["differences"]) == list(map(str, BUDGETS[:2]))
    assert values["differences_over_sizes"][str(BUDGETS[0])]["average"]["peer"]["value"] < 0
    _, means, over_sizes = differences_section(found).parts
    assert list(means.frame["budget"]) == [b for b in BUDGETS[:2] for _ in range(2)]
    assert "on the average of all sizes" in over_sizes.caption
    assert all(one.value < 0 for one in over_sizes.frame.iloc[0, 1:])
    assert set(found.budget_multipliers.factors) == set(BUDGETS[:2])
    assert values["budget_multipliers"]["factors"][str(BUDGETS[0])]["peer"]["value"] > 1


# Parts


@pytest.fixture(scope="module")
def table():
    parts = [curves(noise=0.003), curves("moe", 0.9), curves("peer", 0.8)]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.night
def test_parts_are_those_that_each_module_makes(table):
    found = analyse(table, asymptote=SURFACE.E)
    alone = fit_isoflop(table, n_draws=20)
    assert found.isoflop.to_dict() == alone.to_dict()
    assert found.hold_out.to_dict() == hold_out_budgets(table).to_dict()
    assert list(found.parametric) == ["dense", "moe", "peer"]
    for model, fit in found.parametric.items():
        own = table[table["model"] == model]
        same = fit_parametric(own["n_params"], own["n_tokens"], own["loss"], n_draws=20)
        assert fit.params == pytest.approx(same.params, rel=1e-6)
    assert found.agreement.budget == BUDGETS[-1]
    assert len(found.agreement.rows) == 3 * 5
    assert set(why(found)) == {"differences beside the noise of seeds"}  # no seeds
    assert set(dumped(found)) >= {
        "isoflop", "agreement", "hold_out", "parametric", "experts", "multipliers", "size_slopes",
        "missing",
    }  # fmt: skip


@pytest.mark.usefixtures("_curves_only")
def test_multipliers_are_of_each_model_over_the_baseline():
    table = pd.concat([curves(), curves("moe", 0.9), curves("peer", 0.8)], ignore_index=True)
    found = analyse(table)
    # The optimal excess is K C^-gamma: a share s of it is reached with s^(1/gamma) of the compute
    first = {one.model: one.value for one in found.multipliers.at()[:: len(BUDGETS)]}
    # 1e-3: the minima of parabolas are a little off, and the asymptote with them
    assert first == pytest.approx(
        {"moe": 0.9 ** (-1 / GAMMA), "peer": 0.8 ** (-1 / GAMMA)}, rel=1e-3
    )
    over_moe = analyse(table, asymptote=SURFACE.E, baseline="moe").multipliers
    assert over_moe.at()[0].value == pytest.approx(0.9 ** (1 / GAMMA), rel=1e-3)
    assert over_moe.models == ("dense", "peer")
    assert not over_moe.estimated
    assert why(found)["agreement"] == "left out by the test"


def test_a_model_with_too_few_runs_for_a_surface_is_reported():
    few = curves("moe", 0.9).iloc[:5]  # at one budget
    found = analyse(pd.concat([curves().iloc[:14], few], ignore_index=True))
    assert list(found.parametric) == ["dense"]
    said = "it needs more than 5 distinct runs: moe has 5; add sizes or budgets"
    assert why(found)["parametric surface"] == said


def test_without_curves_multipliers_are_missing_too():
    experts = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], [1, 4, 16, 64], noise=0.01)
    found = analyse(experts, asymptote=1.0)
    assert found.multipliers is None
    assert "no isoFLOP curves" in why(found)["compute multipliers"]


def test_options_reach_the_fits(table):
    dense = table[table["model"] == "dense"]
    found = analyse(dense, "n_tokens", "akima", 5, noise=0.01)
    assert (found.isoflop.x_name, found.isoflop.method, found.isoflop.n_nearest) == (
        "n_tokens", "akima", 5,
    )  # fmt: skip
    assert {curve.noise for curve in found.isoflop.curves} == {0.01}
    assert {curve.n_points for curve in found.isoflop.curves} == {5}
    assert "2 (akima)" in set(found.hold_out.to_frame()["approach"])
    assert "n_tokens*" in set(found.hold_out.to_frame()["quantity"])
    assert found.agreement.x_name == "n_params"  # an exponent of a size
    assert found.x_name == "n_tokens"


# Experts


@pytest.mark.night
def test_models_with_several_experts_have_their_laws():
    dense = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], [1], noise=0.01)
    dense = dense.assign(model="dense", series="dense", run_id=None)
    moe = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], [2, 4, 16, 64, 256], noise=0.01)
    table = pd.concat([moe, dense], ignore_index=True)
    found = analyse(table)
    assert list(found.experts) == list(found.slopes) == ["moe"]
    n = found.experts["moe"].n_points
    assert n in (len(moe), len(table))  # with or without the baseline as one expert
    baseline = "dense" if n == len(table) else None
    alone = compare_laws(table, model="moe", baseline=baseline, n_draws=20)
    assert found.experts["moe"].to_dict() == alone.to_dict()
    slopes = size_slopes(table, model="moe", baseline=baseline)
    pd.testing.assert_frame_equal(found.slopes["moe"], slopes)
    assert dumped(found)["size_slopes"]["moe"]["slope"] == slopes["slope"].tolist()
    assert "isoFLOP curves" in why(found)


def test_runs_that_laws_of_experts_can_not_distinguish_are_reported():
    moe = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], [2, 4, 16], noise=0.01)
    moe["n_heads"] = moe["n_experts"].map({2: 1, 4: 2, 16: 4})
    found = analyse(moe)
    assert found.experts == found.slopes == {}
    assert "several n_heads" in why(found)["experts, moe"]


@pytest.mark.night
def test_variants_of_a_layer_have_their_laws_apart():
    def runs(norm, heads, experts):
        table = simulate_experts(ClarkSurface(), [1e7, 1e8], experts, noise=0.01)
        return table.assign(
            **{"layer.query_norm": norm, "n_heads": pd.array([heads] * len(table), "Int64")}
        )

    batch, none = runs("batch", 8, [2, 4, 16, 64]), runs("none", 8, [2, 4, 16, 64])
    table = pd.concat([batch, none, runs("batch", 4, [16])], ignore_index=True).assign(run_id=None)
    found = analyse(table)
    assert list(found.experts) == ["moe query_norm=batch", "moe query_norm=none"]
    for name, own in zip(found.experts, (batch, none), strict=True):
        assert found.experts[name].n_points == 8
        pd.testing.assert_frame_equal(found.slopes[name], size_slopes(own))
        assert len(found.expert_runs[name]) == 8


@pytest.mark.night
def test_clark_s_runs_without_a_budget(published):
    table = load_table(published("clark_final_163.csv"), columns=P5)
    found = analyse(table, baseline="Dense")
    assert found.isoflop is found.agreement is found.hold_out is found.multipliers is None
    assert found.parametric == {}
    missing = why(found)
    assert {"isoFLOP curves", "agreement", "held-out budgets"} <= set(missing)
    assert "budget" in missing["isoFLOP curves"]
    assert sorted(found.experts) == ["Hash", "RL-R", "S-Base"]
    for router, compared in found.experts.items():
        assert compared.laws[0].form_name == "clark_floor", router
        assert len(found.slopes[router]) == 6  # sizes
    assert len(dumped(found)["experts"]["Hash"]["laws"]) == 4


# By night: each of its parts is tested on these runs by itself
@pytest.mark.night
@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_porian_s_runs(published, method):
    found = analyse(load_table(published("porian_rw_tuned_121.csv")), method=method)
    assert set(why(found)) == {"compute multipliers", "differences beside the noise of seeds"}
    a = {"parabola": 0.5137, "akima": 0.4970}[method]
    assert found.isoflop.law().laws["n_params"].exponent == pytest.approx(a, abs=5e-5)
    assert any("drifts" in text for text in found.hold_out.warnings)
    assert found.parametric["model"].status.value == "bound hit"
    values = dumped(found)
    assert values["hold_out"]["n_held"] == 6
    assert len(values["agreement"]["rows"]) == 5


@pytest.mark.night
def test_porian_s_small_budgets_overflow_nowhere(published):
    # By parabolas their losses have no floor, and its interval reaches e^800
    table = load_table(published("porian_rw_tuned_121.csv"))
    dumped(analyse(table[table["budget"] < 5e17]))


# Tables with little in them


def test_one_budget_is_curves_and_no_more():
    table = curves()
    found = analyse(table[table["budget"] == BUDGETS[0]], asymptote=1.0)
    assert len(found.isoflop.curves) == 1
    assert found.agreement is found.hold_out is None
    assert {"agreement", "held-out budgets"} <= set(why(found))
    dumped(found)


def test_one_run_is_a_study_of_nothing():
    found = analyse(curves().head(1))
    assert found.isoflop is found.agreement is found.hold_out is found.multipliers is None
    assert found.parametric == found.experts == {}
    assert {"isoFLOP curves", "agreement", "held-out budgets", "compute multipliers"} <= set(
        why(found)
    )
    dumped(found)


def test_no_tokens_is_no_surface():
    found = analyse(curves().assign(n_tokens=np.nan))
    assert found.parametric == {}
    assert why(found)["parametric surface"] == "the table has no n_tokens"
    assert found.isoflop is not None
    dumped(found)


def test_some_tokens_that_are_missing_are_reported():
    table = curves()
    table.loc[3, "n_tokens"] = np.nan
    text = why(analyse(table))["parametric, dense"]
    assert text.startswith("the surface needs n_tokens: 1 of 28 finished runs have none")


@pytest.mark.usefixtures("_curves_only")
@pytest.mark.parametrize(
    ("seeds", "text"),
    [(None, "seeds are not recorded: "), (0, "one seed everywhere: "), ((0, 1), None)],
)
def test_seeds_are_claimed_where_they_are_known(seeds, text):
    table = pd.concat(
        [curves(seed=pd.array([s] * 28, "Int64")) for s in np.atleast_1d(np.array(seeds, object))],
        ignore_index=True,
    ).assign(run_id=None)
    said = [c for c in analyse(table).cautions if "the noise of a loss is unknown" in c]
    assert [c.startswith(text) for c in said] == ([] if text is None else [True])


def test_no_finished_run_is_refused():
    with pytest.raises(ValueError, match="no finished run in the table: 28 failed"):
        analyse(curves().assign(status="failed"))


@pytest.mark.usefixtures("_curves_only")
def test_what_is_wrong_with_an_option_is_reported(table):
    missing = why(analyse(curves(), noise=-1.0))
    assert "noise=-1.0 must be finite and above 0" in missing["isoFLOP curves"]
    assert "method='cubic'" in why(analyse(curves(), method="cubic"))["isoFLOP curves"]
    missing = why(analyse(table, asymptote=10.0))
    assert "asymptote=10.0 must be" in missing["compute multipliers"]
    missing = why(analyse(table[table["model"] != "dense"], asymptote=1.0))
    assert "model='dense' has no minimum" in missing["compute multipliers"]
    with pytest.raises(ValueError, match="x='size' is not one of n_params"):
        analyse(curves(), "size")


@pytest.mark.night
def test_a_model_without_the_largest_budget_is_no_end_of_it():
    dense, moe = curves(), curves("moe", 0.9)
    both = pd.concat([dense, moe[moe["budget"] < BUDGETS[-1]]], ignore_index=True)
    found = analyse(both)
    assert len(found.isoflop.curves) == 7
    assert set(found.parametric) == {"dense", "moe"}


@pytest.mark.night
def test_the_surface_of_most_runs_is_tried_without_a_few_and_beside_others(monkeypatch):
    many = simulated(SURFACE, BUDGETS, 14, span=8.0, noise=0.003)
    many = many.assign(model="dense", series="dense")
    few = curves("moe", 0.9)
    table = pd.concat([many, few], ignore_index=True)
    monkeypatch.setattr(study, "_FEW_DRAWS", 20)
    found = analyse(table)
    assert found.parametric["dense"].n_points >= 40
    assert list(found.influences) == list(found.surfaces) == ["dense"]
    alone = compute_influence(
        *(many[name] for name in ("n_params", "n_tokens", "loss")), n_draws=20
    )
    moved = [one.to_frame()["after"].tolist() for one in (found.influences["dense"], alone)]
    assert moved[0] == pytest.approx(moved[1], rel=1e-6)
    assert found.surfaces["dense"].n_points == len(many)
    parts = parametric_section(found).parts
    (shown,) = [p for p in parts if "predicts best" in getattr(p, "caption", "")]
    best = found.surfaces["dense"].surfaces[0]
    assert shown.frame["form_name"].iloc[0] == best.form_name
    assert shown.frame["free parameters"].iloc[0] == best.n_params
    assert dumped(found)["surfaces"]["dense"]["n_held"] == found.surfaces["dense"].n_held
    assert analyse(few).influences == {}
