"""Loss surface: known ones come back, others have warnings, and what is derived is right."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special

from analysis.fitting.status import FitError, FitStatus
from analysis.parametric import fit_parametric
from tests.analysis.tables import BESIROGLU, HOFFMANN, around_the_optimum, best_size, surface

# P7: five budgets, 15 points, +-16 times around the optimum
P7 = around_the_optimum(np.geomspace(1e17, 1e21, 5), 15, 16.0, HOFFMANN)[1:]
GRID = [v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e11, 6))]


def noisy(N, D, law=BESIROGLU, sd=0.005, seed=0):
    return surface(N, D, **law) * np.exp(np.random.default_rng(seed).normal(0, sd, len(N)))


@pytest.fixture(scope="module")
def fit():
    N, D = GRID
    return fit_parametric(N, D, noisy(N, D), n_draws=60)


@pytest.mark.parametrize("design", [P7, GRID], ids=["isoFLOP", "grid"])
@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU])
@pytest.mark.parametrize(
    "how",
    [{}, {"delta": np.inf}, {"residual": "loss"}, {"residual": "loss", "delta": np.inf}],
)
def test_a_clean_surface_comes_back(design, law, how):
    N, D = design
    found = fit_parametric(N, D, surface(N, D, **law), n_draws=0, **how)
    # P7: less than 1e-6 from the truth
    assert found.params == pytest.approx(law, rel=1e-6)
    assert found.status is FitStatus.CONVERGED
    assert found.warnings == ()
    assert found.rmse < 1e-9


def test_order_shape_and_types_do_not_matter(fit):
    N, D = GRID
    L = noisy(N, D)
    order = np.random.default_rng(1).permutation(len(N))
    shuffled = fit_parametric(N[order], D[order], L[order], n_draws=0)
    series = fit_parametric(pd.Series(N, index=order), list(D), L.reshape(6, 6), n_draws=0)
    for other in (shuffled, series):
        # 1e-6: where a flat sum ends, summed in another order
        assert other.params == pytest.approx(fit.params, rel=1e-6)


def test_other_units_change_the_coefficients_only(fit):
    N, D = GRID
    scaled = fit_parametric(N / 1e6, D / 1e9, noisy(N, D), n_draws=0)
    p = fit.params
    expected = {**p, "A": p["A"] * 1e6 ** -p["alpha"], "B": p["B"] * 1e9 ** -p["beta"]}
    assert scaled.params == pytest.approx(expected, rel=1e-5)  # A moves with alpha, 14-fold
    assert scaled.objective == pytest.approx(fit.objective, rel=1e-9)


def hoffmanns_sum(theta, N, D, L, delta=1e-3):
    """log-sum-exp and Huber's sum as Hoffmann 2022, eq. 3, writes them; theta = a, b, e, ..."""
    a, b, e, alpha, beta = theta
    predicted = special.logsumexp(
        [a - alpha * np.log(N), b - beta * np.log(D), np.full(len(N), e)], axis=0
    )
    return special.huber(delta, predicted - np.log(L)).sum()


def test_the_objective_is_hoffmanns_and_no_start_of_lbfgs_ends_lower(fit):
    N, D = GRID
    L = noisy(N, D)
    E, A, B, alpha, beta = fit.estimates
    at = np.array([np.log(A), np.log(B), np.log(E), alpha, beta])
    assert fit.objective == pytest.approx(hoffmanns_sum(at, N, D, L), rel=1e-10)
    rng = np.random.default_rng(0)
    for start in rng.uniform([0, 0, -1, 0.1, 0.1], [20, 20, 1, 0.8, 0.8], (4, 5)):
        theirs = optimize.minimize(
            hoffmanns_sum,
            start,
            (N, D, L),
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-9, "maxfun": 5000},
        )
        # From our optimum too, by another method: nothing is left to gain
        assert fit.objective <= theirs.fun * (1 + 1e-7)
    polished = optimize.minimize(
        hoffmanns_sum, at, (N, D, L), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-16}
    )
    assert fit.objective <= polished.fun * (1 + 1e-7)


def test_the_gradient_is_nought_by_finite_differences(fit):
    N, D = GRID
    L = noisy(N, D)
    E, A, B, alpha, beta = fit.estimates
    at = np.array([np.log(A), np.log(B), np.log(E), alpha, beta])

    def slopes(theta, h=1e-6):
        return np.array(
            [
                (hoffmanns_sum(theta + h * e, N, D, L) - hoffmanns_sum(theta - h * e, N, D, L))
                / (2 * h)
                for e in np.eye(5)
            ]
        )

    off = slopes(at + np.array([0.01, 0, 0, 0, 0]))
    # 1e-3 of the slope a percent away: Huber's kinks within the step
    assert np.abs(slopes(at)).max() < 1e-3 * np.abs(off).max()
    assert fit.gradient < 1e-6


def test_squares_of_the_loss_are_scipys_least_squares():
    N, D = P7
    L = noisy(N, D, HOFFMANN)
    found = fit_parametric(N, D, L, residual="loss", delta=np.inf, n_draws=0)

    def residuals(theta):
        a, b, e, alpha, beta = theta
        return np.exp(e) + np.exp(a - alpha * np.log(N)) + np.exp(b - beta * np.log(D)) - L

    start = [np.log(400), np.log(400), np.log(1.7), 0.34, 0.28]
    theirs = optimize.least_squares(residuals, start, x_scale="jac", xtol=1e-15, ftol=1e-15)
    assert found.objective == pytest.approx(theirs.cost, rel=1e-9)
    expected = [np.exp(theirs.x[2]), *np.exp(theirs.x[:2]), *theirs.x[3:]]
    # 1e-4: scipy's finite differences along a valley of condition 30
    assert found.estimates == pytest.approx(expected, rel=1e-4)


def test_an_outlier_moves_hubers_fit_less_than_that_of_squares():
    N, D = P7
    L = noisy(N, D, HOFFMANN)
    L[7] *= 1.5
    by_huber, by_squares = (
        abs(fit_parametric(N, D, L, delta=delta, n_draws=0).params["alpha"] - 0.34)
        for delta in (1e-3, np.inf)
    )
    assert by_huber < 0.1 * by_squares


def test_share_at_best_counts_starts(fit):
    assert fit.share_at_best > 0.9
    assert fit.share_at_best * fit.n_starts == pytest.approx(
        round(fit.share_at_best * fit.n_starts)
    )
    n = np.geomspace(1e7, 1e10, 40)
    valley = fit_parametric(n, 20 * n, surface(n, 20 * n, **BESIROGLU), n_draws=0)
    assert valley.share_at_best < 0.2
    assert "starts reached the best value" in " ".join(valley.warnings)


def design(kind):
    n, d = np.geomspace(1e7, 1e10, 40), np.geomspace(1e9, 1e11, 40)
    jitter = np.exp(np.random.default_rng(3).normal(0, 0.05, 40))
    return {
        "fixed D/N": (n, 20 * n),
        "nearly fixed D/N": (n, 20 * n * jitter),
        "one budget": (n, 1e20 / 6 / n),
        "nearly one budget": (n, 1e20 / 6 / n * jitter),
        "one size": (np.full(40, 1e8), d),
        "one token count": (n, np.full(40, 1e10)),
        "two sizes": (np.tile([1e8, 1e9], 20), d),
        "two token counts": (n, np.tile([1e9, 1e10], 20)),
    }[kind]


@pytest.mark.parametrize("sd", [0.0, 0.005])
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("fixed D/N", "tokens per parameter are nearly fixed"),
        ("nearly fixed D/N", "tokens per parameter are nearly fixed"),
        ("one budget", "the budget is nearly fixed"),
        ("nearly one budget", "the budget is nearly fixed"),
        ("one size", "all sizes are the same"),
        ("one token count", "all token counts are the same"),
        ("two sizes", "identifiable from these runs"),
        ("two token counts", "identifiable from these runs"),
    ],
)
def test_designs_that_can_not_tell_are_flagged(kind, says, sd):
    N, D = design(kind)
    found = fit_parametric(N, D, noisy(N, D, sd=sd), n_draws=20)
    assert found.status is not FitStatus.CONVERGED
    assert says in " ".join(found.warnings)
    assert says in found.summary()


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        (lambda N, D: np.full(len(N), 3.0), "its term does not matter"),
        (lambda N, D: 2 + 0.1 * np.log(N), "E stopped at the lowest loss"),
        (lambda N, D: 0.5 * N**-0.01 * np.log(D), "beta is not identifiable"),
        (lambda N, D: 1.8 + 2000 * D**-0.37, "alpha|A is at its bound"),
        (lambda N, D: 4e7 / N**1.0 + 2e9 / D**1.0, "E stopped at 0"),
        (lambda N, D: 3 + np.random.default_rng(0).normal(0, 0.1, len(N)), "bound"),
    ],
)
def test_what_is_no_such_surface_hits_a_bound(losses, says):
    N, D = GRID
    found = fit_parametric(N, D, losses(N, D), n_draws=20)
    assert found.status is FitStatus.BOUND_HIT
    assert any(part in " ".join(found.warnings) for part in says.split("|"))


def test_the_edge_of_given_bounds_is_told_with_them():
    N, D = GRID
    found = fit_parametric(N, D, noisy(N, D), exponent_bounds=(0.05, 0.3), n_draws=0)
    assert found.status is FitStatus.BOUND_HIT
    assert "alpha=0.3 is at the edge of exponent_bounds=(0.05, 0.3)" in found.warnings
    assert found.params["alpha"] == found.params["beta"] == 0.3


def test_few_runs_are_flagged_and_fewer_refused():
    N, D = (v[[0, 5, 14, 21, 30, 35]] for v in GRID)
    found = fit_parametric(N, D, noisy(N, D), n_draws=5)
    assert "6 runs for 5 parameters: the intervals say little" in found.warnings
    assert found.status is not FitStatus.CONVERGED
    with pytest.raises(FitError, match="3 distinct runs: the 5 parameters of chinchilla"):
        fit_parametric(N[:3], D[:3], noisy(N, D)[:3])
    with pytest.raises(FitError, match="5 distinct runs"):  # seeds are no new designs
        fit_parametric(np.repeat(N[:5], 9), np.repeat(D[:5], 9), np.repeat(noisy(N, D)[:5], 9))
    with pytest.raises(FitError, match="0 distinct runs"):
        fit_parametric([], [], [])


@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -2.0, None])
def test_bad_values_are_named(column, bad):
    N, D = GRID
    columns = [list(N), list(D), list(noisy(N, D))]
    columns[column][3] = bad
    name = ("n_params", "n_tokens", "loss")[column]
    with pytest.raises(ValueError, match=rf"{name}\[3\]=.* must be finite and above 0; 1 of 36"):
        fit_parametric(*columns)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"delta": 0.0}, "delta=0.0 must be above 0; inf is plain least squares"),
        ({"delta": -1e-3}, "delta=-0.001 must be above 0"),
        ({"delta": np.nan}, "delta=nan must be above 0"),
        ({"residual": "nats"}, "residual='nats' is neither 'log' nor 'loss'"),
        ({"exponent_bounds": (0.0, 1.0)}, "must be 0 < lower < upper"),
        ({"exponent_bounds": (1.0, 0.5)}, "must be 0 < lower < upper"),
        ({"groups": [0] * 36}, "groups has 1 values: a bootstrap needs at least 3; name a column"),
        ({"groups": [0, 1] * 18}, "groups has 2 values"),
        ({"groups": [0, 1, 2]}, "groups has 3 labels for 36 runs"),
        ({"groups": [None, *"a" * 12, *"b" * 12, *"c" * 11]}, "groups"),
        ({"groups": [np.nan, *range(35)]}, "groups"),
        ({"exponent_bounds": (0.01, np.inf)}, "exponent_bounds"),
    ],
)
def test_bad_options_are_named(how, says):
    N, D = GRID
    with pytest.raises(ValueError, match=says):
        fit_parametric(N, D, noisy(N, D), **how)


def test_unequal_lengths_are_named():
    N, D = GRID
    with pytest.raises(ValueError, match=r"different lengths: .*'n_params': 35, 'n_tokens': 36"):
        fit_parametric(N[1:], D, noisy(N, D))


def test_groups_of_one_are_cases_and_groups_with_a_fault_in_common_widen():
    N, D = GRID
    L = noisy(N, D, sd=0.001)
    cases = fit_parametric(N, D, L, n_draws=40)
    ones = fit_parametric(N, D, L, groups=np.arange(len(N)), n_draws=40)
    # 1e-6: the same draws, descended in the same way
    np.testing.assert_allclose(ones.draws, cases.draws, rtol=1e-6)
    assert "case" in cases.interval
    assert ones.interval == "percentiles of 40 draws of 36 clusters"
    sizes = np.unique(N, return_inverse=True)[1]
    shifted = L * np.exp(np.random.default_rng(1).normal(0, 0.02, 6))[sizes]
    by_case = fit_parametric(N, D, shifted, n_draws=100)
    by_size = fit_parametric(N, D, shifted, n_draws=100, groups=[f"s{s}" for s in sizes])
    assert by_size.params == pytest.approx(by_case.params, rel=1e-9)
    assert by_size.bse["E"] > 1.5 * by_case.bse["E"]


def test_draws_follow_the_seed_and_the_estimate_does_not():
    N, D = GRID
    L = noisy(N, D)
    one, same, other = (fit_parametric(N, D, L, n_draws=10, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.draws, same.draws)
    assert (one.draws != other.draws).any()
    assert one == same
    assert one.estimates == other.estimates


def test_without_draws_there_are_no_intervals():
    N, D = GRID
    found = fit_parametric(N, D, noisy(N, D), n_draws=0)
    assert found.conf_int().isna().all(axis=None)
    assert np.isnan(list(found.bse.values())).all()
    assert np.isnan(found.predict(1e9, 1e10).lower)
    assert np.isnan(found.optimum(1e20)["n_params"].upper)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["conf_int"]["E"] == [None, None]


def test_intervals_are_percentiles_of_the_draws(fit):
    bounds = fit.conf_int(level=0.8)
    low, high = np.quantile(fit.draws, [0.1, 0.9], axis=0)
    np.testing.assert_allclose(bounds["lower"], low)
    np.testing.assert_allclose(bounds["upper"], high)
    np.testing.assert_allclose(list(fit.bse.values()), fit.draws.std(axis=0, ddof=1))
    assert list(bounds.index) == ["E", "A", "B", "alpha", "beta"]


def test_predictions_are_of_the_surface_with_the_draws_band(fit):
    N, D = np.array([[1e8], [1e9]]), np.array([1e10, 3e10, 1e11])
    band = fit.predict(N, D, level=0.9)
    np.testing.assert_allclose(band.value, surface(N, D, **fit.params), rtol=1e-14)
    each = np.stack(
        [surface(N, D, **dict(zip(fit.names, draw, strict=True))) for draw in fit.draws]
    )
    np.testing.assert_allclose(band.lower, np.quantile(each, 0.05, axis=0))
    np.testing.assert_allclose(band.upper, np.quantile(each, 0.95, axis=0))
    assert band.level == 0.9
    assert np.ndim(fit.predict(1e9, 1e10).value) == 0


@pytest.mark.parametrize("per_token", [6.0, 7.3])
@pytest.mark.parametrize("budget", [1e18, 5.76e23])
def test_the_optimum_is_the_lowest_of_a_search(fit, budget, per_token):
    best = fit.optimum(budget, flops_per_param_token=per_token)
    found = optimize.minimize_scalar(
        lambda n: surface(np.exp(n), budget / per_token / np.exp(n), **fit.params),
        bounds=(np.log(1e5), np.log(1e14)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    # 1e-6: the place of a minimum is told to the root of the precision of its value
    assert best["n_params"].value == pytest.approx(np.exp(found.x), rel=1e-6)
    assert best["loss"].value == pytest.approx(found.fun, rel=1e-12)
    N, D = best["n_params"].value, best["n_tokens"].value
    assert per_token * N * D == pytest.approx(budget, rel=1e-12)
    assert best["tokens_per_param"].value == pytest.approx(D / N, rel=1e-12)
    sizes = [
        best_size(budget * 6 / per_token, **dict(zip(fit.names, draw, strict=True)))
        for draw in fit.draws
    ]
    assert best["n_params"].lower == pytest.approx(np.quantile(sizes, 0.025), rel=1e-9)
    assert best["n_params"].upper == pytest.approx(np.quantile(sizes, 0.975), rel=1e-9)


def test_exponents_are_those_of_the_optimum(fit):
    a, b = fit.exponents()["a"], fit.exponents()["b"]
    growth = np.log(fit.optimum(1e22)["n_params"].value / fit.optimum(1e20)["n_params"].value)
    assert a.value == pytest.approx(growth / np.log(100), rel=1e-12)
    assert a.value + b.value == pytest.approx(1.0)
    assert a.lower + b.upper == pytest.approx(1.0)
    assert a.lower < a.value < a.upper


def test_a_contour_has_its_loss_everywhere_or_is_infinite(fit):
    sizes = np.geomspace(1e6, 1e12, 13)
    goal = fit.optimum(1e20)["loss"].value
    tokens = fit.contour(goal, sizes)
    reached = np.isfinite(tokens)
    assert 0 < reached.sum() < len(sizes)
    np.testing.assert_allclose(surface(sizes[reached], tokens[reached], **fit.params), goal)
    # Where none do, all the tokens there are would not
    assert (surface(sizes[~reached], 1e30, **fit.params) > goal).all()
    # No point of the line costs less than the optimum's budget
    assert (6 * sizes[reached] * tokens[reached]).min() >= 1e20 * (1 - 1e-9)
    assert np.isinf(fit.contour(fit.params["E"], 1e9))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_levels_are_checked(fit, level):
    for ask in (
        lambda: fit.conf_int(level=level),
        lambda: fit.predict(1e9, 1e10, level=level),
        lambda: fit.optimum(1e20, level=level),
        lambda: fit.exponents(level=level),
    ):
        with pytest.raises(ValueError, match=r"level=.* must be between 0 and 1"):
            ask()


@pytest.mark.parametrize("budget", [0.0, -1e20, np.nan])
def test_an_optimum_needs_a_budget(fit, budget):
    with pytest.raises(ValueError, match="budget"):
        fit.optimum(budget)


def test_losses_that_rise_with_size_have_no_optimum():
    N, D = around_the_optimum(np.geomspace(1e17, 1e20, 5), 6, 8.0, HOFFMANN)[1:]
    found = fit_parametric(N, D, 2 + 1e-9 * N, n_draws=30)
    assert "bound hit" in found.summary()
    for value in found.optimum(1e24).values():  # ln N of some draws is in the thousands
        assert str(value).startswith("no minimum within ")


def test_json_has_the_range_and_the_delta_and_text_the_rest(fit):
    back = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
    assert (back["objective"], back["condition"]) == (fit.objective, fit.condition)
    assert tuple(back["nd_range"]) == fit.nd_range
    assert fit.nd_range[0] < fit.nd_range[1]
    squares = fit_parametric(*GRID, noisy(*GRID), delta=np.inf, n_draws=2)
    assert json.loads(json.dumps(squares.to_dict(), allow_nan=False))["delta"] is None
    for line in ("alpha", "percentiles of 60 case draws", "36 points"):
        assert line in fit.summary()
