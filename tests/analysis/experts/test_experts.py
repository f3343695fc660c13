"""Fits of laws in experts: which runs they are of, what is refused, and what is said of them."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.experts.fit import fit_expert_law, size_slopes
from analysis.experts.runs import backbone_params
from analysis.fitting.average import akaike
from analysis.fitting.status import FitError, FitStatus
from tests.analysis.expert_laws import (
    EXPERTS,
    FEW,
    JOINT_GRIDS,
    KRAJEWSKI,
    SIZES,
    TRUTHS,
    granular,
    joint_runs,
    runs_of,
)
from tests.analysis.tables import joined


def test_a_baseline_counts_as_one_expert():
    everything = runs_of("clark", noise=0.002)
    routed = everything[everything["n_experts"] > 1]
    dense = everything[everything["n_experts"] == 1]
    dense = dense.assign(model="dense", series="dense", n_experts=None)
    both = joined(routed, dense)
    fit = fit_expert_law(both, "clark", baseline="dense", **FEW)
    assert (fit.model, fit.n_points) == ("moe", 60)
    assert fit.estimates == pytest.approx(fit_expert_law(everything, "clark", **FEW).estimates)
    assert fit_expert_law(both, "clark", **FEW).experts[0] == 2.0


def test_the_best_of_a_cell_is_fitted():
    table = runs_of("power_floor")
    rates = joined(table.assign(lr=1e-3), table.assign(lr=2e-3, loss=table["loss"] + 1))
    broken = table.assign(lr=4e-3, loss=0.1, status="failed")
    fit = fit_expert_law(joined(rates, broken), **FEW)
    assert fit.n_points == 60
    assert fit.params == pytest.approx(TRUTHS["power_floor"], rel=1e-6)


@pytest.mark.parametrize("column", ["n_heads", "top_k", "layer.query_norm"])
def test_variants_mixed_are_refused(column):
    values = ["a", "b"] if column.startswith("layer.") else [1, 2]
    table = runs_of("power_floor").assign(**{column: values * 30})
    with pytest.raises(
        ValueError,
        match=f"moe has runs of several {column.removeprefix('layer.')} .*keep one of each",
    ):
        fit_expert_law(table)
    with pytest.raises(ValueError, match=f"several {column.removeprefix('layer.')}"):
        size_slopes(table)


def test_what_is_asked_for_must_be_there():
    table = runs_of("power_floor")
    for how, says in (
        ({"form": "linear"}, "form='linear' is not one of clark, "),
        ({"model": "peer"}, "no finished run of model='peer'; the table has moe"),
        ({"baseline": "dense"}, "no finished run of model='dense'; the table has moe"),
        ({"size": "backbone"}, "form=power_floor needs backbone: the table has none"),
        ({"form": "granularity"}, "form=granularity needs n_heads"),
    ):
        with pytest.raises(ValueError, match=says):
            fit_expert_law(table, **how)
    several = joined(table, table.assign(model="peer"))
    with pytest.raises(ValueError, match="models with experts: moe, peer; choose one with model="):
        fit_expert_law(several)
    assert fit_expert_law(several, model="peer", **FEW).model == "peer"
    with pytest.raises(ValueError, match="models with experts: none"):
        fit_expert_law(table.assign(n_experts=None))
    with pytest.raises(ValueError, match="no finished run"):
        fit_expert_law(table.assign(status="failed"))


def test_too_few_runs_are_refused_and_few_flagged():
    with pytest.raises(FitError, match="moe: power_floor needs 2 numbers of experts, not 1"):
        fit_expert_law(runs_of("power_floor", experts=[8]))
    with pytest.raises(FitError, match="moe: 4 runs for the 4 parameters of power_floor"):
        fit_expert_law(runs_of("power_floor", sizes=SIZES[:2], experts=[1, 8]))
    with pytest.raises(FitError, match="moe: 6 runs for the 6 parameters of clark"):
        fit_expert_law(
            runs_of("clark", sizes=SIZES[:1], experts=[1, 2, 4])
            .iloc[[0, 1, 2]]
            .pipe(lambda t: joined(t, t.assign(n_active_params=1e9))),
            "clark",
        )
    fit = fit_expert_law(runs_of("power_floor", sizes=SIZES[:2], experts=[1, 8, 64]), **FEW)
    assert "6 runs for 4 parameters: the intervals say little" in fit.warnings
    assert fit.status is FitStatus.WARNING


def test_runs_of_several_budgets_are_flagged():
    table = runs_of("power_floor", budget=1e19, n_tokens=1e10)
    both = joined(table, table.assign(budget=4e19, n_tokens=4e10, loss=table["loss"] - 0.2))
    fit = fit_expert_law(both, **FEW)
    assert fit.status is FitStatus.WARNING
    mixed = "this law has no term for them, so what it says of N mixes size with tokens"
    assert f"n_tokens vary 4-fold: {mixed}" in fit.warnings
    little = table.assign(n_tokens=np.geomspace(1e10, 1.9e10, 60))
    assert fit_expert_law(little, **FEW).warnings == ()
    unknown = fit_expert_law(both.assign(n_tokens=np.nan), **FEW)
    assert unknown.status is FitStatus.WARNING
    assert "runs of 2 budgets: this law has no term for tokens; fit each apart" in unknown.warnings


def test_runs_of_several_numbers_of_tokens_and_unknown_budgets_are_not_one_cell():
    table = runs_of("power_floor").assign(n_tokens=1e10)
    both = joined(table, table.assign(n_tokens=4e10, loss=table["loss"] - 0.2))
    fit = fit_expert_law(both, **FEW)
    assert fit.n_points == 120
    assert any("n_tokens vary 4-fold" in w for w in fit.warnings)
    N = np.repeat(SIZES, len(EXPERTS))  # of one number of tokens they are not of several budgets
    one = fit_expert_law(runs_of("power_floor", n_tokens=1e10, budget=6e10 * N), **FEW)
    assert one.status is FitStatus.CONVERGED


def test_size_slopes_are_linregress():
    table = runs_of("power_floor", noise=0.01)
    found = size_slopes(table, level=0.9)
    assert list(found.columns) == [
        "size", "budget", "slope", "lower", "upper", "n_experts", "n_runs", "rmse",
    ]  # fmt: skip
    assert found["budget"].isna().all()
    assert found["size"].tolist() == pytest.approx(SIZES)
    for row in found.itertuples():
        at = table[np.isclose(table["n_active_params"], row.size)]
        line = stats.linregress(np.log(at["n_experts"].astype(float)), np.log(at["loss"]))
        half = stats.t.ppf(0.95, 8) * line.stderr
        assert (row.slope, row.lower, row.upper) == pytest.approx(
            (-line.slope, -line.slope - half, -line.slope + half)
        )
        assert row.n_experts == row.n_runs == 10
    alone = joined(table, table.iloc[:1].assign(n_active_params=9e9))  # no trend of one
    assert len(size_slopes(alone)) == 6


@pytest.mark.parametrize("form", ["granularity", *JOINT_GRIDS, *TRUTHS])
def test_aicc_is_the_books(form):
    if form == "granularity":
        table = granular(np.geomspace(6e7, 4e9, 5), np.geomspace(1e9, 1e11, 4), [1, 4, 16], 0.002)
    elif form in JOINT_GRIDS:
        table = joint_runs(form, noise=0.005)
    else:
        table = runs_of(form, noise=0.005)
    fit = fit_expert_law(table, form, **FEW)
    n, k = fit.n_points, len(fit.names) + 1  # the variance is a parameter too
    squares = fit.rmse**2 * n
    expected = n * np.log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    assert fit.aicc == pytest.approx(expected, rel=1e-12)


def test_aicc_of_hardly_any_runs_is_infinite():
    assert akaike(1.0, 6, 4) == np.inf
    assert akaike(1.0, 7, 4) == pytest.approx(7 * np.log(1 / 7) + 10 + 2 * 5 * 6 / 1)
    assert np.isfinite(akaike(0.0, 60, 4))
    fit = fit_expert_law(runs_of("power_floor", sizes=[5e7], noise=0.002), **FEW)
    assert fit.aicc == pytest.approx(akaike(fit.rmse**2 * 10, 10, 3))  # what was fixed is no more


def test_draws_follow_the_seed_and_intervals_are_not_of_them():
    table = runs_of("clark", noise=0.005)
    fit, same = (fit_expert_law(table, "clark", **FEW, seed=3) for _ in range(2))
    np.testing.assert_array_equal(fit.draws, same.draws)
    back = fit.to_dict()
    assert (back["aicc"], back["rmse"]) == (fit.aicc, fit.rmse)
    assert "E_max" in fit.summary()
    none = fit_expert_law(table, "clark", n_draws=0)
    pd.testing.assert_frame_equal(none.conf_int(), fit.conf_int())
    assert np.isnan(none.bse["a"])


def test_levels_are_checked_everywhere():
    fit = fit_expert_law(runs_of("clark"), "clark", **FEW)
    for level in (0.0, 1.0, 95):
        for ask in (
            partial(fit.predict, 1e8, 8),
            partial(fit.slope, 1e8, 8),
            fit.conf_int,
            fit.cutoff_interval,
            partial(size_slopes, runs_of("clark")),
        ):
            with pytest.raises(ValueError, match=r"level=.* must be between 0 and 1"):
                ask(level=level)


def test_a_size_is_that_of_its_shape_with_the_fewest_experts():
    table = runs_of("power_floor", n_layers=12, d_model=np.repeat(64 * 2 ** np.arange(6), 10))
    N, E = table["n_active_params"], table["n_experts"].astype(float)
    grown = table.assign(n_active_params=N * (1 + 1e-3 * E))  # PEER's keys
    np.testing.assert_allclose(backbone_params(grown), N * 1.001)
    fit = fit_expert_law(grown, **FEW)
    assert fit.sizes == pytest.approx(SIZES * 1.001)
    assert fit.params["b"] == pytest.approx(TRUTHS["power_floor"]["b"], rel=1e-6)
    unknown = backbone_params(grown.assign(n_layers=None))
    np.testing.assert_array_equal(unknown, grown["n_active_params"])
    one_width = fit_expert_law(runs_of("power_floor", n_layers=12, d_model=512), **FEW)
    assert one_width.n_points == 60
    assert one_width.sizes == pytest.approx(SIZES)


def test_the_total_is_no_size():
    table = runs_of("power_floor")
    for name in ("n_params", "n_non_embedding_params"):
        says = f"size='{name}' counts the experts and grows with them; form='power_floor' is in"
        for fit in (fit_expert_law, size_slopes):
            with pytest.raises(ValueError, match=says.replace("power_floor", ".*")):
                fit(table, size=name)
        with pytest.raises(ValueError, match=says):
            fit_expert_law(table, size=name)


@pytest.mark.parametrize("name", ["loss", "budget", "n_tokens", "n_experts", "model"])
def test_what_is_no_size_is_refused(name):
    for form in ("power_floor", "granularity"):
        with pytest.raises(ValueError, match=f"size='{name}' is not a size of models; choose back"):
            fit_expert_law(runs_of("power_floor"), form, size=name)


def test_a_size_of_the_tables_own_is_one():
    table = runs_of("power_floor")
    own = table.assign(dense_params=table["n_active_params"], n_active_params=np.nan)
    fit = fit_expert_law(own, size="dense_params", **FEW)
    assert fit.params == pytest.approx(TRUTHS["power_floor"], rel=1e-6)
    assert fit.size_name == "dense_params"


def test_the_granularity_law_may_be_in_the_total():
    # Krajewski's N counts the experts; here it is 8 times the active, so its terms 8^alpha those
    table = granular(np.geomspace(6e7, 4e9, 5), np.geomspace(1e9, 1e11, 4), [1, 2, 4, 8, 16])
    fit = fit_expert_law(table, "granularity", size="n_params", **FEW)
    expected = {n: KRAJEWSKI[n] * 8 ** KRAJEWSKI["alpha"] for n in ("g", "a")}
    assert fit.params == pytest.approx({**KRAJEWSKI, **expected}, rel=1e-6)


def test_size_slopes_of_several_budgets_are_not_pooled():
    table = runs_of("power_floor", budget=1e19, n_tokens=1e10)
    both = joined(table, table.assign(budget=4e19, n_tokens=4e10, loss=table["loss"] - 0.2))
    slopes = size_slopes(both)
    assert (slopes["n_experts"] == 10).all()
    assert (slopes["n_runs"] == 10).all()
    assert sorted(slopes["budget"]) == [1e19] * 6 + [4e19] * 6
    for budget, own in slopes.groupby("budget"):
        alone = size_slopes(both[both["budget"] == budget])
        pd.testing.assert_frame_equal(own.reset_index(drop=True), alone)


def test_size_slopes_count_seeds_as_runs():
    table = joined(*(runs_of("power_floor", noise=0.01, seed=i).assign(seed=i) for i in range(2)))
    slopes = size_slopes(table.assign(seed=table["seed"].astype("Int64")))
    assert (slopes["n_experts"] == 10).all()
    assert (slopes["n_runs"] == 20).all()


def test_a_size_of_one_number_of_tokens_has_one_slope():
    # Routers: each number of experts costs a little more
    table = runs_of("power_floor", n_tokens=1e10)
    dear = table.assign(budget=6e10 * table["n_active_params"] * (1 + 1e-3 * table["n_experts"]))
    slopes = size_slopes(dear)
    assert slopes["n_experts"].tolist() == [10] * 6
    assert slopes["budget"].tolist() == pytest.approx(6e10 * SIZES * (1 + 1e-3 * EXPERTS.mean()))


def test_a_shape_of_several_widths_keeps_its_own_sizes_only():
    table = runs_of("power_floor", n_layers=12, d_model=np.repeat(64 * 2 ** np.arange(6), 10))
    grown = table["n_active_params"] * (1 + 1e-3 * table["n_experts"].astype(float))
    first = table["d_model"] == 64
    wider = table[first].assign(n_active_params=9e7)  # of the same shape and numbers of experts
    both = joined(table.assign(n_active_params=grown), wider)
    found = backbone_params(both)
    np.testing.assert_allclose(found[60:], 9e7)
    np.testing.assert_allclose(found[:60][first], grown[first])
    np.testing.assert_allclose(found[:60][~first], table["n_active_params"][~first] * 1.001)


def test_variants_known_of_some_runs_only_are_refused():
    table = runs_of("power_floor").assign(n_heads=[4, None] * 30)
    with pytest.raises(ValueError, match=r"several n_heads .*'unknown'.*power_floor can't"):
        fit_expert_law(table, **FEW)
