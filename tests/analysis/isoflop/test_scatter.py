"""Noises of curves that share a distribution: against integrals by quadrature, and draws."""

import numpy as np
import pytest
from scipy import integrate, special

from analysis.isoflop.scatter import ALIKE, scatters

SQUARES = np.array([[0.4, 0.1, 0.9], [0.5, 0.2, 0.8]])
DOF = np.array([4.0, 2.0, 5.0])


def density(variance, alike, scale):
    """Scaled inverse chi-squared (Gelman 2013, Bayesian Data Analysis, appendix A)."""
    half = alike / 2
    logs = half * np.log(half) + alike * np.log(scale) - special.gammaln(half)
    return np.exp(logs - (half + 1) * np.log(variance) - half * scale**2 / variance)


def by_quadrature(squares, alike, scale):
    """ln of the product over curves of the integral of sd^-dof exp(-squares / 2 sd^2)."""
    total = 0.0
    for own, dof in zip(squares, DOF, strict=True):
        value, _ = integrate.quad(
            lambda x, own=own, dof=dof: (
                np.exp(-dof / 2 * x - own / (2 * np.exp(x)))
                * density(np.exp(x), alike, scale)
                * np.exp(x)
            ),
            -25,
            25,
            points=[np.log(own)],
            epsabs=0,
            epsrel=1e-10,
            limit=500,
        )
        total += np.log(value)
    return total


@pytest.mark.parametrize("alike", ALIKE)
def test_a_distribution_s_likelihood_is_an_integral_over_the_variances(alike):
    found = scatters(SQUARES, DOF)
    at = np.flatnonzero(found.alike == alike)
    step = np.log(found.scale[at[1]] / found.scale[at[0]])
    k = at[len(at) // 2]
    for fit, squares in enumerate(SQUARES):
        expected = by_quadrature(squares, alike, found.scale[k]) + np.log(step)
        assert found.logs[fit, k] == pytest.approx(expected, abs=1e-8)


def test_one_noise_is_an_integral_over_its_logarithm():
    found = scatters(SQUARES, DOF)
    for fit, squares in enumerate(SQUARES.sum(axis=1)):
        value, _ = integrate.quad(
            lambda x, s=squares: np.exp(-11 * x - s / (2 * np.exp(2 * x))), -15, 15, points=[-0.5]
        )
        assert found.logs[fit, -1] == pytest.approx(np.log(value), abs=1e-8)


def test_draws_are_of_the_variance_after_its_own_scatter():
    found = scatters(SQUARES, DOF)
    rng = np.random.default_rng(0)
    k = int(np.flatnonzero(found.alike == 4.0)[5])
    sd = found.draw(np.ones(200_000, dtype=int), np.full(200_000, k), rng)
    # of a scaled inverse chi-squared variance 1/variance has the mean dof / squares
    expected = (4 + DOF) / (4 * found.scale[k] ** 2 + SQUARES[1])
    np.testing.assert_allclose((1 / sd**2).mean(axis=0), expected, rtol=0.01)
    one = found.draw(np.zeros(200_000, dtype=int), np.full(200_000, len(found.alike) - 1), rng)
    assert np.ptp(one, axis=1).max() == 0
    assert (1 / one[:, 0] ** 2).mean() == pytest.approx(11 / SQUARES[0].sum(), rel=0.01)


def shares(found):
    weights = np.exp(found.logs - found.logs.max())
    return weights.sum(axis=0) / weights.sum()


def test_curves_alike_share_their_noise_and_a_dirty_one_keeps_its_own():
    dof = np.full(5, 4.0)
    alike = np.full((1, 5), 4 * 0.01**2)
    found = scatters(alike, dof)
    noises = found.typical(alike[0], shares(found))
    assert all(noise.sd == pytest.approx(0.01, rel=0.08) for noise in noises)
    assert all(noise.dof >= 12 for noise in noises)  # of 18 together and 4 by itself
    dirty = alike * np.array([1, 1, 1, 1, 15**2])
    found = scatters(dirty, dof)
    clean, *_, last = found.typical(dirty[0], shares(found))
    assert clean.sd < 0.02  # all together have 0.07
    assert last.sd > 0.1
    assert found.logs.argmax() != len(found.alike) - 1


def test_one_curve_has_its_own_noise():
    found = scatters(np.array([[0.4]]), np.array([4.0]))
    assert found.alike.tolist() == [np.inf]
    assert found.logs.shape == (1, 1)
