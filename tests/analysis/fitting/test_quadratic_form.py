"""Chance of a sum of weighted squares: against chi-squared, F and draws."""

import numpy as np
import pytest
from scipy import stats

from analysis.fitting.quadratic_form import chance_above_zero


@pytest.mark.parametrize("ratio", [0.3, 1.0, 4.0])
def test_two_kinds_of_weights_are_an_f_distribution(ratio):
    """P(sum of 4 squares / sum of 7 squares > ratio)."""
    weights = np.array([1.0] * 4 + [-ratio] * 7)
    assert chance_above_zero(weights) == pytest.approx(stats.f.sf(ratio * 7 / 4, 4, 7), abs=1e-5)


def test_weights_of_many_sizes_are_as_in_draws():
    rng = np.random.default_rng(0)
    weights = np.exp(rng.normal(0, 2, 18)) - 1.5
    z = rng.normal(size=(400_000, 18))
    share = np.mean(z**2 @ weights > 0)
    # four standard errors of draws
    assert chance_above_zero(weights) == pytest.approx(share, abs=4 * 0.5 / np.sqrt(400_000))


def test_a_far_tail_is_no_less_than_nothing():
    assert chance_above_zero(np.array([1.0, *[-50.0] * 20])) == pytest.approx(0, abs=2e-6)
    assert chance_above_zero(np.ones(3)) == pytest.approx(1, abs=2e-6)
    assert chance_above_zero(np.zeros(3)) == 0
