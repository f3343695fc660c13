"""A curve in plain text."""

import pytest

from experiments.system.text_plot import plotted


def test_a_curve_goes_from_its_first_to_its_last_value():
    lines = plotted([1, 10, 100], [4.0, 3.0, 2.0], width=11, height=3, x_name="steps")
    assert lines == [
        "4 |***",
        "3 |   *****",
        "2 |        ***",
        "  +-----------",
        "   1 100 steps",
    ]


def test_every_value_is_at_its_height_and_every_column_has_one():
    losses = [3.0, 5.0, 4.0, 1.0]
    lines = plotted([1, 2, 4, 8], losses, width=7, height=5)
    drawn = [line.partition("|")[2].ljust(7) for line in lines[:5]]
    marked = {(i, k) for i, row in enumerate(drawn) for k, cell in enumerate(row) if cell == "*"}
    assert {(2, 0), (0, 2), (1, 4), (4, 6)} <= marked
    assert {k for _, k in marked} == set(range(7))


@pytest.mark.parametrize("losses", [[2.5], [2.5, 2.5]])
def test_a_flat_curve_and_a_single_value_are_drawn(losses):
    lines = plotted(range(1, len(losses) + 1), losses, width=5, height=3)
    assert [line.count("*") for line in lines[:3]].count(0) == 2
    assert lines[0].startswith("2.5 |")


def test_what_is_no_curve_is_refused():
    with pytest.raises(ValueError, match="0 xs and 0 ys"):
        plotted([], [])
    with pytest.raises(ValueError, match="1 xs and 2 ys"):
        plotted([1], [1, 2])
