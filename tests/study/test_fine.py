"""Contrast *fine*, by made losses."""

import numpy as np
import pytest

from tests.study.fine import Parabola, difference, excluded, variance_of

X = np.repeat(np.log([1 / 1.5, 1, 1.5]), 4)
SD = 0.02


def made(lowest, at, rng=None, bend=0.3):
    noise = 0 if rng is None else SD * rng.standard_normal(len(X))
    return Parabola(x=X, losses=lowest + bend * (X - at) ** 2 + noise, middle=-6.0)


def test_without_noise_it_is_the_difference_of_the_lowest_points():
    of, other = made(3.1, 0.1), made(3.2, -0.2)
    assert of.lowest_at == pytest.approx(0.1)
    assert difference(of, other).value == pytest.approx(-0.1)


@pytest.mark.parametrize(("at", "bend"), [(0.9, 0.3), (0.0, -0.3)])
def test_outside_or_open_downwards_it_is_the_mean_at_the_best_rate(at, bend):
    found = made(3.1, at, bend=bend)
    assert found.lowest_at is None
    best = min(found.losses[x == X].mean() for x in set(X))
    assert found.lowest == (pytest.approx(best), 0.25)


def test_intervals_hold_the_truth_and_so_does_the_test_of_a_rate():
    """In 400 tables; the standard error of .95 is .011. A lowest point near the middle, as else the
    lowest of three means is one of the best of them, and biased.
    """
    rng = np.random.default_rng(0)
    held, kept = [], []
    for _ in range(400):
        of, other = made(3.1, 0.05, rng), made(3.15, -0.05, rng)
        one = difference(of, other)
        held.append(one.lower <= -0.05 <= one.upper)
        kept.append(not excluded(of, of.middle + 0.05, *variance_of([of, other])))
    assert 0.91 <= np.mean(held) <= 0.98
    assert 0.91 <= np.mean(kept) <= 0.98
