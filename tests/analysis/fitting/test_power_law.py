"""Power laws of compute against scipy's regressions, and their warnings."""

import json

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.fitting import power_law
from analysis.fitting.power_law import fit_frontier, fit_power_law
from analysis.fitting.status import FitError, FitStatus

C = np.geomspace(1e17, 1e22, 9)


def scattered(seed=0, sd=0.05):
    rng = np.random.default_rng(seed)
    return 0.3 * C**0.48 * np.exp(rng.normal(0, sd, len(C)))


def frontier(budget, E=1.8, A=200.0, alpha=0.12):
    return E + A * budget**-alpha


def test_the_line_and_its_errors_are_linregress():
    y = scattered()
    law = fit_power_law(C, y, y_name="n_params")
    theirs = stats.linregress(np.log(C), np.log(y))
    # 1e-9: linregress does not centre, and ln C is near 45
    assert law.exponent == pytest.approx(theirs.slope, rel=1e-9)
    assert np.log(law.coefficient) == pytest.approx(theirs.intercept, rel=1e-9)
    assert law.r_squared == pytest.approx(theirs.rvalue**2, rel=1e-12)
    assert law.bse["exponent"] == pytest.approx(theirs.stderr, rel=1e-9)
    assert law.bse["coefficient"] == pytest.approx(
        theirs.intercept_stderr * law.coefficient, rel=1e-9
    )
    t = stats.t.ppf(0.95, len(C) - 2)
    bounds = law.conf_int(level=0.9)
    assert bounds.loc["exponent"].tolist() == pytest.approx(
        [theirs.slope - t * theirs.stderr, theirs.slope + t * theirs.stderr]
    )
    assert np.log(bounds.loc["coefficient"]).tolist() == pytest.approx(
        [
            theirs.intercept - t * theirs.intercept_stderr,
            theirs.intercept + t * theirs.intercept_stderr,
        ]
    )
    assert (law.n_points, law.dof) == (9, 7)
    assert law.x_range == pytest.approx((1e17, 1e22))
    assert law.status is FitStatus.CONVERGED
    assert law.warnings == ()


def test_the_band_is_the_textbooks_and_widens_outside():
    y = scattered()
    law = fit_power_law(C, y)
    x = np.array([1e15, 1e19, 1e25])
    band = law.predict(x)
    u, v = np.log(C), np.log(x)
    residuals = np.log(y) - np.log(law.predict(C).value)
    s2 = residuals @ residuals / 7
    spread = np.sqrt(s2 * (1 / 9 + (v - u.mean()) ** 2 / ((u - u.mean()) ** 2).sum()))
    expected = stats.t.ppf(0.975, 7) * spread
    # 1e-6: the covariance of intercept and slope, uncentred, loses eight digits of sixteen
    np.testing.assert_allclose(np.log(band.upper / band.value), expected, rtol=1e-6)
    np.testing.assert_allclose(band.value, law.coefficient * x**law.exponent, rtol=1e-12)
    np.testing.assert_allclose(band.value**2, band.lower * band.upper, rtol=1e-12)
    width = np.log(band.upper / band.lower)
    assert width[1] < width[0] < width[2]
    assert law.predict(1e19).value.shape == (1,)


@pytest.mark.parametrize("common", [None, np.full((9, 9), 0.04) + 0.01 * np.eye(9)])
def test_a_bend_is_a_textbook_s_parabola(common):
    log_y = np.log(scattered())
    chance, first, last = power_law._bend(np.log(C), log_y, common)
    u = np.log(C) - np.log(C).mean()
    found, covariance = np.polyfit(u, log_y, 2, cov=True)
    if common is not None:
        X = np.stack([u**2, u, np.ones(9)], axis=1)
        inverse = np.linalg.inv(X.T @ X) @ X.T
        covariance = covariance + inverse @ common @ inverse.T
    t = found[0] / np.sqrt(covariance[0, 0])
    # 1e-6: polyfit's columns are not of one length
    assert chance == pytest.approx(2 * stats.t.sf(abs(t), 6), rel=1e-6)
    assert [first, last] == pytest.approx(found[1] + 2 * found[0] * u[[0, -1]], rel=1e-6)


@pytest.mark.parametrize("fit", [fit_power_law, fit_frontier])
def test_beyond_the_points_exponents_may_drift_and_within_them_not(fit):
    law = fit(C, frontier(C) * np.exp(np.random.default_rng(0).normal(0, 0.003, 9)))
    x = np.array([C[0] / 10, C[0], 1e19, C[-1], C[-1] * 10])
    inside, found = law.predict(x), law.extrapolate(x)
    drifted = law.drifting.predict(np.log(x))
    for known, own, beyond in zip(inside[:3], found[:3], drifted[:3]):
        np.testing.assert_array_equal(own[1:4], known[1:4])
        np.testing.assert_allclose(own[[0, 4]], beyond[[0, 4]], rtol=1e-12)
    assert fit_power_law(C[:2], scattered()[:2]).drifting is None


def test_a_law_that_bends_is_flagged_and_a_straight_one_seldom():
    u = np.log(C) - np.log(C).mean()
    law = fit_power_law(C, 0.3 * C**0.48 * np.exp(0.02 * u**2))
    assert "y bends (p=" in law.warnings[0]
    first = 0.48 + 0.04 * u[0]
    assert f"goes from {first:.2g} to" in law.warnings[0]
    assert fit_power_law(C, 0.3 * C**0.48).warnings == ()
    rng = np.random.default_rng(0)
    called = [bool(fit_power_law(C, 2 * C**0.5 * np.exp(rng.normal(0, 0.1, 9))).warnings)
              for _ in range(1000)]  # fmt: skip
    assert np.mean(called) == pytest.approx(0.01, abs=0.01)  # three standard errors


def test_a_clean_law_comes_back_to_the_last_digits():
    law = fit_power_law(C, 0.3 * C**0.48)
    assert law.exponent == pytest.approx(0.48, rel=1e-12)
    assert law.coefficient == pytest.approx(0.3, rel=1e-11)  # 45 digits' rounding of ln C


@pytest.mark.parametrize(("n", "says"), [(2, "goes through both"), (3, "one degree of freedom")])
def test_few_budgets_are_flagged(n, says):
    law = fit_power_law(C[:n], scattered()[:n])
    assert law.status is FitStatus.WARNING
    assert says in " ".join(law.warnings)
    assert says in law.summary()
    low, high = law.conf_int().loc["exponent"]
    assert np.isnan([low, high]).all() if n == 2 else low < law.exponent < high


def test_one_budget_is_no_law():
    with pytest.raises(FitError, match="1 distinct budgets: this law needs at least 2"):
        fit_power_law([1e18, 1e18, 1e18], [1.0, 2.0, 3.0])


def test_repeats_of_two_budgets_have_a_scatter():
    law = fit_power_law([1e18, 1e18, 1e20, 1e20], [1.0, 1.1, 3.0, 3.3])
    assert np.isfinite(law.conf_int().to_numpy()).all()
    assert law.dof == 2


@pytest.mark.parametrize("level", [1e-9, 0.037, 4.1, 3e9])
def test_a_constant_has_exponent_zero(level):
    law = fit_power_law(C, np.full(len(C), level))
    assert law.exponent == pytest.approx(0.0, abs=1e-14)
    assert law.coefficient == pytest.approx(level)
    assert not law.r_squared < 0  # nan, or what rounding leaves
    assert np.isfinite(law.predict(1e24).value).all()


@pytest.mark.parametrize("fit", [fit_power_law, fit_frontier])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_bad_values_are_named(fit, bad):
    y = scattered()
    y[4] = bad
    with pytest.raises(ValueError, match=r"y\[4\]=.*must be finite and above 0"):
        fit(C, y)
    with pytest.raises(ValueError, match=r"x\[4\]=.*must be finite and above 0"):
        fit(y, C)


@pytest.mark.parametrize("fit", [fit_power_law, fit_frontier])
def test_lengths_and_levels_are_checked(fit):
    with pytest.raises(ValueError, match="9 x for 8 y"):
        fit(C, scattered()[:8])
    law = fit(C, frontier(C))
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match=r"level=.* must be between 0 and 1"):
            law.conf_int(level=level)
        with pytest.raises(ValueError, match=r"level=.* must be between 0 and 1"):
            law.predict(1e20, level=level)


@pytest.mark.parametrize("alpha", [0.03, 0.12, 0.35])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_clean_frontier_comes_back(alpha, share):
    # share: of the floor in the last loss
    floor, last = 2.0 * share, 2.0 * (1 - share)
    A = last * C[-1] ** alpha
    law = fit_frontier(C, frontier(C, floor, A, alpha))
    # 1e-6 relative in all, as P7 asks of approach 3
    assert law.params == pytest.approx({"E": floor, "A": A, "alpha": alpha}, rel=1e-6)
    assert law.status is FitStatus.CONVERGED
    assert law.objective < 1e-20


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_frontier_is_curve_fits(seed):
    rng = np.random.default_rng(seed)
    y = frontier(C) * np.exp(rng.normal(0, 0.003, len(C)))
    law = fit_frontier(C, y)

    def log_loss(log_c, log_e, log_a, alpha):
        return np.logaddexp(log_e, log_a - alpha * log_c)

    start = np.log([1.8, 200.0, np.exp(0.12)])
    theta, covariance = optimize.curve_fit(
        log_loss, np.log(C), np.log(y), p0=start, ftol=1e-15, xtol=1e-15
    )
    theirs = ((log_loss(np.log(C), *theta) - np.log(y)) ** 2).sum()
    assert law.objective <= theirs * (1 + 1e-9)
    # 1e-4: curve_fit's finite differences, on a flat sum
    np.testing.assert_allclose(law.theta, theta, rtol=1e-4)
    np.testing.assert_allclose(law.covariance, covariance, rtol=1e-3)
    half = stats.t.ppf(0.975, 6) * np.sqrt(covariance[2, 2])
    assert law.conf_int().loc["alpha"].tolist() == pytest.approx(
        [theta[2] - half, theta[2] + half], rel=1e-3
    )
    assert law.conf_int().loc["E"].tolist() == pytest.approx(
        np.exp(
            [
                theta[0] + sign * stats.t.ppf(0.975, 6) * np.sqrt(covariance[0, 0])
                for sign in (-1, 1)
            ]
        ).tolist(),
        rel=1e-3,
    )


def test_a_frontiers_band_is_the_delta_methods():
    y = frontier(C) * np.exp(np.random.default_rng(0).normal(0, 0.003, len(C)))
    law = fit_frontier(C, y)
    x = np.array([1e18, 1e24])
    band = law.predict(x)

    def log_loss(theta):
        return np.logaddexp(theta[0], theta[1] - theta[2] * np.log(x))

    theta, h = np.array(law.theta), 1e-6
    J = np.stack(
        [(log_loss(theta + h * e) - log_loss(theta - h * e)) / (2 * h) for e in np.eye(3)], axis=1
    )
    spread = np.sqrt(np.einsum("ni,ij,nj->n", J, np.array(law.covariance), J))
    # 1e-5: the differences above
    np.testing.assert_allclose(
        np.log(band.upper / band.value), stats.t.ppf(0.975, law.dof) * spread, rtol=1e-5
    )
    np.testing.assert_allclose(
        band.value, law.params["E"] + law.params["A"] * x ** -law.params["alpha"]
    )


def test_four_budgets_are_flagged_and_three_refused():
    law = fit_frontier(C[:4], frontier(C[:4]) * [1, 1.001, 0.999, 1])
    assert law.dof == 1
    assert law.status is not FitStatus.CONVERGED
    assert "4 budgets for 3 parameters" in " ".join(law.warnings)
    with pytest.raises(FitError, match="3 distinct budgets: this law needs at least 4"):
        fit_frontier(C[[0, 1, 2, 2]], frontier(C[[0, 1, 2, 2]]))


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        (20.0 * C**-0.05, "E cannot be distinguished from 0"),
        (3.0 - 0.02 * np.log(C), "E cannot be distinguished from 0"),
        (np.where(C < 1e20, 3.0, 2.0), "E cannot be distinguished from 0"),
        (2.0 + 0.01 * np.log(C), "E stopped at the lowest loss"),
        (np.where(C < 3e17, 3.0, 2.0), "is at its bound"),
    ],
)
def test_what_is_no_frontier_hits_a_bound(losses, says):
    law = fit_frontier(C, losses)
    assert law.status is FitStatus.BOUND_HIT
    assert says in " ".join(law.warnings)
    assert "bound hit" in law.summary()
    assert json.dumps(law.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("alpha", "flagged"), [(1.9, False), (2.1, True)])
def test_a_law_steeper_than_the_bound_is_flagged(alpha, flagged):
    C = np.geomspace(1, 10, 8)
    fit = fit_frontier(C, 2 + 3 * C**-alpha)
    assert fit.params["alpha"] == pytest.approx(min(alpha, 2.0), rel=1e-9)
    assert (fit.status is FitStatus.BOUND_HIT) == flagged
    assert ("alpha=2 is at the edge of (0.001, 2.0)" in fit.warnings) == flagged


def test_constant_losses_are_no_frontier_either():
    law = fit_frontier(C, np.full(len(C), 3.0))
    assert law.status not in (FitStatus.CONVERGED, FitStatus.WARNING)
    assert law.predict(1e20).value[0] == pytest.approx(3.0, rel=1e-3)
