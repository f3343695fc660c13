"""Shared by figures: error bars, and which panels keep their labels."""

import numpy as np
from matplotlib.cm import ScalarMappable

from analysis.figures.layout import errors, keep_outer_labels, lay_out, panels, settle
from analysis.fitting.intervals import Estimate


def test_without_an_interval_no_error_bar_is_drawn():
    down, up = errors([Estimate(2.0, 1.0, 4.0), Estimate(3.0, np.nan, np.nan)])
    assert (down[0], up[0]) == (1.0, 2.0)
    assert np.isnan([down[1], up[1]]).all()


def test_only_outer_panels_keep_their_labels():
    _, axes = panels(5, 3)
    for axis in axes:
        axis.set(xlabel="x", ylabel="y")
    keep_outer_labels(axes)
    assert [axis.get_xlabel() for axis in axes] == ["", "", "x", "x", "x"]
    assert [axis.get_ylabel() for axis in axes] == ["y", "", "", "y", ""]


def test_settled_axes_are_drawn_as_they_would_be():
    def drawn(settled):
        figure, (axis,) = panels(1)
        axis.plot([2, 3e3], [1, 2])
        axis.set(xscale="log", xlabel="compute", ylabel="loss")
        figure.colorbar(ScalarMappable(), ax=axis, location="bottom", label="loss")
        lay_out(figure)
        if settled:
            settle(figure)
        figure.set_layout_engine("none")
        figure.dpi *= 2
        figure.canvas.draw()
        both = [a for axes in figure.axes for a in (axes.xaxis, axes.yaxis)]
        ticks = [
            (t.get_text(), t.get_position())
            for a in both
            for minor in (False, True)
            for t in a.get_ticklabels(minor=minor)
        ]
        return ticks, [a.label.get_window_extent().extents for a in both]

    (ticks, labels), (wanted_ticks, wanted_labels) = drawn(True), drawn(False)
    assert ticks == wanted_ticks
    np.testing.assert_allclose(labels, wanted_labels, atol=2)  # pixels: texts end at whole ones
