"""Shared by figures: error bars, and which panels keep their labels."""

import numpy as np
import pytest

from analysis.figures.layout import errors, keep_outer_labels, panels
from analysis.fitting.intervals import Estimate


def test_without_an_interval_no_error_bar_is_drawn():
    down, up = errors([Estimate(2.0, 1.0, 4.0), Estimate(3.0, np.nan, np.nan)])
    assert (down[0], up[0]) == (1.0, 2.0)
    assert np.isnan([down[1], up[1]]).all()


@pytest.mark.slow
def test_only_outer_panels_keep_their_labels():
    _, axes = panels(5, 3)
    for axis in axes:
        axis.set(xlabel="x", ylabel="y")
    keep_outer_labels(axes)
    assert [axis.get_xlabel() for axis in axes] == ["", "", "x", "x", "x"]
    assert [axis.get_ylabel() for axis in axes] == ["y", "", "", "y", ""]
