"""Held-out budgets: what was fitted did not see them, and what is said of the errors is so."""

import functools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.fitting.power_law import fit_frontier
from analysis.fitting.status import FitError
from analysis.isoflop.fit import fit_isoflop
from analysis.parametric import fit_parametric
from analysis.synthetic import ChinchillaSurface, simulate_isoflop
from analysis.table.load import check_table, load_table
from analysis.validation import hold_out
from analysis.validation.hold_out import hold_out_budgets

SURFACE = ChinchillaSurface()
BUDGETS = np.geomspace(1e17, 1e21, 8)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    """Bootstraps are a second each, and only intervals of approach 3 need them."""

    def few(*arguments, **options):
        return fit_parametric(*arguments, **{**options, "n_draws": 20})

    monkeypatch.setattr(hold_out, "fit_parametric", few)


@functools.cache
def simulated(n_budgets, n_sizes, **options):
    return simulate_isoflop(SURFACE, BUDGETS[:n_budgets], n_sizes, **options)


def runs(n_budgets=8, n_sizes=7, **options):
    return simulated(n_budgets, n_sizes, **{"span": 8.0, **options}).copy()


def errors(found, approach, quantity):
    frame = found.to_frame()
    chosen = frame[frame["approach"].str.startswith(approach) & (frame["quantity"] == quantity)]
    return chosen.set_index("budget")["relative_error"]


# Published runs


def test_porian_s_frontier_drifts(published):
    table = load_table(published("porian_rw_tuned_121.csv"))
    found = hold_out_budgets(table, method="akima")
    assert (found.n_fitted, found.n_held) == (6, 6)
    off = errors(found, "2 (akima)", "loss*")
    # P2b's are of the best of a finer grid, .21 .39 .46 .78 1.03 1.37 %; these of the Akima minima
    assert off.to_numpy() == pytest.approx(
        [0.0020, 0.0037, 0.0044, 0.0075, 0.0099, 0.0131], abs=6e-5
    )
    assert list(off.index) == [8e17 * 2**i for i in range(6)]
    assert any(
        "approach 2 (akima): the error of loss* drifts with the budget, +0.20% to +1.31%" in text
        for text in found.warnings
    )
    curves = fit_isoflop(table, method="akima", n_draws=0).curves
    C = np.array([c.budget for c in curves])
    L = np.array([c.loss_opt for c in curves])
    law = fit_frontier(C[:6], L[:6])
    assert off.to_numpy() == pytest.approx(law.predict(C[6:]).value / L[6:] - 1, rel=1e-6)


def test_ten_per_cent_off_is_drift_and_the_law_s_own_warnings_are_reported(published):
    # By parabolas the error goes from +0.2 % steadily down to -9.8 %
    table = load_table(published("porian_rw_tuned_121.csv"))
    found = hold_out_budgets(table, method="parabola")
    off = errors(found, "2 (parabola)", "loss*").to_numpy()
    assert np.all(np.diff(off) < 0)
    assert off[-1] < -0.09
    assert any("loss* drifts" in text for text in found.warnings)
    # Both laws of these six budgets stop at a bound: no floor, and no surface of this form
    small = table[table["budget"] < 5e17]
    law = fit_isoflop(small, method="parabola", n_draws=0).law()
    assert law.warnings
    text = "; ".join(found.warnings)
    assert all(warning.partition(": ")[2] in text for warning in law.warnings)


# Known laws


def test_a_law_predicts_its_own_runs():
    found = hold_out_budgets(runs())
    assert (found.n_fitted, found.n_held) == (4, 4)
    frame = found.to_frame()
    assert len(frame) == 4 * 3
    assert list(dict.fromkeys(frame["quantity"])) == ["n_params*", "loss*", "best run's loss"]
    # A parabola's bias is one factor at all budgets: no error of a power law
    assert frame["relative_error"].abs().max() < 1e-8
    assert frame["model"].unique().tolist() == ["dense"]


def test_no_drift_where_the_law_is_exact():
    for options in ({}, {"span": 4.0}, {"n_sizes": 9, "span": 16.0}):
        found = hold_out_budgets(runs(**options))
        assert not any("drifts" in text for text in found.warnings)
        assert found.to_frame()["inside"].all()
        assert (found.to_frame()["p_value"] == 1).all()


@functools.cache
def repeats():
    """Hold-outs of 30 tables of a true law with noise."""
    return [hold_out_budgets(runs(n_sizes=9, noise=0.005, seed=seed)) for seed in range(30)]


@pytest.mark.night
def test_noise_about_a_law_is_rarely_called_drift():
    # 6 % of tables in 200, of any of the three quantities; 30 tell that to 4.3 %
    flagged, inside = 0, []
    for found in repeats():
        flagged += any("drifts" in text for text in found.warnings)
        frame = found.to_frame()
        inside += frame[frame["quantity"] != "best run's loss"]["inside"].tolist()
    assert np.mean(inside) > 0.93
    assert flagged / 30 < 0.15


@pytest.mark.night
def test_intervals_hold_the_best_run_as_often_as_they_say():
    inside = []
    for found in repeats():
        frame = found.to_frame()
        inside += frame[frame["quantity"] == "best run's loss"]["inside"].tolist()
    assert len(inside) == 120
    assert 0.85 < np.mean(inside) < 1


def test_a_law_that_bends_is_said_to_drift():
    # Beyond the fourth budget the losses stop falling as they did
    table = runs(noise=1e-4)
    step = np.log(table["budget"] / BUDGETS[3]).clip(lower=0)
    bent = table.assign(loss=table["loss"] + 0.01 * step)
    found = hold_out_budgets(bent)
    for quantity in ("loss*", "best run's loss"):
        assert any(f"the error of {quantity} drifts" in text for text in found.warnings)
    off = errors(found, "3", "best run's loss")
    assert (off < 0).all()  # predicted/measured - 1: the runs are worse than foretold
    assert off.abs().is_monotonic_increasing


def test_two_errors_are_no_drift():
    table = runs(6, noise=1e-4)
    bent = table.assign(loss=table["loss"] + 0.05 * (table["budget"] > BUDGETS[3]))
    assert not any("drifts" in text for text in hold_out_budgets(bent, 2).warnings)


@pytest.mark.parametrize(
    ("errors", "p_value", "said"),
    [
        ([0.01, -0.01, -0.03], 0.04, True),  # whatever its first sign
        ([0.01, 0.02, 0.03], 0.06, False),
        ([0.01, 0.03, 0.02, 0.04], 0.01, False),  # not in line
        ([-0.05, -0.03, 0.04], 0.01, False),  # in line, but the first is larger
        ([0.01, 0.02, 0.03, 0.04, 0.05], 0.2, False),
        ([0.01, 0.02, 0.03, 0.04, 0.05, 0.06], 0.2, True),
        ([0.01, 0.02, 0.03, 0.04, 0.05, 0.06], 0.26, False),
        ([0.01, 0.02, 0.03], math.nan, False),  # nothing tells the law's error
    ],
)
def test_the_rule_of_drift(errors, p_value, said):
    key = {"model": "dense", "approach": "2 (parabola)", "quantity": "loss*"}
    made = [
        {**key, "budget": 10.0**i, "relative_error": error, "p_value": p_value}
        for i, error in enumerate(errors)
    ]
    assert bool(hold_out._drifts(made[::-1])) == said


# By hand


def test_rows_by_hand():
    table = runs(6, noise=0.003)
    found = hold_out_budgets(table, 2, method="parabola").to_frame()
    small, large = table[table["budget"] < BUDGETS[4]], table[table["budget"] >= BUDGETS[4]]
    laws = fit_isoflop(small, method="parabola", n_draws=0).law().laws
    fit = fit_parametric(small["n_params"], small["n_tokens"], small["loss"], n_draws=0)
    for budget, curve in large.groupby("budget"):
        best = curve.loc[curve["loss"].idxmin()]
        (minimum,) = fit_isoflop(curve, method="parabola", n_draws=0).curves
        expected = {
            "n_params*": (laws["n_params"].predict(budget), minimum.x_opt),
            "loss*": (laws["loss"].predict(budget), minimum.loss_opt),
            "best run's loss": (fit.predict([best["n_params"]], [best["n_tokens"]]), best["loss"]),
        }
        for row in found[found["budget"] == budget].to_dict("records"):
            predicted, measured = expected[row["quantity"]]
            assert row["predicted"] == pytest.approx(float(predicted.value[0]), rel=1e-9)
            assert row["measured"] == pytest.approx(measured)
            assert row["relative_error"] == pytest.approx(row["predicted"] / measured - 1)
            assert row["inside"] is (row["lower"] <= row["measured"] <= row["upper"])
            assert row["inside"] is (row["p_value"] > 0.05)
            if row["quantity"] == "n_params*":  # both errors are of the logarithm, and independent
                law = np.log(float(predicted.upper[0]) / row["predicted"])
                low, high = np.log(np.array(minimum.x_interval) / minimum.x_opt)
                by_hand = -math.hypot(law, high), math.hypot(law, low)
                ends = np.log(np.array([row["lower"], row["upper"]]) / row["predicted"])
                assert ends == pytest.approx(by_hand)
            off = abs(math.log(row["predicted"] / row["measured"]))
            side = row["lower"] if row["relative_error"] > 0 else row["upper"]
            t = off / abs(math.log(side / row["predicted"]))
            dof = {"n_params*": 2, "loss*": 1, "best run's loss": 28 - 5}[row["quantity"]]
            t *= stats.t.ppf(0.975, dof)
            # Of an error 1e-9 is left to rounding, a few millionths of these
            assert row["p_value"] == pytest.approx(2 * stats.t.sf(t, dof), rel=1e-5)


def test_the_best_run_s_interval_is_of_a_run_that_was_picked():
    table = runs(6, noise=0.003)
    small = table[table["budget"] < BUDGETS[4]]
    fit = fit_parametric(small["n_params"], small["n_tokens"], small["loss"], n_draws=20)
    sd = fit.rmse * math.sqrt(28 / 23)  # 28 runs, 5 parameters
    t = stats.t.ppf([1 - 0.025 / 7, 0.975], 23)  # the luckiest of 7
    found = hold_out_budgets(table, 2, method="parabola").to_frame()
    for row in found[found["quantity"] == "best run's loss"].to_dict("records"):
        best = table.loc[table["loss"] == row["measured"]]
        law = fit.predict(best["n_params"], best["n_tokens"])
        for end, of_law, own in zip(("lower", "upper"), law[1:3], t * sd, strict=True):
            half = math.hypot(math.log(of_law[0] / law.value[0]), own)
            assert abs(math.log(row[end] / row["predicted"])) == pytest.approx(half, rel=1e-4)


def test_held_out_runs_are_not_seen():
    table = runs(6, noise=0.003)
    worse = table.assign(loss=table["loss"] + (table["budget"] > BUDGETS[3]))
    before, after = (hold_out_budgets(t, 2).to_frame()["predicted"] for t in (table, worse))
    sizes_and_losses = [0, 1, 2, 3]  # the best run of approach 3 is another's
    assert after[sizes_and_losses].tolist() == pytest.approx(before[sizes_and_losses].tolist())


@pytest.mark.parametrize(
    ("n_budgets", "n_held", "n_fitted"),
    [(8, None, 4), (8, 1, 7), (8, 3, 5), (8, 6, 2), (3, None, 2), (7, None, 4)],
)
def test_how_many_are_held_out(n_budgets, n_held, n_fitted):
    """By default half, of an odd number the smaller one."""
    found = hold_out_budgets(runs(n_budgets, 5), n_held)
    assert (found.n_fitted, found.n_held) == (n_fitted, n_budgets - n_fitted)
    held = BUDGETS[n_fitted:n_budgets].tolist()
    assert sorted(set(found.to_frame()["budget"])) == pytest.approx(held)


RULE = "n_held={} must be 1 to {} of {} budgets: two are left to fit"


@pytest.mark.parametrize(
    ("table", "n_held", "message"),
    [
        (lambda: runs(1), None, "1 budget: at least 3 are needed"),
        (lambda: runs(2), None, "2 budgets: at least 3 are needed"),
        (lambda: runs().assign(budget=np.nan), None, "0 budgets"),
        (lambda: runs(3), 2, RULE.format(2, 1, 3)),
        *((lambda: runs(5), n, RULE.format(n, 3, 5)) for n in (0, -1, 4)),
    ],
)
def test_two_budgets_are_left_and_one_is_held_out(table, n_held, message):
    with pytest.raises(FitError, match=message):
        hold_out_budgets(table(), n_held)


# Choices


@pytest.mark.parametrize(
    ("x", "method"),
    [("n_params", "akima"), ("n_active_params", "parabola"), ("n_tokens", "parabola")],
)
def test_axis_and_method_are_those_asked_for(x, method):
    found = hold_out_budgets(runs(6, 9, span=4.0), x=x, method=method, n_nearest=7)
    frame = found.to_frame()
    assert set(frame["approach"]) == {f"2 ({method})", "3 (parametric)"}
    assert {f"{x}*", "loss*"} < set(frame["quantity"])
    # Akima's lowest point is one of a grid, the same at each budget
    assert errors(found, "2", f"{x}*").abs().max() < 1e-6


def test_models_are_fitted_apart():
    dense = runs(6, noise=0.003)
    moe = dense.assign(model="moe", series="moe", run_id=None, loss=dense["loss"] - 0.3)
    both = hold_out_budgets(pd.concat([dense, moe], ignore_index=True)).to_frame()
    alone = hold_out_budgets(dense).to_frame()
    of_dense = both[both["model"] == "dense"].reset_index(drop=True)
    assert of_dense["predicted"].tolist() == pytest.approx(alone["predicted"].tolist())
    losses = both[both["quantity"] == "best run's loss"].groupby("model")["measured"].mean()
    assert losses["dense"] - losses["moe"] == pytest.approx(0.3)


def test_a_model_without_small_budgets_is_named():
    dense = runs(6)
    late = dense[dense["budget"] > BUDGETS[3]].assign(model="moe", series="moe", run_id=None)
    found = hold_out_budgets(pd.concat([dense, late], ignore_index=True))
    assert set(found.to_frame()["model"]) == {"dense"}
    assert sum(text.startswith("moe, approach") for text in found.warnings) == 2


def test_an_approach_that_can_not_be_is_named():
    found = hold_out_budgets(runs(6).assign(n_tokens=np.nan))
    assert set(found.to_frame()["approach"]) == {"2 (slice)"}
    assert any(text.startswith("dense, approach 3: n_tokens") for text in found.warnings)
    upside_down = runs(6).assign(n_tokens=np.nan)
    upside_down["loss"] = 8 - upside_down["loss"]
    with pytest.raises(
        FitError, match=r"nothing could be held out: dense, approach 2: .*approach 3"
    ):
        hold_out_budgets(upside_down)


def test_a_held_out_minimum_outside_its_sizes_is_reported():
    table = runs(6)
    best = SURFACE.optimum(table["budget"])[0]
    large_only = (table["budget"] > BUDGETS[3]) & (table["n_params"] < 1.2 * best)
    found = hold_out_budgets(table[~large_only], 2)
    assert "2 (slice)" not in set(found.to_frame()["approach"])
    said = [text for text in found.warnings if "has no minimum to compare with" in text]
    assert len(said) == 2
    assert all(text.startswith("dense, approach 2: held out, C=") for text in said)


def test_the_best_run_is_one_run_whatever_its_seed():
    table = runs(6, noise=0.003).assign(lr=1e-3)
    own = table.assign(seed=pd.array(range(len(table)), dtype="Int64"))  # a seed a run
    shared = table.assign(seed=pd.array([0] * len(table), dtype="Int64"))
    expected = table.groupby("budget")["loss"].min().iloc[3:].tolist()
    for runs_of in (shared, own):
        frame = hold_out_budgets(runs_of).to_frame()
        measured = frame[frame["quantity"] == "best run's loss"]["measured"]
        assert measured.tolist() == pytest.approx(expected)


def test_failed_runs_and_worse_learning_rates_do_not_count():
    table = runs(6, noise=0.003).assign(lr=1e-3)
    worse = table.assign(lr=2e-3, loss=table["loss"] + 0.5, run_id=None)
    failed = table.assign(lr=4e-3, loss=0.1, status="failed", run_id=None)
    extra = table.assign(budget=1e22, status="failed", run_id=None)  # no budget of its own
    found = hold_out_budgets(pd.concat([worse, table, failed, extra], ignore_index=True))
    pd.testing.assert_frame_equal(found.to_frame(), hold_out_budgets(table).to_frame())


# As a result


def test_it_is_a_table_and_plain():
    found = hold_out_budgets(runs(5, 5), 3)  # two budgets: a line without an interval
    frame = found.to_frame()
    assert frame[frame["approach"] == "2 (parabola)"]["inside"].isna().all()
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["n_held"] == 3
    assert values["predictions"][0]["lower"] is None
    assert values["predictions"][0]["predicted"] == frame["predicted"].iloc[0]
    text = found.summary()
    assert text.startswith("fitted to the 2 smallest budgets, held out 3")
    assert math.isnan(frame["lower"].iloc[0])


def test_a_table_by_hand_will_do():
    frame = pd.DataFrame(
        {
            "budget": np.repeat([1e18, 2e18, 4e18], 5),
            "n_params": np.tile(np.geomspace(1e7, 1e9, 5), 3),
            "loss": [3 - 0.1 * i + 0.1 * (j - 2) ** 2 for i in range(3) for j in range(5)],
        }
    )
    found = hold_out_budgets(check_table(frame))
    assert set(found.to_frame()["approach"]) == {"2 (slice)"}
    # The same size is best at every budget
    assert errors(found, "2", "n_params*").tolist() == pytest.approx([0], abs=1e-9)
