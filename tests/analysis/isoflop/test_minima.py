"""Minima of curves against slow ways to find them, and intervals that cover what they should."""

import numpy as np
import pytest
from scipy import stats
from scipy.interpolate import Akima1DInterpolator

from analysis.isoflop.akima import akima_minimum
from analysis.isoflop.flags import Flag, check_minimum
from analysis.isoflop.resample import nearest, redrawn_minima, resampled_minima
from analysis.isoflop.shape import fit_parabola

U = np.log(np.geomspace(5e4, 2e6, 7))
ONE = np.ones(7)  # run behind each point
SKEWED = np.log([5e4, 6e4, 8e4, 1.1e5, 4e5, 9e5, 2e6])  # a and the slope vary together
AT = float(np.log(3e5))


def bowl(u=U, a=0.05, at=AT, level=4.5):
    return level + a * (u - at) ** 2


def flags(losses, u=U, method="parabola", interval=(np.nan, np.nan)):
    parabola = fit_parabola(u, losses)
    u_opt = parabola.u_opt if method == "parabola" else akima_minimum(u, losses[None])[0][0]
    return {flag for flag, _ in check_minimum(u, losses, parabola, u_opt, method, interval)}


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e3])
def test_the_parabola_is_polyfits(offset):
    losses = bowl() + np.random.default_rng(0).normal(0, 0.02, 7)
    found = fit_parabola(U + offset, losses)
    centre = U.mean()
    a, slope, level = np.polyfit(U - centre, losses, 2)
    # 1e-9: ln(size) + 1e3 is given to 1e-13 only
    assert [found.a, found.slope, found.level] == pytest.approx([a, slope, level], rel=1e-9)
    assert found.u_opt == pytest.approx(centre - slope / (2 * a) + offset, rel=1e-9)
    assert found.loss_opt == pytest.approx(level - slope**2 / (4 * a), rel=1e-12)
    expected = losses - np.polyval([a, slope, level], U - centre)
    np.testing.assert_allclose(found.residuals, expected, atol=1e-11)
    assert found.rmse == pytest.approx(np.sqrt(np.mean(expected**2)))
    np.testing.assert_allclose(found.loss(U + offset) + found.residuals, losses, rtol=1e-12)
    X = np.stack([(U - centre) ** 2, U - centre, np.ones(7)], axis=1)
    np.testing.assert_allclose(found.unscaled, np.linalg.inv(X.T @ X), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.leverage, np.diag(X @ np.linalg.inv(X.T @ X) @ X.T), rtol=1e-8)


def test_no_minimum_is_nan():
    found = fit_parabola(U, -bowl())
    assert np.isnan([found.u_opt, found.loss_opt]).all()
    assert found.u_interval(0.01, 2.0) == (-np.inf, np.inf)


@pytest.mark.parametrize("places", [U, SKEWED], ids=["even", "skewed"])
def test_fiellers_interval_is_where_the_slope_is_not_told_from_nought(places):
    found = fit_parabola(places, bowl(places) + np.random.default_rng(1).normal(0, 0.01, 7))
    sd, t = 0.02, 2.5
    low, high = found.u_interval(sd, t)
    u = np.linspace(U[0] - 1, U[-1] + 1, 200_001)
    v = u - found.centre
    slope = 2 * found.a * v + found.slope
    V = found.unscaled
    error = sd * np.sqrt(4 * v**2 * V[0, 0] + 4 * v * V[0, 1] + V[1, 1])
    inside = u[np.abs(slope) <= t * error]
    # 5e-5: twice the grid's step
    assert (low, high) == pytest.approx((inside[0], inside[-1]), abs=5e-5)
    assert low < found.u_opt < high
    # Not symmetric, as its derivation by a straight line would be
    assert abs((high - found.u_opt) / (found.u_opt - low) - 1) > 0.01


@pytest.mark.parametrize("places", [U, SKEWED], ids=["even", "skewed"])
def test_a_minimum_s_error_is_the_delta_method_s(places):
    """Its gradient by a and the slope from differences of vertices."""
    found = fit_parabola(places, bowl(places, at=AT + 0.6))

    def vertex(a, slope):
        return found.centre - slope / (2 * a)

    h, a, slope = 1e-6, found.a, found.slope
    by_a = (vertex(a + h, slope) - vertex(a - h, slope)) / (2 * h)
    by_slope = (vertex(a, slope + h) - vertex(a, slope - h)) / (2 * h)
    V = found.unscaled
    variance = by_a**2 * V[0, 0] + 2 * by_a * by_slope * V[0, 1] + by_slope**2 * V[1, 1]
    assert found.u_error(0.02) == pytest.approx(0.02 * np.sqrt(variance), rel=1e-6)


def test_fiellers_interval_is_unbounded_once_curvature_is_lost_and_nan_without_noise():
    found = fit_parabola(U, bowl())
    sd = found.a / np.sqrt(found.unscaled[0, 0])  # then a is one standard error from 0
    assert np.isfinite(found.u_interval(sd, 0.99)).all()
    assert found.u_interval(sd, 1.01) == (-np.inf, np.inf)
    narrow, wide = (np.diff(found.u_interval(sd, t))[0] for t in (0.5, 0.98))
    assert wide > 5 * narrow
    for missing in ((np.nan, 2.0), (0.01, np.nan)):
        assert np.isnan(found.u_interval(*missing)).all()
    assert found.u_interval(0.0, 2.0) == pytest.approx((AT, AT))


def coverages(a, noise, n, draws, seed):
    """Of u, of the lowest loss, and the share of unbounded intervals; own scatter, n - 3 dof."""
    rng = np.random.default_rng(seed)
    u, at = np.linspace(-1.8, 1.8, n), 0.3
    t = stats.t.ppf(0.975, n - 3)
    hits = []
    for losses in bowl(u, a, at) + rng.normal(0, noise, (draws, n)):
        found = fit_parabola(u, losses)
        sd = np.sqrt((found.residuals**2).sum() / (n - 3))
        low, high = found.u_interval(sd, t)
        lowest = found.loss_interval(sd, t) if np.isfinite(low) else (np.nan, np.nan)
        hits.append([low <= at <= high, lowest[0] <= 4.5 <= lowest[1], np.isinf(low)])
    u_in, loss_in, unbounded = np.array(hits, dtype=float).T
    return u_in.mean(), loss_in[unbounded == 0].mean(), unbounded.mean()


@pytest.mark.parametrize("n", [5, 7, 12])
def test_intervals_of_a_minimum_cover_it_19_times_in_20(n):
    of_u, of_loss, unbounded = coverages(a=0.05, noise=0.005, n=n, draws=2500, seed=n)
    # 0.013: three standard errors of a share near 0.95 in 2,500 draws
    assert of_u == pytest.approx(0.95, abs=0.013)
    assert of_loss == pytest.approx(0.95, abs=0.013)
    assert unbounded < 0.05


def test_where_curvature_is_weak_many_intervals_are_unbounded_and_the_rest_still_honest():
    of_u, _, unbounded = coverages(a=0.05, noise=0.06, n=7, draws=2500, seed=0)
    assert 0.3 < unbounded < 0.9
    # Unbounded ones cover whatever comes: more than 95 % in all
    assert of_u >= 0.95 - 0.013


def test_akimas_minimum_is_that_of_a_dense_grid():
    rng = np.random.default_rng(0)
    losses = bowl() + 0.02 * np.sin(3 * U) + rng.normal(0, 0.01, (40, 7))
    found, lowest, at_end = akima_minimum(U, losses)
    for i in range(40):
        dense = np.linspace(U[0], U[-1], 100_001)
        curve = np.exp(Akima1DInterpolator(U, np.log(losses[i]))(dense))
        one = akima_minimum(U, losses[i : i + 1])
        assert (one[0][0], one[1][0], one[2][0]) == (found[i], lowest[i], at_end[i])
        # Half a step of 25 points an interval, and what a parabola rises by in that
        step = (U[-1] - U[0]) / (25 * 6 - 1)
        nearby = np.abs(dense - found[i]) <= step
        assert curve[nearby].min() == pytest.approx(curve.min(), abs=1e-9)
        assert lowest[i] - curve.min() < 0.5 * (step / 2) ** 2
        assert found[i] in np.linspace(U[0], U[-1], 150)
    assert not at_end.any()


def test_akimas_minimum_at_an_end_is_reported():
    falling, rising = np.linspace(5, 4, 7), np.linspace(4, 5, 7)
    u, lowest, at_end = akima_minimum(U, np.stack([falling, rising, bowl()]))
    assert at_end.tolist() == [True, True, False]
    assert u[:2].tolist() == [U[-1], U[0]]
    np.testing.assert_allclose(lowest, [4, 4, 4.5], atol=1e-4)


def test_the_nearest_are_about_the_best_in_order_of_size():
    losses = bowl()  # the best is the fourth of seven
    assert losses.argmin() == 3
    assert nearest(U, losses, 3).tolist() == [2, 3, 4]
    assert nearest(U, losses, 5).tolist() == [1, 2, 3, 4, 5]
    assert len(nearest(U, losses, 4)) == 4
    for all_of_them in (None, 7, 99):
        assert nearest(U, losses, all_of_them).tolist() == list(range(7))
    # By distance on the log scale, not by rank
    u = np.array([0.0, 1.0, 1.1, 1.2, 5.0])
    assert nearest(u, np.array([2.0, 2.0, 2.0, 1.0, 2.0]), 3).tolist() == [1, 2, 3]
    # At an edge all are to one side
    assert nearest(U, -U, 3).tolist() == [4, 5, 6]


def by_hand(u, losses, counts):
    """Minima of parabolas through weighted points, one at a time; nan where outside."""
    found = []
    for loss, count in zip(losses, counts, strict=True):
        if (count > 0).sum() < 3:
            found.append((np.nan, np.nan))
            continue
        a, slope, level = np.polyfit(u - u.mean(), loss, 2, w=np.sqrt(count))
        vertex = u.mean() - slope / (2 * a)
        inside = a > 0 and u[0] <= vertex <= u[-1]
        found.append((vertex, level - slope**2 / (4 * a)) if inside else (np.nan, np.nan))
    return np.array(found).T


@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_redrawn_minima_are_those_of_each_draw(noise):
    losses = bowl()
    u, lowest = redrawn_minima(U, losses, "parabola", ONE, noise, 200, np.random.default_rng(4))
    drawn = losses + np.random.default_rng(4).normal(0, noise, (200, 7))
    expected = by_hand(U, drawn, np.ones((200, 7)))
    np.testing.assert_allclose(u, expected[0], rtol=1e-7)
    np.testing.assert_allclose(lowest, expected[1], rtol=1e-7)
    assert np.isnan(u).any() == (noise > 0.1)
    by_akima, _ = redrawn_minima(U, losses, "akima", ONE, noise, 200, np.random.default_rng(4))
    place, _, at_end = akima_minimum(U, drawn)
    np.testing.assert_array_equal(by_akima, np.where(at_end, np.nan, place))


@pytest.mark.filterwarnings("ignore:Polyfit may be poorly conditioned")
def test_resampled_minima_are_those_of_each_draw():
    losses = bowl() + np.random.default_rng(0).normal(0, 0.01, 7)
    counts = np.random.default_rng(4).multinomial(7, np.full(7, 1 / 7), size=200)
    u, lowest = resampled_minima(U, losses, "parabola", counts.astype(float))
    expected = by_hand(U, np.tile(losses, (200, 1)), counts)
    np.testing.assert_allclose(u, expected[0], rtol=1e-7)
    np.testing.assert_allclose(lowest, expected[1], rtol=1e-7)
    counts = np.random.default_rng(4).multinomial(7, np.full(7, 1 / 7), size=50)
    by_akima, _ = resampled_minima(U, losses, "akima", counts.astype(float))
    for found, count in zip(by_akima, counts, strict=True):
        on = count > 0
        place, _, at_end = akima_minimum(U[on], losses[on][None])
        assert np.isnan(found) if at_end[0] else found == place[0]


@pytest.mark.parametrize(
    ("losses", "how", "expected"),
    [
        *((bowl(), {"method": method}, set()) for method in ("parabola", "akima")),
        *((bowl(U[1:5]), {"u": U[1:5], "method": m}, set()) for m in ("parabola", "akima")),
        (bowl(U[1:6:2]), {"u": U[1:6:2]}, {Flag.FEW_POINTS}),
        (-bowl() + 9, {}, {Flag.WRONG_CURVATURE}),
        (bowl(at=np.log(1e4)), {}, {Flag.OUTSIDE, Flag.EDGE}),
        (bowl(at=np.log(2.5e6)), {}, {Flag.OUTSIDE, Flag.EDGE}),
        (bowl(at=np.log(5.5e4)), {}, {Flag.EDGE}),
        (np.linspace(5, 4, 7), {"method": "akima"}, {Flag.EDGE}),
        (bowl(at=np.log(8e4)), {}, {Flag.OFF_CENTRE}),
        (bowl(at=np.log(1.3e6)), {}, {Flag.OFF_CENTRE}),
        (bowl() + 0.01 * (np.arange(7) == 5), {}, {Flag.OUTLIER}),
        (bowl() - 0.2 * (np.arange(7) == 3), {}, {Flag.OUTLIER}),
        (bowl(), {"interval": (-np.inf, np.inf)}, {Flag.WEAK_CURVATURE}),
        (bowl(), {"interval": (-np.inf, U[-2])}, {Flag.WEAK_CURVATURE}),
        (bowl(), {"interval": (U[0], U[-1])}, set()),
        (bowl(), {"interval": (U[0] - 0.1, U[-2])}, {Flag.WIDE}),
        (bowl(), {"interval": (U[1], U[-1] + 0.1)}, {Flag.WIDE}),
    ],
)
def test_each_flag_has_its_curve(losses, how, expected):
    assert flags(losses, **how) == expected


def test_akima_knows_a_place_off_centre_too():
    assert Flag.OFF_CENTRE in flags(bowl(at=np.log(8e4)), method="akima")


def test_reasons_name_the_side_and_the_run():
    def reasons(losses):
        parabola = fit_parabola(U, losses)
        found = check_minimum(U, losses, parabola, parabola.u_opt, "parabola", (np.nan, np.nan))
        return "; ".join(text for _, text in found)

    assert "the smallest size is the best" in reasons(bowl(at=np.log(5.5e4)))
    assert "the largest size is the best" in reasons(bowl(at=np.log(1.9e6)))
    assert "one size only is smaller" in reasons(bowl(at=np.log(8e4)))
    assert "one size only is larger" in reasons(bowl(at=np.log(1.3e6)))
    odd = reasons(bowl() + 0.01 * (np.arange(7) == 5))
    assert f"the run at size {np.exp(U[5]):.4g} is +" in odd


@pytest.mark.parametrize("n", [6, 8, 12])
def test_good_points_are_seldom_called_outliers(n):
    u = np.linspace(-1.8, 1.8, n)
    rng = np.random.default_rng(n)
    called = [
        Flag.OUTLIER in flags(bowl(u, at=0) + rng.normal(0, 0.005, n), u) for _ in range(2000)
    ]
    # 1 % by Bonferroni, 0.007: three standard errors of it in 2,000 curves
    assert np.mean(called) == pytest.approx(0.01, abs=0.007)


def test_an_outlier_of_twenty_standard_deviations_is_nearly_always_called():
    u = np.linspace(-1.8, 1.8, 9)
    rng = np.random.default_rng(0)
    odd = 0.1 * (np.arange(9) == 6)
    called = [
        Flag.OUTLIER in flags(bowl(u, at=0) + odd + rng.normal(0, 0.005, 9), u) for _ in range(200)
    ]
    assert np.mean(called) > 0.9
