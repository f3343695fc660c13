"""A form that all curves of a model miss is named; noise alone is not; seeds tell the noise."""

import numpy as np
import pytest
from scipy import stats

from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.flags import Flag
from analysis.isoflop.shape import columns
from tests.analysis.isoflop.truths import broken, hoffmann, kaplan, noisy, runs

QUICK = {"n_draws": 0}


def lacking(fit):
    return [text for c in fit.curves for flag, text in c.flagged if flag is Flag.LACK_OF_FIT]


def test_a_pattern_that_all_curves_miss_is_named():
    fit = fit_isoflop(noisy(runs(kaplan), 0.005, 0), **QUICK)
    assert len(lacking(fit)) == 5
    assert "in a pattern" in lacking(fit)[0]
    assert not lacking(fit_isoflop(noisy(runs(hoffmann), 0.005, 0), **QUICK))
    assert not lacking(fit_isoflop(runs(hoffmann), **QUICK))


def test_the_pattern_is_that_of_the_residuals():
    """Test's ratio from projections written out, its chance from draws of noise."""
    table = noisy(runs(broken), 0.005, 3)
    fit = fit_isoflop(table, **QUICK)
    said = float(lacking(fit)[0].split("(p=")[1].split(")")[0])
    groups = [
        (np.log(g["n_params"].to_numpy()), g["loss"].to_numpy(), C)
        for C, g in table.groupby("budget")
    ]
    grid = np.linspace(0.05, 0.8, 16)  # the exponents' derivatives do the rest
    _, best = min(
        (sum(one_curve(u, y, a, b)[0] for u, y, _ in groups), (a, b)) for a in grid for b in grid
    )
    blocks, places, off = [], [], []
    for u, y, _ in groups:
        X, theta, low = one_curve(u, y, *best)[1:]
        h = 1e-5
        moves = [
            (design(u, best[0] + da, best[1] + db) - X) @ theta / h for da, db in ((h, 0), (0, h))
        ]
        blocks.append((X, np.stack(moves, axis=1)))
        places.append(u - low)
        off.append(y - X @ theta)
    n = sum(len(u) for u, *_ in groups)
    known = np.zeros((n, 3 * len(groups) + 2))
    row = 0
    for k, (X, moves) in enumerate(blocks):
        known[row : row + len(X), 3 * k : 3 * k + 3] = X
        known[row : row + len(X), -2:] = moves
        row += len(X)
    left = np.eye(n) - known @ np.linalg.pinv(known)
    place, budget = np.concatenate(places), np.repeat([C for *_, C in groups], 7)
    near = 0.35 * np.abs(place).max()
    decades = np.log10(budget)
    K = np.exp(-((place[:, None] - place) ** 2) / near**2 / 2)
    K *= np.exp(-((decades[:, None] - decades) ** 2) / 0.45**2 / 2)
    r = left @ np.concatenate(off)
    ratio = r @ K @ r / (r @ r)
    drawn = np.random.default_rng(0).normal(size=(20_000, n)) @ left
    share = np.mean(np.einsum("si,ij,sj->s", drawn, K, drawn) / (drawn**2).sum(axis=1) > ratio)
    # One digit is printed, the noise is each curve's own there, and 20,000 draws
    assert abs(np.log10(said / share)) < 0.5


def design(u, alpha, beta):
    v = u - u.mean()
    up, down = np.exp(beta * v), np.exp(-alpha * v)
    return np.stack([up, down, np.ones_like(v)], axis=1)


def one_curve(u, y, alpha, beta):
    X = design(u, alpha, beta)
    theta = np.linalg.lstsq(X, y, rcond=None)[0]
    v = np.linspace(u[0], u[-1], 2001)
    low = v[
        (
            np.stack([np.exp(beta * (v - u.mean())), np.exp(-alpha * (v - u.mean())), v**0], 1)
            @ theta
        ).argmin()
    ]
    return float(((y - X @ theta) ** 2).sum()), X, theta, low


def test_seeds_tell_the_noise_and_weigh_what_they_are():
    """A cell of three seeds is one point of three times the weight; their scatter is pooled."""
    table = noisy(runs(hoffmann, seeds=3), 0.005, 1)
    fit = fit_isoflop(table, **QUICK)
    beside = fit.seeds["m"]
    spread = table.groupby(["budget", "n_params"])["loss"].std()
    assert beside.seeds.sd == pytest.approx(np.sqrt((spread**2).mean()), rel=1e-9)
    assert (beside.seeds.dof, beside.scatter.dof) == (70, 18)
    chance = stats.f.sf((beside.scatter.sd / beside.seeds.sd) ** 2, 18, 70)
    assert beside.chance == pytest.approx(chance)
    assert not beside.is_lack
    noises = np.array([curve.noise for curve in fit.curves])
    assert np.sqrt((noises**2).mean()) == pytest.approx(0.005, rel=0.25)  # 88 degrees of freedom
    assert min(curve.dof for curve in fit.curves) > 18
    assert f"seeds by {beside.seeds.sd:.3g} (70)" in fit.summary()
    curve, runs_of = fit.curves[2], table[table["budget"] == fit.curves[2].budget]
    u = np.log(runs_of["n_params"].to_numpy()) - curve.centre
    X = columns(u, np.array([curve.alpha]), np.array([curve.beta]))[0]
    of_runs = np.linalg.lstsq(X, runs_of["loss"].to_numpy(), rcond=None)[0]
    assert (curve.a, curve.slope, curve.level) == pytest.approx(tuple(of_runs), rel=1e-9)


def test_sizes_with_more_seeds_weigh_more():
    table = noisy(runs(hoffmann, seeds=3), 0.005, 1)
    middle = table.groupby("budget")["n_params"].transform("median")
    some = table[(table["seed"] == 0) | (table["n_params"] == middle)].reset_index(drop=True)
    for method in ("slice", "parabola"):
        for curve in fit_isoflop(some, method=method, **QUICK).curves:
            runs_of = some[some["budget"] == curve.budget]
            u = np.log(runs_of["n_params"].to_numpy()) - curve.centre
            X = np.stack([u**2, u, u**0], axis=1)
            if method == "slice":
                X = columns(u, np.array([curve.alpha]), np.array([curve.beta]))[0]
            of_runs = np.linalg.lstsq(X, runs_of["loss"].to_numpy(), rcond=None)[0]
            assert (curve.a, curve.slope, curve.level) == pytest.approx(tuple(of_runs), rel=1e-8)


def test_scatter_that_seeds_do_not_have_is_named_and_kept():
    table = runs(hoffmann, seeds=2)
    of_size = np.random.default_rng(5).normal(0, 0.02, 35)
    cell = table.groupby(["budget", "n_params"]).ngroup().to_numpy()
    table = noisy(table.assign(loss=table["loss"] + of_size[cell]), 0.002, 2)
    fit = fit_isoflop(table, **QUICK)
    assert any("seeds by 0.00" in text for text in lacking(fit))
    assert all(curve.noise == pytest.approx(0.02, rel=0.5) for curve in fit.curves)
    one = fit_isoflop(table[table["seed"] == 0].reset_index(drop=True), **QUICK)
    assert one.seeds == {}
    assert fit.to_dict()["seeds"]["m"]["chance"] < 1e-6
