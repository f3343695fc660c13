"""One way to write each kind of number."""

import math

import pytest

from analysis import numbers


def test_budgets():
    assert [numbers.flops(v) for v in (3e12, 1e13, 2.56e19, 6e18)] == [
        "3e12", "1e13", "2.56e19", "6e18",
    ]  # fmt: skip
    assert numbers.flops_mathtext(1e17) == "$10^{17}$"
    assert numbers.flops_mathtext(2.56e19) == "$2.56\\times10^{19}$"


def test_counts():
    shown = [numbers.count(v) for v in (999.9, 1500, 69232, 1.31e9)]
    assert shown == ["1k", "1.5k", "69.2k", "1.31B"]
    shown = [numbers.experts(v) for v in (1, 512, 4096, 2**14, 2**22)]
    assert shown == ["1", "512", "4096", "16k", "4.1M"]


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        ((1.2423, 1.1072, 1.3921), "1.24 (1.11 to 1.39)"),
        ((-0.04901, -0.07502, -0.0230), "-0.049 (-0.075 to -0.023)"),
        ((250812.0, 239700.0, 263600.0), "251k (240k to 264k)"),
        ((4.16213, 4.1301, 4.1933), "4.162 (4.130 to 4.193)"),
        ((1.551e6, 2162.0, 1.823e6), "1.55M (2.16k to 1.82M)"),
        ((0.4362, math.nan, math.nan), "0.436"),
        ((2.0, 1.0, math.inf), "2.00 (1.00 to inf)"),
        ((math.inf, 0.0, math.inf), "inf"),
        ((-0.004, -0.5, 0.4), "0.00 (-0.50 to 0.40)"),  # no -0.00
        ((0.3, -0.04, 8.0), "0.3 (0.0 to 8.0)"),
        ((-0.0, math.nan, math.nan), "0.0000"),
        ((2e4, -0.0, 4e4), "20k (0 to 40k)"),
    ],
)
def test_a_number_has_the_digits_that_its_interval_leaves(estimate, shown):
    assert numbers.with_interval(*estimate) == shown


def test_a_difference_may_have_its_sign():
    assert numbers.with_interval(0.0034, -0.0226, 0.0294, signed=True) == (
        "+0.003 (-0.023 to +0.029)"
    )
