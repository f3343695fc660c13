"""Laws' values and derivatives against loops over all steps."""

import numpy as np
import pytest

from analysis.curves.history import History, compute_sums, momentum_sums
from analysis.curves.laws import FORMS
from tests.analysis.curves.made import (
    ANNEALING,
    MULTI,
    PEAK,
    WARM,
    rates,
    slow_annealing,
    slow_multi_power,
)

KINDS = ("cosine", "wsd", "constant")
N = 600


def whole(kind, n_steps=N):
    step = np.arange(1.0, n_steps + 1)
    rate = rates(kind, n_steps)
    return History(run=kind, series="x", step=step, rate=rate, loss=np.full(n_steps, np.nan))


def theta_of(form):
    """theta of the parameters in made.py, by hand: the rate in units of its peak."""
    truth = ANNEALING if form == "annealing" else MULTI
    base = [truth["level"], np.log(truth["a"] * PEAK ** -truth["alpha"]), truth["alpha"]]
    if form == "annealing":
        return np.array([*base, truth["c"] * PEAK, -np.log(1 - truth["lam"])])
    ln_c = np.log(truth["c"]) + (1 - truth["gamma"]) * np.log(PEAK)
    return np.array([*base, truth["b"] * PEAK, ln_c, truth["beta"], truth["gamma"]])


@pytest.mark.parametrize("kind", KINDS)
def test_annealing_is_the_sum_over_all_steps(kind):
    """But that a sum is an area here, and S2 a spline through 21 memories: to 1e-5 nats."""
    one = whole(kind)
    law = FORMS["annealing"].law([compute_sums(one, one.step, PEAK, float(N))])
    slow = slow_annealing(one.rate, **ANNEALING)
    found = law(theta_of("annealing")[None])[0][0]
    assert np.abs(found - slow)[WARM:].max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_multi_power_is_the_sum_over_all_falls(kind):
    """48 parts stand for all falls: to 1e-3 nats, of a gain of 0.1 and more."""
    one = whole(kind)
    law = FORMS["multi-power"].law([compute_sums(one, one.step, PEAK, float(N))])
    slow = slow_multi_power(one.rate, **MULTI)
    found = law(theta_of("multi-power")[None])[0][0]
    assert np.abs(found - slow)[WARM:].max() < 1e-3


@pytest.mark.parametrize("form", list(FORMS))
def test_derivatives_are_differences(form):
    sums = [compute_sums(one, one.step[99::50], PEAK, float(N)) for one in map(whole, KINDS)]
    law = FORMS[form].law(sums)
    theta = theta_of("annealing")[:3] if form == "steps" else theta_of(form)
    jacobian = law(theta[None])[1][0]
    for i, value in enumerate(theta):
        step = np.zeros(len(theta))
        step[i] = 1e-6 * max(1.0, abs(value))
        up, down = law((theta + step)[None])[0], law((theta - step)[None])[0]
        slope = (up - down)[0] / (2 * step[i])
        scale = np.abs(jacobian[:, i]).max()
        assert np.abs(slope - jacobian[:, i]).max() < 1e-6 * max(1.0, scale)


@pytest.mark.parametrize("form", ["annealing", "multi-power"])
def test_reported_parameters_are_the_papers(form):
    truth = ANNEALING if form == "annealing" else MULTI
    assert FORMS[form].reported(theta_of(form)[None], PEAK)[0] == pytest.approx(
        list(truth.values())
    )


def test_momentum_of_one_fall_lasts_for_its_memory():
    fall = np.zeros(2000)
    fall[10] = 1.0
    sums = momentum_sums(fall, 50.0)
    assert sums[9] == 0.0
    assert sums[10] == 1.0
    assert sums[-1] == pytest.approx(50.0)  # 1 + lambda + ... = 1 / (1 - lambda)


def test_a_rate_that_rises_again_takes_the_gain_back():
    step = np.arange(1.0, 401)
    rate = np.where((step > 100) & (step <= 200), 0.5, 1.0)
    one = History(run="up", series="x", step=step, rate=rate, loss=np.full(400, np.nan))
    sums = compute_sums(one, step, 1.0, 400.0)
    assert sums.drops.sum() == pytest.approx(0.0, abs=1e-12)
    assert np.abs(sums.drops).sum() == pytest.approx(1.0)
    assert sums.momentum[0][-1] == pytest.approx(0.0, abs=1e-9)


def test_before_the_first_row_the_rate_rises_from_0():
    step = np.arange(100.0, 201)
    one = History(run="x", series="x", step=step, rate=np.ones(101), loss=np.ones(101))
    assert compute_sums(one, step, 1.0, 200.0).forward[[0, -1]] == pytest.approx([50.5, 150.5])
