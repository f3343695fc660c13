"""Multipliers are exact on exact curves; intervals are those of the F test, found the slow way."""

import functools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis.fits import find_multipliers
from analysis.fitting.status import FitError, FitStatus
from analysis.isoflop.fit import fit_isoflop
from analysis.multiplier.fit import compute_multipliers, lowest_points
from analysis.synthetic import ChinchillaSurface, simulate_isoflop

C = np.geomspace(1e17, 1e21, 5)
E = 1.7
LAWS = {"dense": (100.0, 0.1), "peer": (90.0, 0.1), "moe": (140.0, 0.108)}


def loss(model, budget=C):
    A, alpha = LAWS[model]
    return E + A * np.asarray(budget) ** -alpha


def truth(model, budget):
    """C' / C where dense has the model's loss at C."""
    A, alpha = LAWS["dense"]
    return ((loss(model, budget) - E) / A) ** (-1 / alpha) / budget


def exact(*models):
    return {model: (C, loss(model)) for model in ("dense", *models)}


def noisy(seed, sd=0.004, models=("dense", "peer", "moe")):
    rng = np.random.default_rng(seed)
    return {model: (C, loss(model) + rng.normal(0, sd, len(C))) for model in models}


# The number


@pytest.mark.parametrize("asymptote", [None, E, (1.0, 2.0)])
def test_exact_curves_give_the_exact_multiplier(asymptote):
    found = compute_multipliers(exact("peer", "moe"), "dense", asymptote=asymptote)
    assert found.asymptote == pytest.approx(E, rel=1e-6)
    for one in found.at(budgets=[1e18, 3e19]):
        # 1e-5: a tenth root, of laws that are descended to
        assert one.estimate == pytest.approx([truth(one.model, one.compute)] * 3, rel=1e-5)
        assert not one.extrapolated
    assert found.alphas == pytest.approx({m: alpha for m, (_, alpha) in LAWS.items()}, rel=1e-5)
    assert found.models == ("peer", "moe")


def test_over_the_loss_it_is_the_ratio_of_two_computes():
    found = compute_multipliers(exact("moe"), "dense")
    (one,) = found.at(losses=[2.9])
    computes = {m: ((2.9 - E) / A) ** (-1 / alpha) for m, (A, alpha) in LAWS.items()}
    assert one.value == pytest.approx(computes["dense"] / computes["moe"], rel=1e-5)
    assert one.compute == pytest.approx(computes["moe"], rel=1e-5)
    same = found.at_compute("moe", one.compute)
    assert (same.loss, same.value) == pytest.approx((2.9, one.value), rel=1e-6)


def test_with_one_slope_it_is_the_same_at_every_compute():
    found = compute_multipliers(noisy(0), "dense", slopes="one")
    for model in found.models:
        values = np.array([one.estimate for one in found.at() if one.model == model])
        np.testing.assert_allclose(values, values[:1].repeat(len(values), 0), rtol=1e-9)
    own = compute_multipliers(noisy(0), "dense")
    assert own.with_one["peer"] == found.at()[0].estimate


# Its interval, against constrained fits by scipy


def squares(points, asymptote, bound=None):
    """Least sum of squares; bound: (model, compute, ln multiplier) that must hold."""
    names = list(points)
    x = {m: np.log(c) - np.log(C).mean() for m, (c, _) in points.items()}

    def laws(theta):
        a = dict(zip(names, theta[: len(names)], strict=True))
        alpha = dict(zip(names, theta[len(names) : 2 * len(names)], strict=True))
        if bound:  # ln(L - E) of dense at C' is the model's at C
            model, budget, log_m = bound
            u = math.log(budget) - np.log(C).mean()
            a["dense"] = a[model] - alpha[model] * u + alpha["dense"] * (u + log_m)
        return a, alpha

    def residuals(theta):
        a, alpha = laws(theta)
        floor = theta[-1] if asymptote is None else asymptote
        return np.concatenate(
            [floor + np.exp(a[m] - alpha[m] * x[m]) - losses for m, (_, losses) in points.items()]
        )

    start = [*[math.log(1.2)] * len(names), *[0.1] * len(names), E][: 2 * len(names) + 1]
    found = optimize.least_squares(residuals, start, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    return 2 * found.cost


@pytest.mark.parametrize("asymptote", [None, E])
@pytest.mark.parametrize(("model", "budget"), [("peer", 1e19), ("moe", 1e20)])
def test_its_ends_are_where_the_f_test_gives_up(asymptote, model, budget):
    points = noisy(1)
    found = compute_multipliers(points, "dense", asymptote=asymptote)
    free = squares(points, asymptote)
    assert found.dof == 15 - 6 - (asymptote is None)
    assert found.noise == pytest.approx(math.sqrt(free / found.dof), rel=1e-6)
    one = found.at_compute(model, budget)
    critical = stats.f.ppf(0.95, 1, found.dof)
    for end in (one.lower, one.upper):
        bound = squares(points, asymptote, (model, budget, math.log(end)))
        # At a given E the laws are taken as straight in their parameters, and E by a grid
        assert (bound - free) / (free / found.dof) == pytest.approx(critical, rel=0.03)
    inside = squares(points, asymptote, (model, budget, math.log(one.value)))
    assert inside == pytest.approx(free, rel=1e-6)


def test_at_a_loss_the_interval_is_nearly_that_at_its_compute():
    found = compute_multipliers(noisy(2), "dense")
    one = found.at_compute("peer", 1e19)
    other = found.at_loss("peer", one.loss)
    # The compute that has the loss is uncertain too, and a multiplier changes little with it
    assert np.log(other.estimate) == pytest.approx(np.log(one.estimate), abs=0.1)


def test_a_range_of_asymptotes_gives_a_range_of_multipliers():
    points = noisy(3, 0.03)  # so that the losses exclude none of them
    ranged = compute_multipliers(points, "dense", asymptote=(1.5, 1.8)).at_compute("moe", 1e20)
    each = [
        compute_multipliers(points, "dense", asymptote=float(at)).at_compute("moe", 1e20).value
        for at in np.linspace(1.5, 1.8, 7)
    ]
    assert ranged.least == pytest.approx(min(each), rel=1e-6)
    assert ranged.most == pytest.approx(max(each), rel=1e-6)
    assert ranged.lower < ranged.least < ranged.most < ranged.upper


def test_swapping_the_arms_inverts_it_at_the_same_loss():
    points = noisy(4, models=("dense", "peer"))
    one = compute_multipliers(points, "dense").at_loss("peer", 2.9)
    other = compute_multipliers(points, "peer").at_loss("dense", 2.9)
    assert (1 / other.value, 1 / other.upper, 1 / other.lower) == pytest.approx(one.estimate)


def test_units_of_compute_do_not_matter():
    points = noisy(5)
    peta = {m: (c / 1e15, losses) for m, (c, losses) in points.items()}
    one, other = (compute_multipliers(p, "dense").at() for p in (points, peta))
    for a, b in zip(one, other, strict=True):
        assert a.estimate == pytest.approx(b.estimate, rel=1e-6)


def test_unequal_slopes_are_tested():
    points = noisy(6, 1e-4)
    assert compute_multipliers(points, "dense").p_equal < 1e-3
    same = {m: points[m] for m in ("dense", "peer")}
    assert compute_multipliers(same, "dense").p_equal > 0.01
    assert compute_multipliers(exact("moe"), "dense").p_equal == 0


def test_the_test_of_slopes_is_the_f_test_by_hand():
    """Two slopes more than one, of three models' 15 points about a known asymptote."""
    points = noisy(2, 0.03)

    def squares(n_slopes):
        def residuals(theta):
            alphas = theta[3:] if n_slopes == 3 else theta[3:].repeat(3)
            laws = zip(theta[:3], alphas, points.values(), strict=True)
            return np.concatenate(
                [L - E - np.exp(log_a - alpha * np.log(c / 1e19)) for log_a, alpha, (c, L) in laws]
            )

        start = np.array([0.0, 0.0, 0.0, *[0.1] * n_slopes])
        return 2 * optimize.least_squares(residuals, start, xtol=1e-12, ftol=1e-12).cost

    own, one = squares(3), squares(1)
    expected = stats.f.sf(((one - own) / 2) / (own / 9), 2, 9)
    assert 0.01 < expected < 0.99
    found = compute_multipliers(points, "dense", asymptote=E)
    assert found.p_equal == pytest.approx(expected, rel=1e-4)


# Tables with a known truth

SURFACES = {
    "dense": ChinchillaSurface(),
    "peer": ChinchillaSurface(A=350.0, B=330.0),
    "moe": ChinchillaSurface(A=300.0, alpha=0.33),
}


def table_of(seed, budgets, noise):
    """Seven sizes a budget, within 8 times of the best."""
    parts = [
        simulate_isoflop(surface, budgets, 7, span=8.0, noise=noise, seed=3 * seed + k).assign(
            model=model, series=model
        )
        for k, (model, surface) in enumerate(SURFACES.items())
    ]
    return pd.concat(parts, ignore_index=True)


@functools.cache
def true_multiplier(model, budget):
    """By a search over the compute of dense."""

    def best(surface, c):
        return float(surface.loss(*surface.optimum(c)))

    target = best(SURFACES[model], budget)
    root = optimize.brentq(lambda u: best(SURFACES["dense"], math.exp(u)) - target, 20, 80)
    return math.exp(root) / budget


@pytest.mark.night
@pytest.mark.parametrize(
    ("n_seeds", "n_budgets", "noise", "asymptote"),
    [
        (200, 3, 0.01, None),
        (200, 4, 0.02, None),
        (200, 4, 0.005, (1.4, 1.9)),
        (200, 6, 0.01, None),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(n_seeds, n_budgets, noise, asymptote):
    budgets = np.geomspace(1e18, 1e21, n_budgets)
    stated = (budgets[0], math.sqrt(budgets[0] * budgets[-1]), budgets[-1])
    hits = []
    for seed in range(n_seeds):
        fit = fit_isoflop(table_of(seed, budgets, noise), n_draws=2)
        found = find_multipliers(fit, "dense", asymptote=asymptote)
        hits.append(
            [
                one.lower <= true_multiplier(one.model, round(one.compute, -12)) <= one.upper
                for one in found.at(budgets=stated)
            ]
        )
    least = 0.95 - 3 * math.sqrt(0.95 * 0.05 / n_seeds)  # three standard errors below
    assert np.mean(hits, axis=0).min() >= least


# What is said of it


def test_what_is_beyond_the_budgets_is_flagged():
    found = compute_multipliers(exact("peer"), "dense")
    assert truth("peer", C[-1]) > 1
    flags = {one.compute: one.extrapolated for one in found.at()}
    assert [flags[c] for c in sorted(flags)] == [False] * 4 + [True]
    assert "at C=1e21 the laws are continued beyond the budgets for peer" in found.warnings
    assert found.at_compute("peer", 9e16).extrapolated
    assert found.at_loss("peer", 2.2).extrapolated
    over = found.over_compute("peer")
    assert not any(one.extrapolated for one in over)
    assert over[0].compute == pytest.approx(C[0])
    assert over[-1].compute * over[-1].value == pytest.approx(C[-1])
    assert not any(one.extrapolated for one in found.over_loss("peer"))
    assert found.over_loss("peer")[0].loss > found.over_loss("peer")[-1].loss


def test_an_asymptote_that_the_runs_do_not_tell_is_said():
    rng = np.random.default_rng(0)
    few = {m: (C[:3], loss(m, C[:3]) + rng.normal(0, 0.05, 3)) for m in LAWS}
    found = compute_multipliers(few, "dense")
    assert found.asymptotes[0] == 0
    assert any("asymptote" in text for text in found.warnings)
    assert found.status is FitStatus.WARNING


def test_without_a_degree_of_freedom_there_is_no_interval():
    two = {m: (C[:2], loss(m, C[:2])) for m in ("dense", "peer")}
    found = compute_multipliers(two, "dense", asymptote=E)
    one = found.at()[0]
    assert one.value == pytest.approx(truth("peer", C[0]), rel=1e-6)
    assert math.isnan(one.lower)
    assert found.warnings[0] == "no degree of freedom: the intervals are unknown"
    ranged = compute_multipliers(two, "dense", asymptote=(1.0, 2.0)).at()[0]
    assert ranged.least < ranged.value < ranged.most
    with pytest.raises(FitError, match="4 points for 5 parameters can't tell the asymptote: give"):
        compute_multipliers(two, "dense")


def test_a_loss_that_no_compute_reaches_has_no_multiplier():
    one = compute_multipliers(exact("peer"), "dense").at_loss("peer", 1.5)
    assert math.isnan(one.value)
    assert one.extrapolated


def test_models_without_a_law_are_left_out_by_name():
    points = {**exact("peer"), "one": ([1e18], [3.0]), "up": (C, loss("peer")[::-1])}
    found = compute_multipliers(points, "dense")
    assert found.skipped == {
        "one": "a single budget; a law needs two, so add runs at another",
        "up": "the losses do not fall with compute",
    }
    assert "not compared: up: the losses do not fall" in found.summary()
    with pytest.raises(FitError, match="up: the losses do not fall with compute"):
        compute_multipliers(points, "up")
    with pytest.raises(FitError, match="no model to compare with dense: one: a single budget"):
        compute_multipliers({"dense": points["dense"], "one": points["one"]}, "dense")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"asymptote": -0.1}, "asymptote=-0.1 must be at least 0 and below the lowest loss"),
        ({"asymptote": 3.0}, "asymptote=3.0 must be at least 0"),
        (
            {"asymptote": (1.8, 1.2)},
            r"asymptote=\(1.8, 1.2\) must be .* lower end of a range first",
        ),
        ({"asymptote": math.nan}, "asymptote=nan must be at least 0"),
        ({"slopes": "two"}, "slopes='two' is not one of own, one"),
        ({"level": 95}, "level=95 must be between 0 and 1"),
        ({"baseline": "pkm"}, "baseline='pkm' is not one of dense, peer"),
        ({"points": {"dense": (C, [3.0])}}, "dense: 5 budgets for 1 losses"),
        ({"points": {"dense": ([0.0], [3.0])}}, r"dense: budget\[0\]=0.0 must be finite and above"),
    ],
)
def test_what_can_not_be_is_refused(changes, message):
    given = {"points": exact("peer"), "baseline": "dense", **changes}
    with pytest.raises(ValueError, match=message):
        compute_multipliers(**given)
    found = compute_multipliers(exact("peer"), "dense")
    with pytest.raises(ValueError, match="model='pkm' is not one of peer"):
        found.at_compute("pkm", 1e18)


def test_it_is_plain():
    found = compute_multipliers(noisy(7), "dense")
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(values["at"]) == 10
    assert values["at"][0]["value"] == found.at()[0].value
    assert set(values["over_loss"]) == {"peer", "moe"}
    assert "profile" not in values
    assert list(found.to_frame()["model"]) == ["peer"] * 5 + ["moe"] * 5


def test_points_may_be_the_lowest_loss_of_each_budget():
    table = table_of(0, [1e18, 1e19, 1e20], 0.0)
    points = lowest_points(table)
    budgets, losses = points["peer"]
    own = table[table["model"] == "peer"]
    assert list(budgets) == [1e18, 1e19, 1e20]
    assert list(losses) == [own.loc[own["budget"] == c, "loss"].min() for c in budgets]
