"""Approaches side by side: each row is that approach's own fit, and disputes are said."""

import functools
import json
import math

import numpy as np
import pandas as pd
import pytest

from analysis import fits
from analysis.fitting.power_law import fit_power_law
from analysis.fitting.status import FitError
from analysis.isoflop.fit import fit_isoflop
from analysis.parametric import fit_parametric
from analysis.synthetic import ChinchillaSurface, simulate_isoflop
from analysis.table.load import load_table
from analysis.validation.agreement import compare_approaches, flops_per_param_token

SURFACE = ChinchillaSurface()
BUDGETS = np.geomspace(1e17, 1e21, 5)
APPROACHES = ["1 (best run)", "2 (slice)", "2 (parabola)", "2 (akima)", "3 (parametric)"]


def fewer_draws(monkeypatch):
    """Bootstraps are most of the time; the intervals are tested elsewhere."""

    def parametric(*arguments, **options):
        return fit_parametric(*arguments, **options, n_draws=50)

    def isoflop(*arguments, **options):
        return fit_isoflop(*arguments, **options, n_draws=20)

    monkeypatch.setattr(fits, "fit_parametric", parametric)
    monkeypatch.setattr(fits, "fit_isoflop", isoflop)


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch):
    fewer_draws(monkeypatch)


@functools.cache
def simulated(n_budgets, n_sizes, **options):
    return simulate_isoflop(SURFACE, BUDGETS[:n_budgets], n_sizes, span=8.0, **options)


def runs(n_budgets=5, n_sizes=9, **options):
    return simulated(n_budgets, n_sizes, **options).copy()


@functools.cache
def compared(**options):
    return compare_approaches(runs(**options))


def rows(found, model="dense"):
    frame = found.to_frame()
    return frame[frame["model"] == model].set_index("approach")


@functools.cache
def on_porian(path):
    with pytest.MonkeyPatch.context() as patch:
        fewer_draws(patch)
        return compare_approaches(load_table(path))


# Published runs


@pytest.mark.night
def test_porian_s_exponents(published):
    found = on_porian(published("porian_rw_tuned_121.csv"))
    a = rows(found, "model")["a"]
    assert a["2 (akima)"] == pytest.approx(0.4970288, abs=5e-8)  # their stored result
    assert a["2 (parabola)"] == pytest.approx(0.5137, abs=5e-5)
    low, high = rows(found, "model").loc["2 (akima)", ["a_lower", "a_upper"]]
    assert (low, high) == pytest.approx((0.479, 0.515), abs=6e-4)  # OLS t-interval
    assert found.budget == 2.56e19


def test_porian_s_best_runs_by_hand_and_rows_with_warnings(published):
    path = published("porian_rw_tuned_121.csv")
    raw = pd.read_csv(path)
    best = raw.loc[raw.groupby("budget")["loss"].idxmin()]
    slope = np.polyfit(np.log(best["budget"]), np.log(best["params"]), 1)[0]
    frame = rows(on_porian(path), "model")
    row = frame.loc["1 (best run)"]
    assert row["a"] == pytest.approx(slope, rel=1e-9)
    assert (row["loss"], row["tokens"]) == tuple(best.iloc[-1][["loss", "tokens"]])
    assert row["note"].startswith("sizes of the grid only")
    # P2: these runs are not of Chinchilla's form; a bound is hit and the row says so
    assert frame.loc["3 (parametric)", "status"] == "bound hit"
    assert "E stopped at the lowest loss" in frame.loc["3 (parametric)", "note"]
    flagged = frame[frame["status"] != "converged"]
    assert "2 (parabola)" in flagged.index
    assert (flagged["note"] != "").all()


# A known law


def test_all_agree_on_a_known_law():
    found = compared()
    frame = rows(found)
    assert list(frame.index) == APPROACHES
    # Curves of one shape at each budget: whatever finds their minima, all grow alike
    assert frame["a"].to_numpy() == pytest.approx(SURFACE.exponent, rel=1e-6)
    N, D = SURFACE.optimum(1e21)
    assert found.warnings == (
        f"dense: the best n_params is {N:.3g} by approach 2 (slice), and beyond the intervals by "
        f"2 (parabola) {frame.loc['2 (parabola)', 'size']:.3g}, "
        f"2 (akima) {frame.loc['2 (akima)', 'size']:.3g}",
    )
    # A parabola over 1/8 to 8 times the optimum is off by 3.2 %, Akima by 1 %, a step of its grid
    assert frame["size"].to_numpy() == pytest.approx(float(N), rel=0.033)
    assert frame["tokens"].to_numpy() == pytest.approx(float(D), rel=0.033)
    assert frame["loss"].to_numpy() == pytest.approx(float(SURFACE.loss(N, D)), rel=1e-3)
    for exact in ("2 (slice)", "3 (parametric)"):
        assert frame.loc[exact, "size"] == pytest.approx(float(N), rel=1e-6)


def test_each_row_is_that_approach_s_fit():
    table = runs(noise=0.005)
    frame = rows(compared(noise=0.005))
    for approach, method in (("2 (parabola)", "parabola"), ("2 (akima)", "akima")):
        laws = fit_isoflop(table, method=method, n_draws=0).law().laws
        row = frame.loc[approach]
        assert row["a"] == pytest.approx(laws["n_params"].exponent)
        bounds = laws["n_params"].bounds("exponent")
        assert (row["a_lower"], row["a_upper"]) == pytest.approx(bounds)
        value = laws["n_params"].predict(1e21)
        sizes = row[["size", "size_lower", "size_upper"]].tolist()
        assert sizes == pytest.approx([float(v[0]) for v in value[:3]])
        assert row["tokens"] == pytest.approx(float(laws["n_tokens"].predict(1e21).value[0]))
        assert row["loss"] == pytest.approx(float(laws["loss"].predict(1e21).value[0]))
    fit = fit_parametric(table["n_params"], table["n_tokens"], table["loss"], n_draws=50)
    row = frame.loc["3 (parametric)"]
    assert row[["a", "a_lower", "a_upper"]].tolist() == pytest.approx(list(fit.exponents()["a"]))
    best = fit.optimum(1e21)
    assert row[["size", "size_lower", "size_upper"]].tolist() == pytest.approx(
        list(best["n_params"])
    )
    assert (row["tokens"], row["loss"]) == pytest.approx(
        (best["n_tokens"].value, best["loss"].value)
    )
    picked = table.loc[table.groupby("budget")["loss"].idxmin()]
    law = fit_power_law(picked["budget"], picked["n_params"])
    assert frame.loc["1 (best run)", "a"] == pytest.approx(law.exponent)


def test_the_window_and_noise_are_those_of_the_curves_on_the_same_page():
    table = runs(noise=0.005)
    frame = rows(compare_approaches(table, n_nearest=5, noise=0.01))
    law = (
        fit_isoflop(table, n_nearest=5, noise=0.01, method="parabola", n_draws=0)
        .law()
        .laws["n_params"]
    )
    assert frame.loc["2 (parabola)", "a"] == pytest.approx(law.exponent)
    assert frame.loc["2 (parabola)", "a"] != rows(compared(noise=0.005))["a"]["2 (parabola)"]


def test_the_size_is_the_one_asked_for():
    table = runs()
    table["n_active_params"] = table["n_params"] / 4
    found = compare_approaches(table, "n_active_params")
    assert found.x_name == "n_active_params"
    N = SURFACE.optimum(1e21)[0]
    assert rows(found)["size"].to_numpy() == pytest.approx(float(N) / 4, rel=0.033)
    # C = 24 N D of this size, which every run shares
    assert rows(found)["note"]["3 (parametric)"] == ""


def test_sizes_of_one_rank_have_no_interval():
    # Each grid is laid about the optimum, so that the fifth is always best: nothing is measured
    row = rows(compared()).loc["1 (best run)"]
    assert row[["a_lower", "a_upper", "size_lower", "size_upper"]].isna().all()
    assert row["note"].startswith("sizes of the grid only: no interval")
    noisy = rows(compared(noise=0.02)).loc["1 (best run)"]  # other ranks are best
    assert noisy["a_lower"] < noisy["a"] < noisy["a_upper"]
    assert "no interval" not in noisy["note"]


# FLOPs


def test_flops_per_param_and_token_by_hand():
    cells = pd.DataFrame(
        {"budget": [6e18, 6.6e18, 9e18], "n_params": 1e9, "n_tokens": [1e9, 1e9, 1e9]}
    )
    k, spread = flops_per_param_token(cells, "n_params")
    assert k == pytest.approx(6.6)
    assert spread == pytest.approx(9 / 6.6 - 1)
    assert flops_per_param_token(runs(), "n_params") == pytest.approx((6, 0))


@pytest.mark.parametrize(("factor", "said"), [(1.15, False), (1.5, True)])
def test_flops_that_are_not_k_n_d_are_reported(factor, said):
    table = runs()
    small = table["n_params"] < 1e8
    table["n_tokens"] = table["n_tokens"] / np.where(small, factor, 1.0)
    row = rows(compare_approaches(table)).loc["3 (parametric)"]
    assert ("C = kND is a poor stand-in" in row["note"]) == said
    if said:
        assert "varies by 50% about 6" in row["note"]
        assert row["status"] != "converged"


# Disputes


def test_exponents_whose_intervals_do_not_meet_are_reported():
    # Tokens that do not go with the budget: the surface sees other trade-offs than the curves
    table = runs(noise=1e-3)
    table["n_tokens"] = table["n_tokens"] * (table["budget"] / 1e19) ** 0.5
    found = compare_approaches(table)
    frame = rows(found)
    one, two = frame.loc["2 (parabola)"], frame.loc["3 (parametric)"]
    assert one["a_lower"] > two["a_upper"] or two["a_lower"] > one["a_upper"]
    assert (
        "dense: approaches 2 (parabola) and 3 (parametric) disagree on a beyond their intervals, "
        f"{one['a']:.3f} and {two['a']:.3f}"
    ) in found.warnings
    assert all(text in found.summary() for text in found.warnings)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_dispute(seed):
    frame = rows(compare_approaches(runs(noise=0.01, seed=seed), seed=seed))
    fitted = frame.loc[APPROACHES[1:]]
    assert fitted["a_lower"].max() <= fitted["a_upper"].min()


def test_models_do_not_dispute_with_each_other():
    dense = runs()
    moe = simulate_isoflop(ChinchillaSurface(alpha=0.5), BUDGETS, 9, span=8.0)
    found = compare_approaches(beside(dense, moe))
    assert [row["model"] for row in found.rows] == ["dense"] * 5 + ["moe"] * 5
    assert rows(found, "moe")["a"].to_numpy() == pytest.approx(0.28 / 0.78, rel=1e-6)
    assert [text.partition(" by approach")[0] for text in found.warnings] == [
        f"{model}: the best n_params is {rows(found, model).loc['2 (slice)', 'size']:.3g}"
        for model in ("dense", "moe")
    ]


# What can't be fitted


def beside(first, other):
    """A table of two models; the other, moe, has its own runs."""
    other = other.assign(model="moe", series="moe", run_id=None)
    return pd.concat([first, other], ignore_index=True)


def test_without_tokens_a_row_says_why():
    frame = rows(compare_approaches(runs().assign(n_tokens=np.nan)))
    row, others = frame.loc["3 (parametric)"], frame.loc[APPROACHES[:4]]
    assert row["status"] == "no fit"
    assert row["note"].startswith("the surface needs n_tokens")
    assert "np.float64" not in row["note"]
    assert "failed runs" not in row["note"]
    assert math.isnan(row["a"])
    assert others["a"].to_numpy() == pytest.approx(SURFACE.exponent, rel=1e-6)
    assert others["tokens"].isna().all()


def test_without_curves_the_surface_is_left_and_a_model_s_reason_is_its_own():
    two = runs(n_sizes=2)  # sizes a budget: no parabola, yet ten runs
    found = compare_approaches(beside(two, two))
    for model, other in (("dense", "moe"), ("moe", "dense")):
        frame = rows(found, model)
        for approach in ("2 (parabola)", "2 (akima)"):
            row = frame.loc[approach]
            assert row["status"] == "no fit"
            reason = f"no curve to fit: {model}: 5 budgets with two sizes each"
            assert row["note"].startswith(reason)
            assert other not in row["note"]
        assert frame.loc["3 (parametric)", "a"] == pytest.approx(SURFACE.exponent, rel=1e-3)


def test_a_model_with_one_budget_has_rows_that_say_so():
    late = runs()[lambda table: table["budget"] == 1e21]
    frame = rows(compare_approaches(beside(runs(), late)), "moe")
    assert (frame.loc[APPROACHES[:3], "status"] == "no fit").all()
    assert "1 distinct budgets" in frame.loc["1 (best run)", "note"]


@pytest.mark.parametrize(
    ("table", "x", "message"),
    [
        (lambda: runs(1), "n_params", r"1 budget.* needs 2 or more"),
        (lambda: runs().assign(budget=np.nan), "n_params", r"0 budgets.* needs 2 or more"),
        (runs, "n_tokens", "x='n_tokens': the approaches are compared in a size"),
        (runs, "size", "x='size' is not one of n_params"),
        (runs, "loss", "x='loss' is not one of n_params"),
    ],
)
def test_what_can_not_be_compared_is_refused(table, x, message):
    kind = FitError if "budget" in message else ValueError
    with pytest.raises(kind, match=message):
        compare_approaches(table(), x)


def test_a_model_without_the_largest_budget_is_compared_all_the_same():
    dense = runs()
    early = dense[dense["budget"] < 1e21]
    found = compare_approaches(beside(dense, early))
    frame = rows(found, "moe")
    assert frame["a"].to_numpy() == pytest.approx(SURFACE.exponent, rel=1e-6)
    last = early[early["budget"] == BUDGETS[3]]
    assert frame.loc["1 (best run)", "loss"] == last["loss"].min()
    assert "at C=1e+20, the largest that this model has" in frame.loc["1 (best run)", "note"]
    at = found.budget  # the laws' are at the table's largest
    best = fit_isoflop(early, method="parabola", n_draws=0).law().laws["n_params"].predict(at)
    assert at == 1e21
    assert frame.loc["2 (parabola)", "size"] == pytest.approx(float(best.value[0]))


def test_the_best_run_is_one_run_whatever_its_seed():
    table = runs(noise=0.003).assign(lr=1e-3)
    table["seed"] = pd.array(range(len(table)), dtype="Int64")  # a seed a run
    row = rows(compare_approaches(table)).loc["1 (best run)"]
    assert row["loss"] == table.loc[table["budget"] == 1e21, "loss"].min()


def test_failed_runs_and_worse_learning_rates_do_not_count():
    table = runs(noise=0.003).assign(lr=1e-3)
    worse = table.assign(lr=2e-3, loss=table["loss"] + 0.5, run_id=None)
    failed = table.assign(lr=4e-3, loss=0.1, budget=1e22, status="failed", run_id=None)
    found = compare_approaches(pd.concat([worse, table, failed], ignore_index=True))
    alone = compare_approaches(table)
    assert found.budget == alone.budget
    numbers = ["a", "size", "tokens", "loss"]
    pd.testing.assert_frame_equal(found.to_frame()[numbers], alone.to_frame()[numbers])


# As a result


def test_it_is_a_table_and_plain():
    found = compare_approaches(runs(2, noise=0.003).assign(n_tokens=np.nan))
    assert list(found.to_frame()["approach"]) == APPROACHES
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["budget"] == BUDGETS[1]
    assert values["rows"][0]["a_lower"] is None  # two budgets: a line through both
    assert values["rows"][1]["a"] == found.rows[1]["a"]
    text = found.summary()
    assert text.startswith("n_params* ~ C^a; n_params*, tokens* and loss* at C=1e+18")
    assert all(approach in text for approach in APPROACHES)
