"""Warnings of points too far off their curve: when they come, and that noise alone earns none."""

import numpy as np
import pytest
from scipy import stats

from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.flags import Flag
from tests.analysis.isoflop.test_slices import BUDGETS, runs
from tests.analysis.tables import joined, moving, noisy


def flags(fit):
    return [set(curve.flags) & {Flag.MISFIT, Flag.SKEWED} for curve in fit.curves]


@pytest.mark.parametrize("method", ["slice", "parabola"])
@pytest.mark.parametrize("noise", [None, 0.01])
def test_a_curve_of_other_scatter_is_named(method, noise):
    table = noisy(moving(), 0.01)
    last = table["budget"] == table["budget"].max()
    jump = 0.15 * (-1.0) ** np.arange(len(table))
    table["loss"] += np.where(last, jump, 0)
    fit = fit_isoflop(table, method=method, noise=noise, n_draws=20)
    assert flags(fit) == [set()] * 4 + [{Flag.MISFIT}]
    beside = "a noise of 0.01" if noise else "at the other budgets"
    assert beside in "; ".join(fit.curves[-1].warnings)


@pytest.mark.night
def test_parabolas_through_skewed_curves_are_too_few():
    table = noisy(runs(16.0), 0.005)
    fit = fit_isoflop(table, method="parabola", n_draws=20)
    assert flags(fit) == [{Flag.SKEWED}] * 5
    u = [np.log(one["n_params"]) for _, one in table.groupby("budget")]
    losses = [one["loss"] for _, one in table.groupby("budget")]
    parabolas = sum(
        np.polyfit(places - places.mean(), values, 2, full=True)[1][0]
        for places, values in zip(u, losses, strict=True)
    )
    best = min(
        sum(
            np.linalg.lstsq(
                np.stack([np.exp(-a * (p - p.mean())), np.exp(b * (p - p.mean())), p**0], axis=1),
                values,
                rcond=None,
            )[1][0]
            for p, values in zip(u, losses, strict=True)
        )
        for a in np.linspace(0.1, 0.6, 26)
        for b in np.linspace(0.1, 0.6, 26)
    )
    chance = stats.f.sf((parabolas - best) / 2 / (best / 18), 2, 18)
    said = "; ".join(fit.curves[0].warnings)
    # Half an order of magnitude: one digit is printed, and the grids differ
    assert abs(np.log10(float(said.partition("p=")[2].partition(")")[0]) / chance)) < 0.5
    assert flags(fit_isoflop(table, n_draws=20)) == [set()] * 5


def test_too_few_runs_tell_nothing():
    table = noisy(runs(16.0, BUDGETS[:1], 5), 0.3)
    assert flags(fit_isoflop(table, method="parabola", n_draws=20)) == [set()]
    clean = joined(moving(n_budgets=2))
    assert flags(fit_isoflop(clean, n_draws=20)) == [set()] * 2


@pytest.mark.night
@pytest.mark.parametrize("method", ["slice", "parabola"])
def test_noise_alone_earns_no_misfit(method):
    """200 draws at a noise of 0.03 nats: a warning is due once in a thousand."""
    misfits = skewed = 0
    for seed in range(200):
        found = flags(fit_isoflop(noisy(moving(), 0.03, seed), method=method, n_draws=0))
        misfits += any(Flag.MISFIT in one for one in found)
        skewed += Flag.SKEWED in found[0]
    assert misfits <= 1
    # 1 % is the rule; 8 of 200 has a chance of 1e-3 then
    assert skewed < 8
