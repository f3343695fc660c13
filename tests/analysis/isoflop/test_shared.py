"""Errors that runs of one size or of one budget share: named, and in the laws' intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.fitting.power_law import fit_frontier
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.flags import Flag
from analysis.isoflop.lack_of_fit import Left
from analysis.isoflop.scatter import Noise
from analysis.isoflop.shape import columns_at, lowest
from analysis.isoflop.shared import error_of_budgets, error_of_sizes
from analysis.isoflop.slices import fit_slices
from tests.analysis.isoflop.truths import hoffmann, noisy, on_ladder, runs

SD = 0.005
QUICK = {"n_draws": 100}


@pytest.fixture(scope="module")
def ladder():
    return on_ladder(hoffmann)


def fitted(table):
    groups = [own for _, own in table.groupby("budget")]
    u = [np.log(own["n_params"].to_numpy()) for own in groups]
    losses = [own["loss"].to_numpy() for own in groups]
    fit = fit_slices(u, losses, None, 0, np.random.default_rng(0))
    return u, losses, [one.best for one in fit.slices]


def off_by_size(table, sd, seed):
    sizes = pd.factorize(table["n_params"])[0]
    return table.assign(
        loss=table["loss"] + np.random.default_rng(seed).normal(0, sd, sizes.max() + 1)[sizes]
    )


def shared(fit):
    return [text for curve in fit.curves for flag, text in curve.flagged if flag is Flag.SHARED]


def test_an_error_of_sizes_is_named_and_in_the_law(ladder):
    table = off_by_size(noisy(ladder, SD, 0), 0.015, 1)
    fit = fit_isoflop(table, **QUICK)
    assert len(shared(fit)) == 5
    assert "losses of one size are off alike at its budgets, by about 0.01" in shared(fit)[0]
    clean = fit_isoflop(noisy(ladder, SD, 0), **QUICK)
    assert shared(clean) == []
    wide, narrow = (f.law().exponents["n_params"]["t"] for f in (fit, clean))
    assert wide.upper - wide.lower > 1.5 * (narrow.upper - narrow.lower)


def test_of_sizes_that_do_not_recur_no_error_is_known():
    u, _, shapes = fitted(noisy(runs(hoffmann), SD, 0))
    assert error_of_sizes(shapes, [Noise(SD, 20)] * 5, u) is None


def test_minima_move_with_an_error_of_a_size_as_refits_say(ladder):
    table = off_by_size(noisy(ladder, SD, 0), 0.015, 1)
    u, losses, shapes = fitted(table)
    found = error_of_sizes(shapes, [Noise(SD, 20)] * 5, u)
    sizes = np.unique(np.concatenate(u))
    assert found.u_moves.shape == (5, len(sizes))
    step = 1e-6
    for j in (3, 5):
        for k, (places, values, shape) in enumerate(zip(u, losses, shapes, strict=True)):
            ends = [
                minimum(places, values + by * np.isclose(places, sizes[j]), shape)
                for by in (-step, step)
            ]
            du, dl = (np.array(ends[1]) - ends[0]) / (2 * step)
            assert found.u_moves[k, j] == pytest.approx(du, rel=1e-4, abs=1e-4)
            assert found.loss_moves[k, j] == pytest.approx(dl, rel=1e-4, abs=1e-6)
    places, values = found.draws(50_000, np.random.default_rng(0))
    expected = found.sd**2 * found.u_moves @ found.u_moves.T
    np.testing.assert_allclose(np.cov(places.T), expected, rtol=0.1, atol=0.02 * expected.max())
    assert values.shape == (50_000, 5)


def minimum(places, values, shape):
    X = columns_at(places - shape.centre, shape.alpha, shape.beta)
    theta = np.linalg.lstsq(X, values, rcond=None)[0]
    exponents = np.array([shape.alpha]), np.array([shape.beta])
    v = float(lowest(theta[[0]], theta[[1]], *exponents)[0])
    return shape.centre + v, columns_at(np.array([v]), shape.alpha, shape.beta)[0] @ theta


def test_the_size_of_the_error_is_of_restricted_likelihood(ladder):
    table = off_by_size(noisy(ladder, SD, 2), 0.01, 3)
    u, _, shapes = fitted(table)
    noises = [Noise(SD, 20)] * 5
    found = error_of_sizes(shapes, noises, u)
    left = Left.of(shapes, noises, u)
    every = np.concatenate(u)
    free = np.linalg.svd(left.moves, full_matrices=True)[0][:, left.moves.shape[1] :]
    same = np.isclose(every[:, None], every).astype(float)

    def minus_log(logs):
        own, noise = np.exp(logs)
        covariance = free.T @ (own * same + noise * np.eye(len(every))) @ free
        return -stats.multivariate_normal(cov=covariance).logpdf(free.T @ left.off)

    best = optimize.minimize(minus_log, [0.0, 0.0], method="Nelder-Mead")
    # a step of the grid of ratios of variances is 12 %
    assert found.sd == pytest.approx(SD * np.exp(best.x[0] / 2), rel=0.1)


BUDGETS = np.geomspace(1e18, 1e20, 6)
ERRORS = np.array([0.004, 0.003, 0.003, 0.002, 0.003, 0.004])


def lowest_losses(seed, sd=0.0):
    rng = np.random.default_rng(seed)
    law = 1.69 + 1.5 * (BUDGETS / 1e18) ** -0.15
    return law + rng.normal(0, ERRORS) + rng.normal(0, sd, 6)


def test_an_error_of_budgets_is_scatter_about_the_law():
    """Beside generalised least squares of the curved law, by another method."""
    losses = lowest_losses(1, sd=0.02)
    said = error_of_budgets(fit_frontier(BUDGETS, losses), BUDGETS, losses, np.diag(ERRORS**2), 20)
    x = np.log(BUDGETS / 1e19)
    found = optimize.least_squares(
        lambda t: (losses - np.exp(t[0]) - np.exp(t[1] - t[2] * x)) / ERRORS,
        [0.5, 0.0, 0.15],
        x_scale=[0.1, 0.1, 0.01],
    )
    chance = stats.f.sf(2 * found.cost / 3, 3, 20)
    assert chance < 0.02
    p = float(said.split("(p=")[1].split(")")[0])
    # one digit is printed, and the law is linear about its own fit there
    assert abs(np.log10(p / chance)) < 0.5
    assert "the runs of a budget share an error" in said


@pytest.mark.night
def test_errors_of_curves_alone_are_seldom_one_of_budgets():
    """2 % is the rule, for known errors: of 40, a binomial bound of 0.1 %."""
    said = [
        error_of_budgets(fit_frontier(BUDGETS, own), BUDGETS, own, np.diag(ERRORS**2), 10**6)
        for own in map(lowest_losses, range(40))
    ]
    assert sum(text is not None for text in said) <= stats.binom.ppf(0.999, 40, 0.02)


def test_a_budget_that_is_off_is_named_and_its_best_size_stays(ladder):
    table = noisy(ladder, 0.002, 0)
    off = np.array([0.02, -0.02, 0.02, -0.02, 0.0])[pd.factorize(table["budget"])[0]]
    fit, clean = (fit_isoflop(t, **QUICK) for t in (table.assign(loss=table["loss"] + off), table))
    assert "best sizes stay" in shared(fit)[0]
    assert shared(clean) == []
    for curve, other in zip(fit.curves, clean.curves, strict=True):
        assert curve.x_opt == pytest.approx(other.x_opt, rel=1e-6)
