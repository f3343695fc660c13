"""What other sizes cost, against a surface that is known."""

import json

import numpy as np
import pytest
from scipy import optimize

from analysis.fitting.status import FitError
from analysis.flatness import compute_flatness
from analysis.isoflop.fit import fit_isoflop
from analysis.planning.size import plan
from tests.analysis.isoflop import truths
from tests.analysis.isoflop.test_slices import BUDGETS, runs
from tests.analysis.tables import HOFFMANN, best_size, joined, noisy, surface


def loss(size, budget):
    return surface(size, budget / 6 / size, **HOFFMANN)


@pytest.fixture(scope="module")
def clean():
    return fit_isoflop(runs(), n_draws=20)


@pytest.mark.parametrize(("name", "factor"), [("half", 0.5), ("twice", 2.0)])
def test_costs_are_the_surface_s(clean, name, factor):
    for row in compute_flatness(clean).rows:
        C = row["budget"]
        N = best_size(C, **HOFFMANN)
        expected = loss(N * factor, C) - loss(N, C)
        assert row[name].value == pytest.approx(expected, rel=1e-5)
        assert row[name].lower == pytest.approx(expected, rel=1e-3)  # of clean runs, a point
        # As much as this share less compute at the best size
        share = row[f"{name}_compute"]
        less = (1 - share) * C
        N_less = best_size(less, **HOFFMANN)
        assert loss(N_less, less) - loss(N, C) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("nats", [0.003, 0.01, 0.1])
def test_the_sizes_within_are_where_the_surface_has_them(clean, nats):
    for row in compute_flatness(clean, within=nats).rows:
        C = row["budget"]
        N = best_size(C, **HOFFMANN)
        for name, ends in (("low", (1 / 64, 1)), ("high", (1, 64))):
            factor = optimize.brentq(lambda f, C=C, N=N: loss(N * f, C) - loss(N, C) - nats, *ends)
            # 400 places a side, linear between: a per cent of ln(64) / 400
            assert row[name].value == pytest.approx(factor, rel=2e-3)


def test_a_share_of_compute_is_what_the_law_loses_without_it(clean):
    for row in compute_flatness(clean, within_compute=0.05).rows:
        C = row["budget"]
        less = 0.95 * C
        lost = loss(best_size(less, **HOFFMANN), less) - loss(best_size(C, **HOFFMANN), C)
        assert row["within"] == pytest.approx(lost, rel=1e-4)
        assert row["within_compute"] == pytest.approx(0.05, rel=1e-3)


def test_sizes_below_another_model_s_best_are_between_its_crossings():
    better = runs().assign(model="peer", series="peer")
    better["loss"] -= 0.05
    fit = fit_isoflop(joined(runs(), better), n_draws=5)
    found = compute_flatness(fit, baseline="dense")
    rows = {(row["model"], row["budget"]): row for row in found.rows}
    for C in BUDGETS:
        N = best_size(C, **HOFFMANN)
        crossings = [
            optimize.brentq(lambda f, C=C, N=N: loss(N * f, C) - loss(N, C) - 0.05, *ends) * N
            for ends in ((1 / 64, 1), (1, 64))
        ]
        assert rows["peer", C]["below"] == pytest.approx(crossings, rel=2e-3)
        assert np.isnan(rows["dense", C]["below"]).all()
    assert "below the best of dense from" in found.summary()


def test_costs_of_curves_that_do_not_fit_are_flagged():
    found = compute_flatness(
        fit_isoflop(truths.noisy(truths.runs(truths.kaplan), 0.005, 0), n_draws=5)
    )
    assert len(found.warnings) == len(found.rows)
    assert all("costs are of the curve, and" in text for text in found.warnings)


@pytest.mark.night
def test_intervals_hold_the_costs():
    hits = []
    for seed in range(40):
        fit = fit_isoflop(noisy(runs(8.0), 0.01, seed), n_draws=200)
        for row in compute_flatness(fit).rows:
            C = row["budget"]
            N = best_size(C, **HOFFMANN)
            truth = loss(N / 2, C) - loss(N, C)
            hits.append(row["half"].lower <= truth <= row["half"].upper)
    # 200 of them, five of a draw together: 0.03 is a standard error of the share
    assert np.mean(hits) >= 0.88


@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_other_methods_have_costs_without_intervals(method):
    fit = fit_isoflop(noisy(runs(8.0), 0.005), method=method, n_draws=20)
    for row in compute_flatness(fit, within=0.005).rows:
        assert np.isfinite(row["half"].value)
        assert np.isnan(row["half"].lower)
    assert json.dumps(compute_flatness(fit).to_dict(), allow_nan=False)


def test_sizes_beyond_those_tried_are_a_warning(clean):
    assert compute_flatness(clean).warnings == ()
    (first, *_) = compute_flatness(fit_isoflop(runs(1.5), n_draws=20), within=0.1).warnings
    assert first == "dense at C=1e+18: sizes within 0.1 nats reach beyond those tried"


def test_a_plan_has_the_costs_of_the_largest_budget(clean):
    found = plan(1e21, clean).values
    last = compute_flatness(clean).rows[-1]
    assert found["half_size_costs"] == last["half"]
    assert found["twice_size_costs"] == last["twice"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"within": 0}, "within=0"),
        ({"within_compute": 1.0}, "within_compute=1.0 must be a share below 1"),
        ({"within_compute": -0.1}, "within_compute=-0.1"),
        ({"baseline": "moe"}, "baseline='moe' is not one of dense"),
    ],
)
def test_bad_options_are_named(clean, how, says):
    with pytest.raises(ValueError, match=says):
        compute_flatness(clean, **how)


def test_what_has_no_minimum_or_no_law_says_so():
    falling = runs(4.0).assign(loss=lambda t: 9 - 0.3 * np.log(t["n_params"]))
    with pytest.raises(FitError, match="no curve has a minimum inside its sizes"):
        compute_flatness(fit_isoflop(falling, n_draws=10))
    one = fit_isoflop(runs(8.0, BUDGETS[:1]), n_draws=10)
    with pytest.raises(FitError, match="within_compute needs a law of the loss"):
        compute_flatness(one, within_compute=0.05)
    assert np.isnan(compute_flatness(one).rows[0]["within_compute"])
