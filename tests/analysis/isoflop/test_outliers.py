"""Runs that the others do not expect: the chance beside refits, who is named, and what it costs."""

import json

import numpy as np
import pytest
from scipy import special, stats

from analysis.isoflop.brief import brief
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.flags import Flag
from analysis.isoflop.outliers import CHANCE, find_outliers
from analysis.isoflop.shape import columns
from analysis.isoflop.slices import Seeds, averaged
from tests.analysis.isoflop.truths import hoffmann, noisy, runs

FEW = {"n_draws": 40}
SD = 0.005


def points(table):
    groups = [own for _, own in table.groupby("budget")]
    u = [np.log(own["n_params"].to_numpy()) for own in groups]
    losses = [own["loss"].to_numpy() for own in groups]
    return u, losses, [np.ones(len(places)) for places in u]


def odd(table, row, by):
    """Table with one run so many nats off."""
    return table.assign(loss=table["loss"] + by * (np.arange(len(table)) == row))


def named(fit):
    return [(run.budget, run.size) for run in fit.outliers]


@pytest.fixture(scope="module")
def clean():
    return noisy(runs(hoffmann), SD, 1)


def test_the_chance_is_the_others_expectation_of_the_loss():
    """Every exponent and noise in turn, the curve fitted again without the point: its Student's t,
    weighted by the likelihood of the other points.
    """
    table = odd(noisy(runs(hoffmann, n_sizes=6)[:18], SD, 3), 8, 0.25)
    u, losses, weights = points(table)
    (of_curve,) = [own for own in find_outliers(u, losses, weights) if own]
    (found,) = of_curve
    assert found.point == 2
    nodes, _, noises = averaged(u, losses, [Seeds.alone(w) for w in weights])
    rest = [np.delete(u[1], 2), np.delete(losses[1], 2)]
    alike, scale = noises.alike[:-1], noises.scale[:-1]
    step = np.log(np.log(scale[1] / scale[0]))
    logs, tails = [], []
    for exponents in zip(nodes.alpha[:, None], nodes.beta[:, None], strict=True):
        squares = []
        for places, values in ((u[0], losses[0]), rest, (u[2], losses[2])):
            X = columns(places - places.mean(), *exponents)[0]
            theta, *_ = np.linalg.lstsq(X, values, rcond=None)
            squares.append(float(((values - X @ theta) ** 2).sum()))
            if places is rest[0]:
                at = columns(u[1][[2]] - places.mean(), *exponents)[0, 0]
                off = losses[1][2] - at @ theta
                wide = 1 + at @ np.linalg.inv(X.T @ X) @ at
        total = sum(squares)
        each = [of_squares(s, d, alike, scale) for s, d in zip(squares, (3, 2, 3), strict=True)]
        logs += [step + sum(each), [special.gammaln(4) - np.log(2) - 4 * np.log(total / 2)]]
        for known, dof in ((alike * scale**2 + squares[1], alike + 2), (np.array([total]), 8)):
            tails.append(2 * special.stdtr(dof, -abs(off) / np.sqrt(known / dof * wide)))
    shares = np.exp(np.concatenate(logs) - max(map(np.max, logs)))
    expected = shares @ np.concatenate(tails) / shares.sum()
    # shares below 1e-12 of the largest are left out there
    assert found.chance == pytest.approx(expected, rel=0.01)
    assert found.off == pytest.approx(0.25, abs=4 * SD)


def of_squares(squares, dof, alike, scale):
    """ln of the integral of sd^-dof exp(-squares / 2 sd^2) over a scaled inverse chi-squared."""
    prior, after = alike / 2, (alike + dof) / 2
    held = alike * scale**2
    return (
        special.gammaln(after)
        - special.gammaln(prior)
        + prior * np.log(held / 2)
        - after * np.log((held + squares) / 2)
    )


@pytest.mark.parametrize("by", [0.1, -0.1, 2.0])
def test_curves_are_those_of_the_table_without_the_run(clean, by):
    table = odd(clean, 17, by)
    fit = fit_isoflop(table, **FEW)
    assert named(fit) == [(table["budget"][17], pytest.approx(table["n_params"][17]))]
    (run,) = fit.outliers
    assert run.excluded
    assert run.off == pytest.approx(by, abs=4 * SD)
    without = fit_isoflop(table.drop(index=17).reset_index(drop=True), **FEW)
    for curve, other in zip(fit.curves, without.curves, strict=True):
        assert curve.params == other.params
        assert curve.x_interval == other.x_interval
    assert fit.curves[2].n_points == 6
    said = f"the run at size {run.size:.4g} is {run.off:+.3f} nats off the others' curve (p="
    assert said in dict(fit.curves[2].flagged)[Flag.OUTLIER]
    line = f"m: 1 outlier excluded, nats: C=1e+19 size {run.size:.4g} {run.off:+.3f}"
    assert line in fit.summary()
    assert line in brief(fit)
    assert json.loads(json.dumps(fit.to_dict()))["outliers"][0]["excluded"] is True
    assert fit.only("m").outliers == fit.outliers
    assert any("outlier" in text for text in fit.law().warnings)


def test_kept_outliers_are_named_and_fitted(clean):
    table = odd(clean, 17, 0.1)
    fit = fit_isoflop(table, outliers="keep", **FEW)
    assert [curve.n_points for curve in fit.curves] == [7] * 5
    assert fit.curves[2].noise > 2 * SD
    assert Flag.OUTLIER in fit.curves[2].flags
    assert "m: 1 outlier kept" in fit.summary()
    with pytest.raises(ValueError, match="outliers='drop' is not one of exclude, keep"):
        fit_isoflop(table, outliers="drop")


def test_without_outliers_nothing_changes(clean):
    fit, kept = (fit_isoflop(clean, outliers=how, **FEW) for how in ("exclude", "keep"))
    assert fit.outliers == ()
    assert fit.to_dict() == kept.to_dict()


@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_the_papers_own_methods_keep_all_runs(clean, method):
    fit = fit_isoflop(odd(clean, 17, 0.1), method=method, n_draws=0)
    assert fit.outliers == ()
    assert fit.curves[2].n_points == 7


def test_two_at_a_budget_hide_each_other_and_are_found(clean):
    table = odd(odd(clean, 15, 0.4), 19, 0.5)
    fit = fit_isoflop(table, n_draws=0)
    assert [run.size for run in fit.outliers] == pytest.approx(list(table["n_params"][[15, 19]]))


def test_one_of_four_sizes_is_not_to_blame_by_itself():
    """Three numbers go through three of them, whichever."""
    table = noisy(runs(hoffmann, n_sizes=4), SD, 2)
    fit = fit_isoflop(odd(table, 9, 0.3), **FEW)
    assert fit.outliers == ()
    assert [curve.n_points for curve in fit.curves] == [4] * 5


def test_a_noisy_budget_keeps_its_runs():
    """By the test of its own scatter: a run of 1 in 50 budgets stands out, two of 1 in 200."""
    noise = np.full(35, SD)
    noise[14:21] *= 15
    tables = [points(noisy(runs(hoffmann), noise, seed)) for seed in range(12)]
    found = sum(any(find_outliers(*table)) for table in tables)
    assert found <= stats.binom.ppf(0.999, 12, 0.025)


def test_a_rounding_is_no_outlier():
    assert fit_isoflop(odd(runs(hoffmann), 17, 1e-4), n_draws=0).outliers == ()
    assert len(fit_isoflop(odd(runs(hoffmann), 17, 0.01), n_draws=0).outliers) == 1


def test_a_cell_of_seeds_is_one_point_and_its_seeds_go_with_it():
    table = noisy(runs(hoffmann, seeds=2), SD, 4)
    cell = (table["budget"] == table["budget"][17]) & (table["n_params"] == table["n_params"][17])
    table = table.assign(loss=table["loss"] + 0.2 * cell)
    fit = fit_isoflop(table, n_draws=0)
    assert named(fit) == [(table["budget"][17], pytest.approx(table["n_params"][17]))]
    assert fit.seeds["m"].seeds.dof == 34
    assert not fit.seeds["m"].is_lack


@pytest.mark.night
@pytest.mark.parametrize("n_sizes", [5, 7])
def test_noise_alone_seldom_has_outliers(n_sizes):
    """By CHANCE for single ones and CHANCE for two: of 300 tables, a binomial bound of 0.1 %."""
    table = runs(hoffmann, n_sizes=n_sizes)
    found = 0
    for seed in range(300):
        found += any(find_outliers(*points(noisy(table, SD, 5000 + seed))))
    assert found <= stats.binom.ppf(0.999, 300, 2 * CHANCE)
