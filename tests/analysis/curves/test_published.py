"""Laws of curves on public ones: 25 M parameters under four schedules (Luo 2025)."""

import pytest

from analysis.curves.compare import BOTH, NEAREST, compare_curves
from analysis.curves.read import histories_of_table
from analysis.table.sources import read_source


def test_each_schedule_is_predicted_from_the_others(published):
    """To 0.02 nats, and better than by steps alone; docs/surfaces.md has the numbers."""
    histories = histories_of_table(read_source(published("luo_25M_curves.csv")).frame)
    assert [one.run for one in histories] == ["cosine", "constant", "wsd", "step to 9e-5"]
    found = compare_curves(histories, hold_out=["each"], skip=2200, n_draws=20)
    errors = {(p.run, p.law): p.error for p in found.held}
    laws = ("annealing", "multi-power", BOTH)
    assert max(abs(errors[one.run, law]) for one in histories for law in laws) < 0.02
    assert errors["constant", "steps"] == pytest.approx(-0.041, abs=0.002)
    assert errors["wsd", NEAREST] == pytest.approx(0.046, abs=0.001)
    assert errors["wsd", "annealing"] == pytest.approx(-0.0146, abs=0.002)
