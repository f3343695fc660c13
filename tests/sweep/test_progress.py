"""Line of a sweep that runs."""

import pytest

from experiments.sweep.progress import time_left


@pytest.mark.parametrize(
    ("seconds", "flops", "rest", "said"),
    [(10.0, 2e9, 4e9, "20 s"), (60.0, 1e9, 9e9, "9.0 min"), (0.0, 0.0, 9e9, "?")],
)
def test_what_is_left_is_by_the_speed_of_what_is_done(seconds, flops, rest, said):
    assert time_left(seconds, flops, rest) == said
