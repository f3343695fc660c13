"""Profile likelihood intervals against exact ones, and against slow constrained fits."""

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.experts.fit import fit_expert_law
from analysis.fitting.profile import LeastSquares, differentiated
from tests.analysis.expert_laws import TRUTHS, runs_of

LEVELS = [0.5, 0.95, 0.999]


def straight():
    """A line through twelve points, its slope and its value at 10."""
    x = np.arange(12.0)
    design = np.column_stack([np.ones(12), x])
    y = 1 + 0.3 * x + np.random.default_rng(4).normal(0, 0.2, 12)
    theta = np.linalg.lstsq(design, y)[0]
    rows = np.array([[0.0, 1.0], [1.0, 10.0]])

    def model(thetas):
        return thetas @ design.T, np.broadcast_to(design, (len(thetas), 12, 2))

    def of(thetas):
        return thetas @ rows.T, np.broadcast_to(rows, (len(thetas), 2, 2))

    box = np.full(2, 1e3)
    fit = LeastSquares(model=model, target=y, lower=-box, upper=box, theta=theta, dof=10)
    off = y - design @ theta
    spread = np.sqrt(off @ off / 10 * np.diag(rows @ np.linalg.inv(design.T @ design) @ rows.T))
    return fit, of, rows @ theta, spread


@pytest.mark.parametrize("level", LEVELS)
def test_a_line_has_students_interval(level):
    fit, of, value, spread = straight()
    half = stats.t.ppf((1 + level) / 2, 10) * spread
    low, high = fit.interval(of, level)
    np.testing.assert_allclose(low, value - half, rtol=1e-5)
    np.testing.assert_allclose(high, value + half, rtol=1e-5)


def test_derivatives_by_differences():
    thetas = np.array([[0.3, 2.0], [1.0, -1.0]])
    value, by = differentiated(lambda t: np.stack([t[:, 0] * t[:, 1], np.exp(t[:, 0])], 1))(thetas)
    a, b = thetas.T
    np.testing.assert_allclose(value, np.stack([a * b, np.exp(a)], 1))
    expected = np.stack([np.stack([b, a], 1), np.stack([np.exp(a), 0 * a], 1)], 1)
    np.testing.assert_allclose(by, expected, atol=1e-8)


def test_without_a_degree_of_freedom_nothing_is_known():
    fit, of, *_ = straight()
    none = LeastSquares(**{**vars(fit), "dof": 0})
    assert np.isnan(none.interval(of, 0.95)).all()


def test_an_end_that_nothing_excludes_is_that_of_the_box():
    # The second parameter moves no point
    fit, _, *_ = straight()
    wide = LeastSquares(
        model=lambda t: (
            fit.model(t[:, :2])[0],
            np.concatenate([fit.model(t[:, :2])[1], np.zeros((len(t), 12, 1))], axis=2),
        ),
        target=fit.target,
        lower=np.append(fit.lower, -1.0),
        upper=np.append(fit.upper, 2.0),
        theta=np.append(fit.theta, 0.5),
        dof=9,
    )

    def of(thetas):
        return thetas[:, 2:], np.tile([[[0.0, 0.0, 1.0]]], (len(thetas), 1, 1))

    low, high = wide.interval(of, 0.95)
    assert (low[0], high[0]) == pytest.approx((-1, 2))


def slowly(law, start, y, value, dof, level):
    """Values at which the best fit of law(value, rest) to y is as much worse as Student's t
    allows, by a search for each end around the best one.
    """

    def fitted(v):
        return optimize.least_squares(
            lambda rest: law(v, rest) - y, start, x_scale="jac", xtol=1e-13, ftol=1e-13
        )

    least = fitted(value[1]).cost
    top = least * (1 + stats.t.ppf((1 + level) / 2, dof) ** 2 / dof)
    return [
        optimize.brentq(lambda v: fitted(v).cost / top - 1, value[1], end, xtol=1e-6)
        for end in (value[0], value[2])
    ]


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_intervals_are_those_of_slow_fits(level):
    table = runs_of("power_floor", noise=0.01)
    fit = fit_expert_law(table, n_draws=0)
    N, E = (table[n].to_numpy(dtype=float) for n in ("n_active_params", "n_experts"))
    y, n = np.log(table["loss"].to_numpy()), N / 1e8

    def of_loss(v, rest):  # ln L at 5e9 and 2048 experts, L0 - 1, a, b
        L0, a, b = rest[0] + 1, rest[1], rest[2]
        K = (np.exp(v) - L0) * 50**a * 2048**b
        return np.log(np.maximum(L0 + K * n**-a * E**-b, 1e-9))

    def of_b(v, rest):  # L0, ln K, a
        return np.log(np.maximum(rest[0] + np.exp(rest[1]) * n ** -rest[2] * E**-v, 1e-9))

    p = fit.params
    bounds, asked = fit.conf_int(level).loc["b"].tolist(), fit.predict(5e9, 2048, level=level)
    exact = slowly(
        of_b, [p["L0"], np.log(p["K"]) - p["a"] * np.log(1e8), p["a"]], y,
        (0.02, p["b"], 0.2), fit.dof, level,
    )  # fmt: skip
    # An end is found to a hundredth of Student's t, and joined to the best fit by a line
    np.testing.assert_allclose(bounds, exact, rtol=0, atol=0.003 * (exact[1] - exact[0]))
    exact = slowly(
        of_loss, [p["L0"] - 1, p["a"], p["b"]], y,
        (0.4, float(np.log(asked.value)), 0.9), fit.dof, level,
    )  # fmt: skip
    found = np.log([asked.lower, asked.upper])
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.003 * (exact[1] - exact[0]))


def test_a_slope_of_a_linear_law_has_students_interval():
    table = runs_of("loglinear", noise=0.01)
    fit = fit_expert_law(table, "loglinear", n_draws=0)
    N, E = (np.log10(table[k].to_numpy(dtype=float)) for k in ("n_active_params", "n_experts"))
    design = np.column_stack([N, E, N * E, np.ones_like(N)])
    y, row = np.log10(table["loss"].to_numpy()), np.array([0, -1, -9, 0])  # at N = 1e9
    theta = np.linalg.lstsq(design, y)[0]
    off = y - design @ theta
    spread = np.sqrt(off @ off / fit.dof * (row @ np.linalg.inv(design.T @ design) @ row))
    half = stats.t.ppf(0.975, fit.dof) * spread
    slope = fit.slope(1e9, 7)
    assert slope.value == pytest.approx(row @ theta, rel=1e-6)
    assert slope.lower == pytest.approx(row @ theta - half, rel=1e-5)
    assert slope.upper == pytest.approx(row @ theta + half, rel=1e-5)


def test_what_is_not_fitted_has_no_interval():
    fit = fit_expert_law(runs_of("power_floor", sizes=[5e7], noise=0.002), n_draws=0)
    assert fit.fixed == ("a",)
    assert fit.conf_int().loc["a"].tolist() == [0, 0]
    low, high = fit.conf_int().loc["b"]
    assert low < TRUTHS["power_floor"]["b"] < high
