"""Skewed curves against a slow optimizer and integrals by hand, and what they say of few runs."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.flags import Flag
from analysis.isoflop.resample import resampled_slices
from analysis.isoflop.shape import Shape, columns, lowest
from analysis.isoflop.slices import EXPONENTS, fit_slices
from analysis.table.load import check_table
from tests.analysis.tables import HOFFMANN, around_the_optimum, best_size, noisy, surface

BUDGETS = np.geomspace(1e18, 1e20, 5)


def runs(factor=16.0, budgets=BUDGETS, n_sizes=7, law=HOFFMANN):
    C, N, D = around_the_optimum(budgets, n_sizes, factor, law)
    columns = {"model": "dense", "budget": C, "n_params": N, "n_tokens": D, "status": "done"}
    return check_table(pd.DataFrame(columns).assign(loss=surface(N, D, **law)))


def by_hand(v, alpha, beta):
    """Columns as they are defined, in extended precision."""
    v, a, b = (np.longdouble(value) for value in (v, alpha, beta))
    up, down = np.exp(b * v), np.exp(-a * v)
    q = 2 * (a * up + b * down - a - b) / (a * b * (a + b))
    return np.stack([q, (up - down) / (a + b), np.ones_like(v)], axis=1)


@pytest.mark.parametrize(("alpha", "beta"), [(0.34, 0.28), (0.01, 0.01), (1.5, 0.01), (0.64, 0.4)])
def test_the_columns_are_as_defined_and_near_a_parabola_s_for_small_exponents(alpha, beta):
    v = np.linspace(-3, 3, 13)
    found = columns(v, np.array([alpha]), np.array([beta]))[0]
    # 1e-9: at exponents of .01 six digits cancel in float64
    np.testing.assert_allclose(found, by_hand(v, alpha, beta), rtol=1e-9, atol=1e-9)
    tiny = columns(v, np.array([1e-3]), np.array([1e-3]))[0]
    np.testing.assert_allclose(tiny, np.stack([v**2, v, v**0], axis=1), atol=1e-4)


def test_the_lowest_point_is_where_a_grid_has_it():
    a, slope, alpha, beta = 0.05, -0.08, 0.64, 0.4
    v = np.linspace(-4, 4, 800_001)
    at = v[(by_hand(v, alpha, beta) @ [a, slope, 0]).argmin()]
    given = [np.array([value]) for value in (a, slope, alpha, beta)]
    assert lowest(*given)[0] == pytest.approx(at, abs=2e-5)  # two steps of the grid
    shape = Shape(
        centre=15.0, a=a, slope=slope, level=4.0, alpha=alpha, beta=beta, unscaled=np.eye(3)
    )
    assert shape.u_opt == pytest.approx(15 + at, abs=2e-5)
    assert shape.loss_opt == pytest.approx(float(shape.loss(np.array([15 + at]))[0]), abs=1e-9)
    falls, rises, upside_down = (
        lowest(*(np.array([value]) for value in (a, slope, alpha, beta)))[0]
        for a, slope in ((0.05, -1.0), (0.05, 1.0), (-0.05, 0.0))
    )
    assert (falls, rises) == (np.inf, -np.inf)
    assert np.isnan(upside_down)


def test_a_clean_surface_comes_back():
    fit = fit_isoflop(runs(), n_draws=50)
    truth = best_size(BUDGETS, **HOFFMANN)
    assert fit.warnings == ()
    for curve, N in zip(fit.curves, truth, strict=True):
        assert (curve.alpha, curve.beta) == pytest.approx((0.34, 0.28), rel=1e-6)
        assert curve.x_opt == pytest.approx(N, rel=1e-6)
        D = curve.budget / 6 / N
        assert curve.loss_opt == pytest.approx(surface(N, D, **HOFFMANN), rel=1e-9)
        assert float(curve.loss(N)) == pytest.approx(curve.loss_opt, rel=1e-9)
    law = fit.law().laws
    assert law["n_params"].exponent == pytest.approx(0.28 / 0.62, rel=1e-6)
    assert law["loss"].params["E"] == pytest.approx(1.69, rel=1e-5)


@pytest.mark.parametrize(("noise", "dof"), [(None, 6), ((0.015, 4), 4)])
def test_a_curve_s_numbers_are_drawn_by_the_noise_s_f_distribution(noise, dof):
    """About the best at a draw's own exponents: squared distances over three times the variance,
    which is that of the scatter at these exponents (12 runs, 2 curves of three numbers), or known.
    """
    table = noisy(runs(budgets=BUDGETS[:2], n_sizes=6), 0.02, seed=3)
    u = [np.log(one["n_params"].to_numpy()) for _, one in table.groupby("budget")]
    losses = [one["loss"].to_numpy() for _, one in table.groupby("budget")]
    fit = fit_slices(u, losses, noise, 1000, np.random.default_rng(1))
    ratios = []
    for alpha, beta, *drawn in fit.slices[0].draws:
        designs = [by_hand(places - places.mean(), alpha, beta).astype(float) for places in u]
        found = [
            np.linalg.lstsq(X, values, rcond=None)
            for X, values in zip(designs, losses, strict=True)
        ]
        squares = found[0][1][0] + found[1][1][0]
        away = designs[0] @ (np.array(drawn) - found[0][0])
        ratios.append(away @ away / (3 * (squares / 6 if noise is None else noise[0] ** 2)))
    # of 1,000 draws: a p below 1e-3 by chance once in a thousand
    assert stats.kstest(ratios, stats.f(3, dof).cdf).pvalue > 1e-3


@pytest.mark.parametrize("noise", [None, (0.006, 4)])
def test_the_weights_are_those_of_an_integral_over_exponents(noise):
    """Mean exponents and a minimum's distribution on a fine grid, written out. noise: the runs'
    own scatter, or a known standard deviation from so many degrees of freedom.
    """
    table = noisy(runs(budgets=BUDGETS[:2], n_sizes=6), 0.02, seed=3)
    u = [np.log(one["n_params"].to_numpy()) for _, one in table.groupby("budget")]
    losses = [one["loss"].to_numpy() for _, one in table.groupby("budget")]
    side = np.linspace(*EXPONENTS, 61)
    weights, alphas, betas, minima = [], [], [], []
    rng = np.random.default_rng(0)
    for alpha in side:
        for beta in side:
            squares, found = 0.0, None
            for k, (places, values) in enumerate(zip(u, losses, strict=True)):
                X = by_hand(places - places.mean(), alpha, beta).astype(float)
                best, squares_of, *_ = np.linalg.lstsq(X, values, rcond=None)
                squares += squares_of[0]
                found = (best, np.linalg.inv(X.T @ X)) if k == 0 else found
            if noise is None:  # 12 runs, three numbers of each curve
                weights.append(squares ** (-6 / 2))
            else:
                weights.append(np.exp(-squares / (2 * noise[0] ** 2)))
            alphas.append(alpha)
            betas.append(beta)
            best, inverse = found
            if noise is None:
                scale = np.sqrt(squares / rng.chisquare(6, 40))
            else:
                scale = noise[0] * np.sqrt(noise[1] / rng.chisquare(noise[1], 40))
            drawn = best + scale[:, None] * rng.multivariate_normal(np.zeros(3), inverse, 40)
            exponents = np.full(40, alpha), np.full(40, beta)
            minima.append(u[0].mean() + lowest(drawn[:, 0], drawn[:, 1], *exponents))
    weights = np.array(weights) / np.sum(weights)
    fit = fit_slices(u, losses, noise, 4000, np.random.default_rng(1))
    shape = fit.slices[0].shape
    spread = np.sqrt(weights @ np.square(alphas) - (weights @ alphas) ** 2)
    assert fit.slices[0].draws[:, 0].std() == pytest.approx(spread, rel=0.06)
    # 0.02: 16 nodes a side beside 61
    assert shape.alpha == pytest.approx(weights @ alphas, abs=0.02)
    assert shape.beta == pytest.approx(weights @ betas, abs=0.02)
    order = np.argsort(np.concatenate(minima), kind="stable")
    share = np.cumsum(np.repeat(weights / 40, 40)[order])
    for level in (0.05, 0.5, 0.95):
        expected = np.concatenate(minima)[order][np.searchsorted(share, level)]
        found = np.quantile(fit.slices[0].u, level, method="nearest")
        # The width is 0.9; draws of both sides, and the grid
        assert found == pytest.approx(expected, abs=0.04)


def test_many_runs_tell_the_exponents_as_an_optimizer_does():
    table = noisy(runs(n_sizes=40), 0.002, seed=1)
    groups = [
        (np.log(g["n_params"].to_numpy()), g["loss"].to_numpy()) for _, g in table.groupby("budget")
    ]

    def squares(theta):
        total = 0.0
        for u, losses in groups:
            X = np.stack([np.exp(-theta[0] * u), np.exp(theta[1] * u), np.ones_like(u)], axis=1)
            X = X / np.abs(X).max(axis=0)
            total += np.linalg.lstsq(X, losses, rcond=None)[1][0]
        return total

    best = optimize.minimize(squares, [0.3, 0.3], method="Nelder-Mead", options={"xatol": 1e-5})
    curve = fit_isoflop(table, n_draws=0).curves[0]
    # A third of their standard errors, 0.006: here all curves have one noise
    assert (curve.alpha, curve.beta) == pytest.approx(tuple(best.x), abs=2e-3)
    one = np.sqrt(best.fun / (5 * 37 - 2))
    # a curve's own, of 37 degrees of freedom, is within 12 % (one standard error) of it
    assert curve.noise == pytest.approx(one, rel=0.12)


@pytest.mark.night
def test_a_known_noise_gives_normal_errors():
    table = noisy(runs(4.0), 0.01, seed=2)
    told, own = (fit_isoflop(table, noise=noise, n_draws=2000).curves[2] for noise in (0.01, None))
    assert (told.noise, told.dof) == (0.01, 1_000_000)
    assert 4 < own.dof <= 5 * 4 - 2  # its own, and a part of the others'
    for curve in (told, own):
        t = stats.t.ppf(0.975, curve.dof)
        low, high = curve.loss_interval
        by_shape = curve._shape.loss_interval(curve.noise, t)
        # 6 %: draws, and the exponents' share of the error; own: the degrees of freedom's too
        assert high - low == pytest.approx(by_shape[1] - by_shape[0], rel=0.06)


def test_intervals_of_all_levels_are_of_the_same_draws():
    curve = fit_isoflop(noisy(runs(), 0.01), n_draws=400).curves[0]
    assert tuple(curve.conf_int().loc["x_opt"]) == curve.x_interval
    assert tuple(curve.conf_int(0.95 + 1e-12).loc["x_opt"]) == pytest.approx(curve.x_interval)
    inner = curve.conf_int(0.5).loc["x_opt"]
    assert curve.x_interval[0] < inner["lower"] < curve.x_opt < inner["upper"] < curve.x_interval[1]
    at = curve.predict([curve.x_opt, curve.x_max], level=0.9)
    assert np.all((at.lower < at.value) & (at.value < at.upper))
    v = np.log([curve.x_max]) - curve.centre
    by_rows = [by_hand(v, d[0], d[1])[0] @ d[2:] for d in curve.draws]
    assert float(at.upper[1]) == pytest.approx(float(np.quantile(by_rows, 0.95)))


def test_few_sizes_still_have_a_curve_whose_noise_is_a_parabola_s():
    five = noisy(runs(4.0, BUDGETS[:1], 5), 0.005)
    (curve,) = fit_isoflop(five, n_draws=200).curves
    assert curve.dof == 2
    assert curve.x_interval[0] < curve.x_opt < curve.x_interval[1]
    (three,) = fit_isoflop(runs(4.0, BUDGETS[:1], 3), n_draws=200).curves
    assert Flag.FEW_POINTS in three.flags
    assert np.isnan(three.x_interval).all()
    assert len(three.draws) == 0
    np.testing.assert_allclose(three.loss(three.sizes), three.losses, rtol=1e-9)
    assert json.dumps(three.to_dict(), allow_nan=False)


def test_losses_that_only_fall_have_no_minimum():
    falling = runs(4.0).assign(loss=lambda t: 9 - 0.3 * np.log(t["n_params"]))
    fit = fit_isoflop(falling, n_draws=50)
    assert not any(curve.inside for curve in fit.curves)
    assert fit.laws == ()
    upside_down = runs(4.0).assign(loss=lambda t: 9 - t["loss"])
    for curve in fit_isoflop(upside_down, n_draws=50).curves:
        assert Flag.WRONG_CURVATURE in curve.flags
        assert np.isnan(curve.x_opt)


def test_curvature_lost_in_noise_leaves_the_interval_unbounded():
    (curve, *_) = fit_isoflop(noisy(runs(2.0), 0.2), n_draws=400).curves
    assert np.isinf(curve.x_interval[1]) or curve.x_interval[0] == 0
    assert Flag.WEAK_CURVATURE in curve.flags


@pytest.mark.night
def test_the_law_s_interval_has_what_all_curves_share():
    """Covariance of the law's slope by hand: the scatter's, and that of common errors."""
    fit = fit_isoflop(noisy(runs(4.0), 0.02, seed=5), n_draws=2000)
    law = fit.law().laws["n_params"]
    x = np.log(BUDGETS)
    y = np.log([curve.x_opt for curve in fit.curves])
    line = stats.linregress(x, y)
    scatter = line.stderr**2
    assert law.exponent == pytest.approx(line.slope)
    assert law.covariance[1][1] > scatter
    plain = stats.t.ppf(0.975, 3) * np.sqrt(scatter)
    low, high = law.bounds("exponent")
    assert (high - low) / 2 > plain
    assert "the error that the points share" in law.interval


def test_runs_drawn_again_are_fitted_at_the_curve_s_exponents():
    one = noisy(runs(8.0, BUDGETS[:1]), 0.01, seed=4)
    curve = fit_isoflop(noisy(runs(8.0), 0.01, seed=4), n_draws=20).curves[0]
    u, losses = np.log(one["n_params"].to_numpy()), np.array(curve.losses)
    counts = np.random.default_rng(0).multinomial(7, np.full(7, 1 / 7), size=100).astype(float)
    exponents = curve.alpha, curve.beta
    places, values = resampled_slices(u, losses, counts, *exponents)
    assert np.isfinite(places).sum() > 60
    for place, value, count in zip(places, values, counts, strict=True):
        X = by_hand(u - u.mean(), *exponents).astype(float)
        weighted = np.sqrt(count)[:, None] * X
        if (count > 0).sum() < 3:
            assert np.isnan(place)
            continue
        best = np.linalg.lstsq(weighted, np.sqrt(count) * losses, rcond=None)[0]
        v = np.linspace(u[0] - u.mean(), u[-1] - u.mean(), 20_001)
        curve_of = by_hand(v, *exponents).astype(float) @ best
        at = curve_of.argmin()
        if at in (0, len(v) - 1) or best[0] < 0:
            assert np.isnan(place)
        else:
            # A step of the grid
            assert place - u.mean() == pytest.approx(v[at], abs=v[1] - v[0])
            assert value == pytest.approx(curve_of[at], abs=1e-7)
