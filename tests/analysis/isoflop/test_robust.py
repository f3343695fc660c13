"""Intervals where the noise is not alike, and warnings of other forms, by simulation.

A share near .95 of 100 tables of five budgets is known to about .01 (budgets of one table are not
independent: .02 at most), so .90 is three standard errors below it.
"""

import pytest

from tests.analysis.isoflop.simulated import FORMS, NOISES, flagged, intervals

pytestmark = pytest.mark.night
N = 100


@pytest.fixture(scope="module")
def width_alike():
    return intervals(NOISES["alike"], N)["width"]


@pytest.mark.parametrize("name", NOISES)
def test_intervals_hold_and_good_budgets_stay_narrow(name, width_alike):
    found = intervals(NOISES[name], N)
    assert min(found["N*"], found["loss*"]) >= 0.90, found
    # 1.2 was seen for outliers and a dirty budget, where one pooled noise has 4 and more
    assert found["width"] / width_alike < 1.4, found


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_are_named_and_true_ones_seldom(name):
    share = flagged(FORMS[name], N)
    if name.startswith("Hoffmann"):
        assert share <= 0.06  # 2 % is the rule: 7 of 100 has a chance of .003 then
    else:
        assert share >= 0.8  # .9 is the aim: three standard errors below it
