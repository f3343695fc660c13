"""Fits recover what made the data; others have warnings."""

import json
import math
from functools import partial

import numpy as np
import pytest
from scipy import stats

from analysis.fitting.status import FitError, FitStatus
from analysis.isoflop.akima import akima_minimum
from analysis.isoflop.brief import brief
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.flags import Flag
from analysis.isoflop.resample import nearest
from analysis.isoflop.shape import fit_parabola
from tests.analysis.tables import (
    BUDGETS,
    SIZES,
    curves,
    growing,
    joined,
    moving,
    noisy,
    parabola,
)

FEW = {"n_draws": 5}  # where the bootstraps are not what is tested
fit_parabolas = partial(fit_isoflop, method="parabola")


def test_recovers_a_clean_parabola():
    fit = fit_parabolas(curves(parabola))
    (curve,) = fit.curves
    assert fit.status is curve.status is FitStatus.CONVERGED
    assert curve.warnings == curve.flags == fit.warnings == ()
    assert curve.x_opt == pytest.approx(3e5, rel=1e-9)
    assert curve.loss_opt == pytest.approx(4.5, rel=1e-12)
    assert curve.a == pytest.approx(0.05, rel=1e-9)
    assert curve.rmse < 1e-12
    assert curve.inside
    assert (curve.x_min, curve.x_max) == pytest.approx((5e4, 2e6))
    np.testing.assert_allclose(curve.loss(SIZES), [parabola(s) for s in SIZES])
    np.testing.assert_allclose(curve.loss([1e3, 1e8]), [parabola(1e3), parabola(1e8)])


def test_fits_models_and_budgets_apart():
    both = joined(moving(model="dense"), moving(lambda s, b: growing(s, b) + 0.1, model="peer"))
    both["series"] = both["model"]
    fit = fit_parabolas(both, **FEW)
    found = {(c.model, c.budget): c.x_opt for c in fit.curves}
    expected = {(m, C): 3e5 * (C / 1e12) ** 0.5 for m in ("dense", "peer") for C in BUDGETS}
    assert found == pytest.approx(expected)
    assert fit.status is FitStatus.CONVERGED
    assert [law.model for law in fit.laws] == ["dense", "peer"]
    for name in ("dense", "peer"):
        assert fit.law(name).laws["n_params"].exponent == pytest.approx(0.5)
        assert name in fit.summary()
    gap = fit.frontier("peer")[1] - fit.frontier("dense")[1]
    np.testing.assert_allclose(gap, 0.1, rtol=1e-9)
    with pytest.raises(ValueError, match=r"must name one whose laws were fitted: dense, peer"):
        fit.law()
    with pytest.raises(ValueError, match=r"model='moe' must name one .*: dense, peer"):
        fit.law("moe")
    with pytest.raises(ValueError, match=r"model='moe' has no minimum inside.* dense, peer have"):
        fit.frontier("moe")


def raised(by, **columns):
    return curves(lambda size, budget: parabola(size) + by, **columns)


@pytest.mark.parametrize(
    ("one", "other", "lowest"),
    [
        (raised(1, lr=1e-3), raised(0, lr=2e-3), 4.5),  # of rates the best, never the mean
        (raised(0.1, lr=1e-3, seed=0), raised(0.3, lr=1e-3, seed=1), 4.7),
        (raised(0), raised(-1, status="failed"), 4.5),
        (raised(0), raised(-1, status="diverged"), 4.5),
    ],
)
def test_a_size_s_runs_are_one_point(one, other, lowest):
    (curve,) = fit_parabolas(joined(one, other), **FEW).curves
    assert curve.n_points == len(SIZES)
    assert curve.loss_opt == pytest.approx(lowest)


def wavy(size, budget=1e12):
    return parabola(size, a=0.0005) + 0.01 * math.sin(7 * math.log(size))


@pytest.mark.parametrize(
    ("losses_of", "sizes", "flag", "says"),
    [
        (parabola, SIZES[1:6:2], Flag.FEW_POINTS, "3 sizes: no residual"),
        (lambda s, b: parabola(s, a=-0.05), SIZES, Flag.WRONG_CURVATURE, "opens downwards"),
        (wavy, SIZES, Flag.WEAK_CURVATURE, "the minimum may be anywhere"),
        (lambda s, b: parabola(s, x_opt=1e4), SIZES, Flag.OUTSIDE, "outside the sizes tried"),
        (lambda s, b: parabola(s, x_opt=5.5e4), SIZES, Flag.EDGE, "the smallest size is the best"),
        (lambda s, b: parabola(s, x_opt=1.9e6), SIZES, Flag.EDGE, "the largest size is the best"),
        (lambda s, b: parabola(s, x_opt=8e4), SIZES, Flag.OFF_CENTRE, "one size only is smaller"),
        (
            lambda s, b: parabola(s) + (0.015 if s == SIZES[4] else 0),
            SIZES,
            Flag.OUTLIER,
            "nats off the rest",
        ),
    ],
)
def test_warnings_are_reported(losses_of, sizes, flag, says):
    fit = fit_parabolas(curves(losses_of, sizes), **FEW)
    (curve,) = fit.curves
    assert fit.status is curve.status is FitStatus.WARNING
    assert flag in curve.flags
    assert says in "; ".join(curve.warnings)
    assert f"dense at C=1e+12: {curve.warnings[0]}" in fit.warnings
    assert "WARNING" in fit.summary()
    assert str(flag) in json.dumps(fit.to_dict(), allow_nan=False)


@pytest.mark.parametrize("level", [2.2, 3.3, 4.1, 4.5])
@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_a_flat_curve_has_no_minimum(method, level):
    (curve,) = fit_isoflop(curves(lambda s, b: level), method=method, **FEW).curves
    assert curve.status is FitStatus.WARNING
    assert not curve.inside


@pytest.mark.parametrize("x_opt", [1e4, 1e8])
@pytest.mark.parametrize("method", ["slice", "parabola", "akima"])
def test_a_minimum_beyond_the_sizes_is_told_as_none(method, x_opt):
    fit = fit_isoflop(curves(lambda s, b: parabola(s, x_opt=x_opt)), method=method, **FEW)
    (curve,) = fit.curves
    none = f"n_params*: no minimum within {SIZES[0]:.3g} to {SIZES[-1]:.3g}"
    assert none in curve.summary()
    assert "n_params*=" not in curve.summary()
    assert fit.to_frame()[["n_params*", "loss*", "perplexity"]].isna().all(axis=None)
    assert brief(fit).count(" - ") == 3


def test_curvature_lost_in_noise_leaves_the_interval_unbounded():
    (curve,) = fit_parabolas(curves(wavy), **FEW).curves
    assert curve.x_interval == (0.0, math.inf)
    assert curve.conf_int().loc["x_opt"].tolist() == [0.0, math.inf]
    assert curve.to_dict()["x_interval"] == [0.0, None]


def test_too_few_sizes_are_skipped_or_refused():
    few = curves(parabola, SIZES[:2], model="peer")
    fit = fit_parabolas(joined(curves(parabola), few), **FEW)
    assert fit.skipped == ("peer at C=1e+12: 2 sizes, and a curve needs 3",)
    assert fit.status is FitStatus.WARNING
    assert "skipped: peer" in fit.summary()
    with pytest.raises(FitError, match="no curve to fit: peer at C=1e"):
        fit_parabolas(few)
    with pytest.raises(FitError, match="2 sizes, and a curve needs 3"):  # seeds are no sizes
        fit_parabolas(joined(*(few.assign(seed=k) for k in range(5))))
    with pytest.raises(ValueError, match="no finished run"):
        fit_parabolas(curves(parabola, status="failed"))


def test_three_sizes_have_a_minimum_without_an_interval_and_say_what_gives_one():
    three = SIZES[1:6:2]
    both = joined(*(curves(parabola, three, model=m) for m in ("dense", "peer")))
    fit = fit_isoflop(both)
    assert all(curve.inside for curve in fit.curves)
    assert "(no interval)" in fit.curves[0].summary()
    said = brief(fit)
    assert "by 0.000 (no interval); 4 sizes or more give one." in said
    assert "nan" not in said + fit.summary()
    more = joined(*(curves(parabola, SIZES[1:6], model=m) for m in ("dense", "peer")))
    assert "no interval" not in brief(fit_isoflop(more))


def test_runs_of_one_size_a_budget_are_told_what_to_add():
    with pytest.raises(FitError, match=r"; add runs of other sizes at the same budget$"):
        fit_isoflop(curves(parabola, SIZES[:1], [1e12, 4e12]))


@pytest.mark.parametrize("method", ["slice", "parabola", "akima"])
def test_sizes_that_differ_by_rounding_are_one_size(method):
    twice = [size * factor for size in SIZES[:2] for factor in (1, 1 + 1e-9)]
    with pytest.raises(FitError, match="2 sizes, and a curve needs 3"):
        fit_isoflop(curves(parabola, twice), method=method, **FEW)


def test_many_curves_of_one_size_are_one_line():
    budgets = [1e12 * 1.05**k for k in range(85)]
    single = curves(parabola, SIZES[:1], budgets, model="peer")
    fit = fit_isoflop(joined(curves(parabola), single), **FEW)
    assert fit.skipped == (
        "peer: 85 budgets with one size each are left out, and a curve needs 3: C=1e+12, "
        "C=1.05e+12, C=1.102e+12, and 82 more; budgets=[6e+18, 1e+19] or budget_tolerance=0.05 "
        "joins those that are one budget",
    )
    assert fit.summary().count("one size") == fit.summary().count("skipped: ") == 1
    assert fit.only("dense").skipped == ()
    assert fit.only("peer").skipped == fit.skipped
    with pytest.raises(FitError, match=r"no curve to fit: 4 budgets of 4 models .* series="):
        fit_isoflop(joined(*(curves(parabola, SIZES[:1], model=f"m{k}") for k in range(4))))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"x": "loss"}, "x='loss' is not one of n_params"),
        ({"method": "cubic"}, "method='cubic' is not one of slice, parabola, akima"),
        ({"n_nearest": 2}, "n_nearest=2 must be 3 or more"),
        ({"noise": 0.0}, "noise=0.0 must be finite and above 0"),
        ({"noise": -0.1}, "noise=-0.1 must be finite and above 0"),
        ({"noise": math.nan}, "noise=nan must be finite and above 0"),
        ({"noise": math.inf}, "noise=inf must be finite and above 0"),
        ({"x": "n_non_embedding_params"}, "needs n_non_embedding_params: the table has none"),
    ],
)
def test_bad_options_are_named(how, says):
    with pytest.raises(ValueError, match=says):
        fit_parabolas(curves(parabola), **how)


def test_n_nearest_fits_those_sizes_only():
    table = noisy(curves(parabola), 0.02)
    for n in (3, 5, 6):
        (curve,) = fit_parabolas(table, n_nearest=n, **FEW).curves
        losses = table["loss"].to_numpy()
        keep = nearest(np.log(SIZES), losses, n)
        alone = fit_parabola(np.log(SIZES[keep]), losses[keep])
        assert curve.n_points == n
        np.testing.assert_allclose(curve.sizes, SIZES[keep])
        assert np.log(curve.x_opt) == pytest.approx(alone.u_opt, rel=1e-12)
    assert (Flag.FEW_POINTS in fit_parabolas(table, n_nearest=3, **FEW).curves[0].flags) is True


def test_akima_reads_the_lowest_of_its_grid():
    table = noisy(curves(parabola), 0.01)
    (curve,) = fit_isoflop(table, method="akima", n_draws=50).curves
    u, loss, at_end = akima_minimum(np.log(SIZES), table["loss"].to_numpy()[None])
    assert np.log(curve.x_opt) == pytest.approx(u[0], rel=1e-12)
    assert (curve.loss_opt, curve.inside) == (pytest.approx(loss[0]), not at_end[0])
    np.testing.assert_allclose(curve.loss(SIZES), table["loss"], rtol=1e-12)
    assert np.isnan(curve.loss([1e3, 1e8])).all()
    assert curve.x_interval[0] < curve.x_opt < curve.x_interval[1]


def test_the_noise_is_a_curves_own_or_that_of_the_models_curves():
    sizes = {b: SIZES * (b / 1e12) ** 0.5 for b in BUDGETS[:3]}
    table = noisy(joined(*(curves(growing, sizes[b], (b,)) for b in BUDGETS[:3])), 0.01)
    for curve in fit_parabolas(table, **FEW).curves:  # 7 sizes, 4 degrees of freedom
        assert curve.noise == pytest.approx(curve.rmse * np.sqrt(7 / 4))
    five = table[table["n_params"].isin(np.concatenate([s[1:6] for s in sizes.values()]))]
    pooled = fit_parabolas(five, **FEW).curves
    squares = sum(5 * c.rmse**2 for c in pooled)
    assert [c.n_points for c in pooled] == [5] * 3
    assert [c.noise for c in pooled] == pytest.approx([np.sqrt(squares / (3 * 2))] * 3)
    other = five.assign(series="other", loss=five["loss"] + 0.3 * np.cos(9 * np.arange(15)))
    again = fit_parabolas(joined(five, other), **FEW).curves  # a model's noise is no other's
    assert again[0].noise == pytest.approx(pooled[0].noise)


def test_intervals_are_fiellers_by_the_noise_that_is_told():
    table = noisy(curves(parabola), 0.01)
    u, losses = np.log(SIZES), table["loss"].to_numpy()
    own = fit_parabola(u, losses)
    for noise, sd, t in (
        (None, own.rmse * np.sqrt(7 / 4), stats.t.ppf(0.975, 4)),
        (0.004, 0.004, stats.norm.ppf(0.975)),
    ):
        (curve,) = fit_parabolas(table, noise=noise, **FEW).curves
        # 1e-4: a given noise has a million degrees of freedom, not infinitely many
        assert np.log(curve.x_interval) == pytest.approx(own.u_interval(sd, t), rel=1e-4)
        assert curve.loss_interval == pytest.approx(own.loss_interval(sd, t), rel=1e-4)
        bounds = curve.conf_int()
        assert tuple(bounds.loc["x_opt"]) == curve.x_interval
        assert tuple(bounds.loc["loss_opt"]) == curve.loss_interval
        assert curve.params == {"x_opt": curve.x_opt, "loss_opt": curve.loss_opt}


def test_the_other_sizes_are_read_along_the_curve():
    table = curves(parabola)
    table["n_active_params"] = table["n_params"] / 2
    table["n_non_embedding_params"] = table["n_params"] - 2e4
    (curve,) = fit_parabolas(table, **FEW).curves
    at = curve.at_optimum
    assert at["n_tokens"] == pytest.approx(1e12 / (6 * curve.x_opt), rel=1e-9)  # linear in logs
    assert at["n_active_params"] == pytest.approx(curve.x_opt / 2, rel=1e-9)
    by_hand = np.interp(np.log(curve.x_opt), np.log(SIZES), np.log(SIZES - 2e4))
    assert at["n_non_embedding_params"] == pytest.approx(np.exp(by_hand), rel=1e-12)
    assert "n_params" not in at
    unknown = table.assign(n_tokens=table["n_tokens"].where(table["n_params"] > 6e4))
    assert "n_tokens" not in fit_parabolas(unknown, **FEW).curves[0].at_optimum
    outside = fit_parabolas(table.assign(loss=[parabola(s, x_opt=1e4) for s in SIZES]), **FEW)
    assert np.isnan(list(outside.curves[0].at_optimum.values())).all()


@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_json_keeps_every_digit_of_curves_and_laws(method):
    fit = fit_isoflop(noisy(moving(), 0.01), method=method, n_draws=20)
    back = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
    for there, here in zip(back["curves"], fit.curves, strict=True):
        for name in ("x_opt", "loss_opt", "a"):
            assert there[name] == getattr(here, name)
        for name in ("x_interval", "sizes"):
            assert tuple(there[name]) == getattr(here, name)
        # numpy's exp and the C library's may differ in the last bit
        assert there["perplexity_opt"] == pytest.approx(math.exp(here.loss_opt), rel=1e-15)
        assert there["flags"] == [str(flag) for flag in here.flags]
    laws = back["laws"][0]
    assert laws["laws"]["loss"]["params"] == fit.law().loss.params
    t = fit.law().exponents["n_params"]["t"]
    assert laws["exponents"]["n_params"]["t"] == t._asdict()


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("column", ["budget", "n_non_embedding_params"])
def test_what_is_unknown_of_runs_is_named(column, n):
    table = curves(parabola)
    table["n_non_embedding_params"] = SIZES - 2e4
    table.loc[: n - 1, column] = np.nan
    with pytest.raises(ValueError, match=f"fit_isoflop needs {column}: "):
        fit_parabolas(table, x="n_non_embedding_params")


def test_no_draws_leave_the_other_intervals():
    law = fit_parabolas(noisy(moving(), 0.005), n_draws=0).law()
    t, case = law.exponents["n_params"]["t"], law.exponents["n_params"]["case"]
    assert t.lower < t.value < t.upper
    assert np.isnan([case.lower, case.upper]).all()


def test_akimas_interval_holds_its_own_minimum():
    table = curves(lambda s, b: 4.5 + 0.001 * math.sin(3 * math.log(s)))
    (curve,) = fit_isoflop(table, method="akima", n_draws=50).curves
    assert curve.x_interval[0] < curve.x_opt < curve.x_interval[1]
    (curve,) = fit_isoflop(noisy(curves(parabola), 1e-5), method="akima", n_draws=50).curves
    assert curve.x_interval[0] <= 3e5 <= curve.x_interval[1]  # no narrower than its grid


def test_akima_names_no_best_size_where_all_are_as_good():
    """The lowest point of its grid is then the first, and nothing is known of what is beyond."""
    (curve,) = fit_isoflop(curves(lambda s, b: 4.5), method="akima", n_draws=50).curves
    assert math.isnan(curve.x_opt)
    assert "the smallest size is the best: try beyond it" in curve.warnings


@pytest.mark.parametrize("pair", [(0, 1), (-2, -1)])
@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_a_minimum_between_the_outermost_two_sizes_is_inside(pair, method):
    best = math.sqrt(SIZES[pair[0]] * SIZES[pair[1]])
    (curve,) = fit_parabolas(
        curves(lambda s, b: parabola(s, x_opt=best)), method=method, **FEW
    ).curves
    assert curve.x_opt == pytest.approx(best, rel=1e-9 if method == "parabola" else 0.03)
    assert curve.inside
    assert curve.at_optimum["n_tokens"] == pytest.approx(1e12 / 6 / curve.x_opt, rel=1e-9)
