from itertools import pairwise

import pytest

from experiments.training.schedule import lr_factor


def curve(kind, n_steps=100):
    return [
        lr_factor(s, n_steps, kind=kind, warmup=0.1, decay=0.2, final=0.1) for s in range(n_steps)
    ]


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_warms_up_peaks_and_ends_low(kind):
    factors = curve(kind)
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == max(factors) == 1.0
    assert factors[-1] == pytest.approx(0.1)
    assert all(b >= a for a, b in pairwise(factors[:10]))
    assert all(b <= a for a, b in pairwise(factors[9:]))


def test_cosine_is_half_way_down_in_the_middle():
    assert lr_factor(55, 101, kind="cosine", warmup=0.1, decay=0, final=0.0) == pytest.approx(0.5)


def test_wsd_is_flat_until_the_decay():
    assert set(curve("wsd")[9:79]) == {1.0}
    assert curve("wsd")[85] < 1.0


def test_a_run_of_one_step_trains():
    assert lr_factor(0, 1, kind="cosine", warmup=0.1, decay=0.2, final=0.1) == 1.0
