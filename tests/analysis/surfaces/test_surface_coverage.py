"""Averages of surfaces hold the truth at ten times the compute, or a warning says why not."""

import pytest

from analysis.laws.forms import LAWS
from tests.analysis.surfaces.simulated import SURFACES, coverage

N = 20
# 0.95 and, of what may be another form, 0.85, less three standard errors of 20 tables
INSIDE, OUTSIDE = (p - 3 * (p * (1 - p) / N) ** 0.5 for p in (0.95, 0.85))


@pytest.mark.night
@pytest.mark.parametrize("name", SURFACES)
def test_averages_beyond_the_runs_hold_the_truth_or_a_warning_says_why_not(name):
    law, form = SURFACES[name]
    found = coverage(law, form, N)
    if form is None:
        assert found["loss, average"] >= OUTSIDE or found["silent, loss"] <= 0.1, found
    else:
        assert found["loss, average"] >= INSIDE, found
        assert found["excluded"] <= 0.1, found
        assert found["bent"] <= (1.0 if LAWS[form].bends else 0.1), found
        assert found["coefficients"] >= OUTSIDE, found
