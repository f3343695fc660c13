"""Rates of schedules, step by step."""

from itertools import pairwise

import pytest

from experiments.records.schedule import lr_factor


def curve(kind, n_steps=100, **how):
    parts = {"n_warmup": 10, "n_decay": 20, "final": 0.1, **how}
    return [lr_factor(s, n_steps, kind=kind, **parts) for s in range(n_steps)]


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_warms_up_peaks_and_ends_low(kind):
    factors = curve(kind)
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == max(factors) == 1.0
    assert factors[-1] == pytest.approx(0.1)
    assert all(b >= a for a, b in pairwise(factors[:10]))
    assert all(b <= a for a, b in pairwise(factors[9:]))


def test_cosine_is_half_way_down_in_the_middle():
    factor = lr_factor(55, 101, kind="cosine", n_warmup=10, n_decay=1, final=0.0)
    assert factor == pytest.approx(0.5)


def test_wsd_is_flat_until_the_decay():
    assert set(curve("wsd")[9:80]) == {1.0}
    assert curve("wsd")[80] < 1.0


def test_the_decay_falls_linearly_or_by_the_square_root_of_its_share():
    share = 15 / 20  # of the decay, at its 15th step
    assert curve("wsd", final=0.0)[94] == pytest.approx(1 - share)
    assert curve("wsd", final=0.0, shape="1-sqrt")[94] == pytest.approx(1 - share**0.5)
    assert curve("wsd", shape="1-sqrt")[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("power", [0.0, 0.4])
@pytest.mark.parametrize("final", [0.0, 0.05, 0.1, 0.7])
def test_wsd_is_its_trunk_until_the_decay_to_the_bit(power, final):
    trunk = curve("trunk", 1000, power=power)
    for n_steps in (40, 100, 1000):
        branch = curve("wsd", n_steps, power=power, final=final)
        assert branch[: n_steps - 20] == trunk[: n_steps - 20]
        assert branch[-1] == pytest.approx(final * trunk[n_steps - 1])


def test_a_trunk_may_fall_by_a_power_of_the_step():
    trunk = curve("trunk", 1000, power=0.5)
    assert trunk[9] == 1.0
    assert trunk[39] == pytest.approx(1 / 2)
    assert trunk[159] == pytest.approx(1 / 4)


def test_a_run_of_one_step_trains():
    assert lr_factor(0, 1, kind="cosine", n_warmup=1, n_decay=1, final=0.1) == 1.0
