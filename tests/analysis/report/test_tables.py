"""Tables of a report: their units, and intervals in place of columns of bounds."""

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.intervals import Estimate
from analysis.flatness import Flatness
from analysis.report.curves import _flatness
from analysis.report.tables import read_runs_table, with_intervals


@pytest.mark.parametrize(("size", "unit"), [("n_params", "parameters"), ("n_tokens", "tokens")])
def test_the_best_of_a_flat_minimum_has_the_unit_of_its_size(size, unit):
    cost = Estimate(0.1, 0.05, 0.2)
    row = {"model": "dense", "budget": 1e12, "size": 1e6, "within": 0.01, "within_compute": 0.1}
    row |= dict.fromkeys(("low", "high", "half", "twice"), cost)
    row |= {"half_compute": 0.2, "twice_compute": 0.2, "below": (np.nan, np.nan)}
    found = Flatness(x_name=size, within=0.01, baseline=None, rows=(row,), warnings=())
    table = _flatness(found)
    assert table.units[f"{size}*"] == unit
    assert table.frame["half the size"].tolist() == [cost]


def test_bounds_become_intervals_whatever_they_are_called():
    frame = pd.DataFrame({"a": [2.0], "a_lower": [1.0], "a_upper": [3.0], "b": [5.0]})
    assert with_intervals(frame).to_dict("list") == {"a": [Estimate(2.0, 1.0, 3.0)], "b": [5.0]}
    plain = frame.rename(columns={"a_lower": "lower", "a_upper": "upper"})
    assert with_intervals(plain, "a").equals(with_intervals(frame))


def test_what_a_table_says_goes_before_what_all_tables_say():
    frame = pd.DataFrame({"budget": [1e12], "loss": [3.0]})
    table = read_runs_table(frame, "Runs", units={"loss": "bits"}, formats={"loss": ".1f"})
    assert table.units == {"budget": "FLOPs", "loss": "bits"}
    assert set(table.formats) == {"budget", "loss"}
