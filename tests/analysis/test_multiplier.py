"""The compute multiplier is exact on exact curves, and its interval is what the books say."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

from analysis.fitting.status import FitError, FitStatus
from analysis.isoflop.fit import fit_isoflop
from analysis.multiplier import compute_multiplier
from analysis.synthetic import ChinchillaSurface, simulate_isoflop

C = np.geomspace(1e17, 1e21, 5)
L_INF = 1.7


def loss(budget, *, A=100.0, alpha=0.1):
    return L_INF + A * np.asarray(budget) ** -alpha


def noisy(budget, sd=0.02, seed=0, **law):
    """Losses whose excess over the asymptote is off by sd, relative."""
    factor = np.exp(np.random.default_rng(seed).normal(0, sd, len(budget)))
    return L_INF + (loss(budget, **law) - L_INF) * factor


def multiplier(baseline, other, **changes):
    return compute_multiplier(baseline, other, **{"asymptote": L_INF, **changes})


# Two arms whose excess is noisy; the second has a budget twice and one that the first has not
NOISY = ((C, noisy(C / 2, seed=1)), ([*C, C[0], 7e19], noisy(np.array([*C, C[0], 7e19]), seed=2)))


# The number


@pytest.mark.parametrize("alpha", [None, 0.1])
@pytest.mark.parametrize("factor", [0.25, 1.0, 2.0, 1000.0])
def test_exact_curves_give_the_exact_factor(factor, alpha):
    found = multiplier((C, loss(C / factor)), (C, loss(C)), alpha=alpha)
    # 1e-9: a tenth root, so ten times the rounding error of a loss
    assert found.multiplier == pytest.approx(factor, rel=1e-9)
    assert (found.lower, found.upper) == pytest.approx((factor, factor), rel=1e-6)
    assert found.alpha == pytest.approx(0.1, rel=1e-9)
    assert (found.n_points, found.dof) == (10, 7 if alpha is None else 8)
    assert found.alpha_pinned is (alpha is not None)
    assert found.status is FitStatus.CONVERGED
    assert found.warnings == ()


def test_at_every_budget_it_is_the_identity():
    worse, better = loss(C / 3), loss(C)
    found = multiplier((C, worse), (C, better))
    for budget, w, b in zip(C, worse, better, strict=True):
        identity = ((w - L_INF) / (b - L_INF)) ** (1 / found.alpha)
        assert found.per_budget[budget] == pytest.approx(identity, rel=1e-12)
        assert identity == pytest.approx(found.multiplier, rel=1e-9)


def test_it_is_compute_at_equal_loss():
    found = multiplier((C, loss(C, A=120.0)), (C, loss(C)))
    np.testing.assert_allclose(loss(C * found.multiplier, A=120.0), loss(C), rtol=1e-12)


def test_noisy_budgets_each_have_their_own_factor():
    (_, l0), (_, l1) = NOISY
    found = multiplier(*NOISY)
    assert list(found.per_budget) == list(C)  # 7e19 has one arm only
    best = min(l1[0], l1[5])  # of a budget's two runs
    expected = ((l0[0] - L_INF) / (best - L_INF)) ** (1 / found.alpha)
    assert found.per_budget[C[0]] == pytest.approx(expected)


def test_budgets_need_not_be_shared():
    found = multiplier((C, loss(C / 2)), (3 * C[:3], loss(3 * C[:3])))
    assert found.multiplier == pytest.approx(2, rel=1e-9)
    assert found.per_budget == {}
    assert "by budget" not in found.summary()


def test_swapping_the_arms_inverts_it():
    one, two = multiplier(*NOISY), multiplier(*NOISY[::-1])
    assert 1 / two.multiplier == pytest.approx(one.multiplier)
    assert (1 / two.upper, 1 / two.lower) == pytest.approx((one.lower, one.upper))
    assert two.alpha == pytest.approx(one.alpha)


def test_units_of_compute_and_of_loss_do_not_matter():
    one = multiplier(*NOISY)
    (c0, l0), (c1, l1) = NOISY
    peta = multiplier((c0 / 1e15, l0), (np.array(c1) / 1e15, l1))
    bits = multiplier((c0, l0 / math.log(2)), (c1, l1 / math.log(2)), asymptote=L_INF / math.log(2))
    for other in (peta, bits):
        assert other.estimate == pytest.approx(one.estimate)
        assert other.alpha == pytest.approx(one.alpha)


def test_order_and_types_do_not_matter():
    (c0, l0), (c1, l1) = NOISY
    shuffled = multiplier((c0[::-1], l0[::-1].tolist()), (c1, l1))
    assert shuffled.estimate == pytest.approx(multiplier(*NOISY).estimate)
    assert shuffled.per_budget == pytest.approx(multiplier(*NOISY).per_budget)


def test_other_asymptotes_are_shown():
    found = multiplier(*NOISY)
    assert list(found.by_asymptote) == pytest.approx([1.53, 1.7, 1.87])
    for asymptote, value in found.by_asymptote.items():
        assert multiplier(*NOISY, asymptote=asymptote).multiplier == pytest.approx(value)
    assert found.by_asymptote[L_INF] == found.multiplier
    lowest = NOISY[1][1].min()
    near = multiplier(*NOISY, asymptote=lowest / 1.05)  # a tenth more is above a loss
    assert list(near.by_asymptote) == pytest.approx([0.9 * lowest / 1.05, lowest / 1.05])


def test_a_wrong_asymptote_shows_in_the_budgets():
    # Too low an asymptote: the same excess seems a smaller share where losses are low
    found = multiplier((C, loss(C / 2)), (C, loss(C)), asymptote=0.5)
    factors = list(found.per_budget.values())
    assert factors == sorted(factors, reverse=True)
    assert found.upper > found.lower


@pytest.mark.slow
def test_curves_of_a_fit_give_what_made_them():
    # Chinchilla's optimal loss is E + K C^-gamma; nine tenths of its excess are K' = 0.9 K
    surface = ChinchillaSurface()
    gamma = surface.alpha * surface.beta / (surface.alpha + surface.beta)
    base = simulate_isoflop(surface, C, 9)
    better = base.assign(
        series="moe", run_id=None, loss=surface.E + 0.9 * (base["loss"] - surface.E)
    )
    arms = [fit_isoflop(t, n_draws=0).frontier(m) for t, m in ((base, "dense"), (better, "moe"))]
    found = compute_multiplier(*arms, asymptote=surface.E)
    assert found.multiplier == pytest.approx(0.9 ** (-1 / gamma), rel=1e-6)
    assert found.alpha == pytest.approx(gamma, rel=1e-6)


# Its interval


def rss(X, y):
    return float(((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum())


def columns(arms):
    x = np.log(np.concatenate([np.asarray(c, dtype=float) for c, _ in arms]))
    y = np.log(np.concatenate([values for _, values in arms]) - L_INF)
    first = np.arange(len(x)) < len(arms[0][0])
    return x - x.mean(), y, first.astype(float)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_its_ends_are_where_the_f_test_gives_up(level):
    # Whether A0/A1 = m^alpha: one restriction of three parameters, tested without linearising
    found = multiplier(*NOISY, level=level)
    x, y, first = columns(NOISY)
    free = rss(np.stack([first, 1 - first, -x], axis=1), y)
    assert found.dof == len(y) - 3
    critical = stats.f.ppf(level, 1, found.dof)

    def statistic(m):  # ln A0 = ln A1 + alpha ln m
        bound = rss(np.stack([np.ones_like(x), math.log(m) * first - x], axis=1), y)
        return (bound - free) / (free / found.dof)

    assert statistic(found.multiplier) == pytest.approx(0, abs=1e-6)
    for end in (found.lower, found.upper):
        assert statistic(end) == pytest.approx(critical, rel=1e-6)
    assert found.lower < found.multiplier < found.upper


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_with_alpha_pinned_it_is_the_textbooks_two_samples(level):
    found = multiplier(*NOISY, alpha=0.12, level=level)
    (c0, l0), (c1, l1) = NOISY
    one = np.log(l0 - L_INF) + 0.12 * np.log(c0)
    two = np.log(l1 - L_INF) + 0.12 * np.log(c1)
    interval = stats.ttest_ind(one, two).confidence_interval(level)
    assert math.log(found.multiplier) == pytest.approx((one.mean() - two.mean()) / 0.12)
    assert math.log(found.lower) == pytest.approx(interval.low / 0.12)
    assert math.log(found.upper) == pytest.approx(interval.high / 0.12)
    assert found.alpha == 0.12


def test_lack_of_fit_counts_as_noise():
    # Smooth curves that bend away from the law: no noise, yet no certainty
    bent = L_INF + (loss(C / 2) - L_INF) * np.exp(0.01 * (np.log(C / C[2])) ** 2 / 10)
    found = multiplier((C, bent), (C, loss(C)))
    assert found.upper / found.lower > 1.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sd", "alpha", "other"),
    [(0.02, None, C), (0.05, None, C), (0.02, 0.1, C), (0.02, None, np.geomspace(1e18, 1e20, 3))],
)
def test_it_holds_the_truth_as_often_as_it_says(sd, alpha, other):
    n = 1000
    covered = flagged = 0
    for seed in range(n):
        arms = (C, noisy(C / 2, sd, 2 * seed)), (other, noisy(other, sd, 2 * seed + 1))
        found = multiplier(*arms, alpha=alpha)
        covered += found.lower <= 2 <= found.upper
        flagged += any("not parallel" in text for text in found.warnings)
    # Normal errors and known alpha or Fieller: exactly 95 %; four standard errors of n draws.
    assert covered / n == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / n))
    assert flagged / n == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / n))


# Warnings


def test_unequal_slopes_are_reported():
    arms = (C, noisy(C / 2, 1e-3, 1)), (C, noisy(C, 1e-3, 2, A=150.0, alpha=0.11))
    found = multiplier(*arms)
    assert found.status is FitStatus.WARNING
    assert any("the two curves are not parallel (p = 0.000)" in w for w in found.warnings)
    factors = list(found.per_budget.values())
    assert factors == sorted(factors)  # it changes with compute, as is said


@pytest.mark.parametrize("seed", range(10))
def test_they_are_said_where_the_f_test_finds_them(seed):
    other = np.geomspace(1e18, 1e20, 4)
    arms = (C, noisy(C, 0.02, seed)), (other, noisy(other, 0.02, seed + 100, A=155, alpha=0.11))
    x, y, first = columns(arms)
    one = rss(np.stack([first, 1 - first, x], axis=1), y)
    two = rss(np.stack([first, 1 - first, x * first, x * (1 - first)], axis=1), y)
    p = stats.f.sf((one - two) / (two / (len(y) - 4)), 1, len(y) - 4)
    said = [text for text in multiplier(*arms).warnings if "parallel" in text]
    assert bool(said) == (p < 0.05)
    if said:
        assert f"(p = {p:.3f})" in said[0]


def test_unequal_slopes_of_exact_curves_are_said_too():
    found = multiplier((C, loss(C)), (C, loss(C, A=150.0, alpha=0.12)))
    assert any("not parallel" in text for text in found.warnings)


def test_no_degree_of_freedom_no_interval():
    pinned = multiplier((C[:1], loss(C[:1] / 2)), (C[:1], loss(C[:1])), alpha=0.1)
    fitted = multiplier((C[:2], loss(C[:2] / 2)), (C[:1], loss(C[:1])))
    for found in (pinned, fitted):
        assert found.multiplier == pytest.approx(2, rel=1e-9)
        assert (found.dof, math.isnan(found.lower), math.isnan(found.upper)) == (0, True, True)
        assert found.warnings == ("no degree of freedom: the error is unknown",)
        assert found.to_dict()["lower"] is None


def test_one_degree_of_freedom_may_be_luck():
    found = multiplier((C[:2], noisy(C[:2] / 9, 1e-3, 1)), (C[:2], noisy(C[:2], 1e-3, 2)))
    assert found.dof == 1
    assert found.lower > 1
    assert any("may be luck" in text for text in found.warnings)
    unclear = multiplier((C[:2], noisy(C[:2], 0.02, 1)), (C[:2], noisy(C[:2], 0.02, 2)))
    assert unclear.lower < 1 < unclear.upper
    assert not any("luck" in text for text in unclear.warnings)


def test_a_slope_that_may_be_none_bounds_nothing():
    flat = [np.array([3.0, 2.9, 3.05, 2.95, 2.94]), np.array([2.9, 2.8, 2.95, 2.8, 2.84])]
    found = multiplier((C, flat[0]), (C, flat[1]))
    assert (found.lower, found.upper) == (0, np.inf)
    assert any("alpha is not significantly different from 0" in text for text in found.warnings)
    assert found.status is FitStatus.WARNING
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_interval_that_is_nearly_unbounded_is_no_overflow():
    # One of 300 draws of so noisy curves, whose alpha barely differs from 0
    found = multiplier((C, noisy(C / 1e4, 0.3, 100)), (C, noisy(C, 0.3, 101)))
    assert found.lower < found.multiplier < found.upper


@pytest.mark.parametrize("alpha", [0.03, 0.4])
def test_a_pinned_alpha_that_the_points_contradict_is_reported(alpha):
    found = multiplier((C, loss(C / 2)), (C, loss(C)), alpha=alpha)
    assert found.status is FitStatus.WARNING
    assert found.warnings == (f"alpha={alpha} is pinned, and these points have 0.1 (0.1 to 0.1)",)


def test_a_pinned_alpha_is_warned_of_where_the_points_interval_leaves_it_out():
    free = multiplier(*NOISY)
    x, y, first = columns(NOISY)
    X = np.stack([first, 1 - first, -x], axis=1)
    variance = rss(X, y) / free.dof * np.linalg.inv(X.T @ X)[2, 2]
    half = stats.t.ppf(0.975, free.dof) * math.sqrt(variance)
    for alpha, said in ((free.alpha + 0.99 * half, False), (free.alpha + 1.01 * half, True)):
        assert any("pinned" in w for w in multiplier(*NOISY, alpha=alpha).warnings) == said


def test_losses_that_rise_are_said_with_alpha_pinned():
    found = multiplier((C, loss(C / 2)[::-1]), (C, loss(C)[::-1]), alpha=0.1)
    assert found.status is FitStatus.WARNING


# What is refused


@pytest.mark.parametrize("asymptote", [-0.1, 2.4944, 3.0, math.nan, math.inf])
def test_an_asymptote_is_below_every_loss(asymptote):
    message = rf"asymptote={asymptote} must be at least 0 and below the lowest loss, 2\.4943"
    with pytest.raises(ValueError, match=message):
        multiplier((C, loss(C / 2)), (C, loss(C)), asymptote=asymptote)


def test_zero_is_an_asymptote():
    found = multiplier((C, 9 * (C / 2) ** -0.05), (C, 9 * C**-0.05), asymptote=0.0)
    assert found.multiplier == pytest.approx(2, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.0, -0.1, math.nan])
def test_a_pinned_alpha_is_above_0(alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha} must be above 0"):
        multiplier((C, loss(C / 2)), (C, loss(C)), alpha=alpha)


def test_losses_that_do_not_fall_are_refused():
    with pytest.raises(FitError, match="the losses do not fall with compute"):
        multiplier((C, loss(C / 2)[::-1]), (C, loss(C)[::-1]))


def test_one_budget_tells_no_alpha():
    same = np.full(3, 1e18)
    with pytest.raises(FitError, match=r"6 points at one budget: .*pin it with alpha="):
        multiplier((same, [3.0, 3.1, 3.2]), (same, [2.9, 2.8, 2.7]))
    found = multiplier((same, [3.0, 3.1, 3.2]), (same, [2.9, 2.8, 2.7]), alpha=0.1)
    assert found.dof == 4
    assert found.lower < found.multiplier < found.upper


def test_two_points_at_two_budgets_are_not_one_budget():
    with pytest.raises(FitError, match="2 points at a single budget of each arm: alpha can't be"):
        multiplier(([1e18], [3.0]), ([1e19], [2.9]))


@pytest.mark.parametrize(("c0", "c1"), [(1e18, 1e19), (1.3e18, 1.7e19)])
def test_arms_of_one_budget_each_tell_no_alpha(c0, c1):
    # What differs between the arms may be the compute or the model: nothing tells which
    with pytest.raises(FitError, match="alpha can't be fitted"):
        multiplier((np.full(3, c0), [3.0, 3.01, 3.02]), (np.full(2, c1), [2.9, 2.88]))


@pytest.mark.parametrize(
    ("budgets", "losses", "message"),
    [
        ([1e18, 1e19], [3.0], "baseline: 2 budgets for 1 losses"),
        ([], [], "baseline: 0 budgets"),
        ([1e18, 0.0], [3.0, 2.9], r"baseline: budget\[1\]=.*0\.0.* must be above 0"),
        ([1e18, 1e19], [math.nan, 2.9], r"baseline: loss\[0\]=.*nan.* must be above 0"),
        ([1e18, math.inf], [3.0, 2.9], r"baseline: budget\[1\]=.*inf.* must be above 0"),
    ],
)
def test_a_bad_arm_is_named(budgets, losses, message):
    with pytest.raises(ValueError, match=message):
        multiplier((budgets, losses), (C, loss(C)))
    with pytest.raises(ValueError, match=message.replace("baseline", "other")):
        multiplier((C, loss(C)), (budgets, losses))


def test_a_bad_value_is_shown_as_it_was_given():
    with pytest.raises(ValueError, match=r"baseline: budget\[1\]=0\.0 must"):
        multiplier(([1e18, 0.0], [3.0, 2.9]), (C, loss(C)))


def test_a_level_is_a_share():
    with pytest.raises(ValueError, match="level=95 must be between 0 and 1"):
        multiplier(*NOISY, level=95)


# As a result


def test_it_says_what_it_rests_on():
    text = multiplier(*NOISY, level=0.9).summary()
    assert "(90%:" in text
    assert "at asymptote 1.7 nats" in text
    assert "(fitted), 12 points, 9 degrees of freedom" in text
    assert "by asymptote: 1.53:" in text
    assert "by budget: C=1e+17:" in text
    assert "alpha 0.1200 (pinned)" in multiplier(*NOISY, alpha=0.12).summary()


def test_it_is_frozen_and_plain():
    found = multiplier(*NOISY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.multiplier = 1.0
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["multiplier"] == found.multiplier  # at full precision
    assert values["per_budget"]["1e+17"] == found.per_budget[1e17]
    assert str(found.estimate).startswith(f"{found.multiplier:.4g} (")
