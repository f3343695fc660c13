"""Largest values that are held out: a share of them, ties all or none."""

import numpy as np
import pytest

from analysis.fitting.hold_out import largest


@pytest.mark.parametrize(
    ("values", "share", "out"),
    [
        (range(10), 0.2, [8, 9]),
        (range(10), 0.29, [8, 9]),
        (range(10), 0.05, [9]),  # one at least
        ([1, 1, 1, 1, 2, 2, 2, 3, 3, 3], 0.2, [7, 8, 9]),  # a budget, though it is more
        ([1, 1, 2, 2, 2, 2, 2, 2, 2, 2], 0.2, []),  # most of them
        ([5, 5, 5], 0.2, []),
        ([3, 1, 2, 9, 9, 4, 1, 1, 1, 1], 0.3, [3, 4, 5]),
        ([3, 1, 2, 9, 9 * (1 + 1e-12), 4, 1, 1, 1, 1], 0.1, [3, 4]),
    ],
)
def test_the_largest(values, share, out):
    found = largest(np.array(values, dtype=float), share)
    assert np.flatnonzero(found).tolist() == out
