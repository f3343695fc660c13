"""Shared parts of comparisons of ways: noise over groups, and a row a way."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import pytest

from analysis.fitting.intervals import Estimate
from analysis.fitting.status import FitStatus
from analysis.ways import Ways, noise_warnings, pooled_noise, shown


@dataclass(frozen=True, kw_only=True)
class Way:
    way: str
    seeds: tuple[int, ...]
    gain: Estimate
    tasks: Mapping[str, Mapping[str, Estimate]]


def test_noise_is_pooled_over_groups_and_a_group_of_one_adds_none():
    values = pd.Series([1.0, 3.0, 5.0, 5.0, 8.0, 9.0])
    groups = pd.Series(["a", "a", "b", "b", "b", None])  # what is missing is a group too
    sd, dof = pooled_noise(values, [groups])
    assert dof == 3
    assert sd == pytest.approx(math.sqrt((2 + 6) / 3))
    sd, dof = pooled_noise(values[:1], [groups[:1]])
    assert (math.isnan(sd), dof) == (True, 0)


def compared(*ways):
    """Makes the class here, for test_results.py knows all that modules have."""

    @dataclass(frozen=True, kw_only=True, repr=False)
    class Compared(Ways):
        level: float
        ways: tuple[Way, ...]

        @property
        def warnings(self):
            return noise_warnings(0, "one seed")

        def summary(self):
            return self._summary(
                {"way": lambda w: w.way, "gain": lambda w: shown(w.gain)}, "a note"
            )

    return Compared(level=0.95, ways=ways)


def test_a_way_is_a_row_with_the_bounds_of_its_estimates():
    gain, accuracy = Estimate.around(2.0, 0.5), Estimate(0.25, math.nan, math.nan)
    way = Way(way="mine", seeds=(1, 2), gain=gain, tasks={"facts": {"acc": accuracy}})
    found = compared(way)
    (row,) = found.to_frame().to_dict("records")
    assert list(row) == [
        *("way", "gain", "gain_lower", "gain_upper"),
        *("facts_acc", "facts_acc_lower", "facts_acc_upper"),
    ]
    assert (row["gain"], row["gain_lower"], row["gain_upper"]) == (2.0, 1.5, 2.5)
    assert found.status is not FitStatus.CONVERGED
    lines = found.summary().splitlines()
    assert lines[1].split(maxsplit=1) == ["mine", "+2.0 (+1.5 to +2.5)"]
    assert lines[2] == "a note"
    assert "one seed: there are no intervals" in lines[3]
    assert shown(Estimate(math.nan, math.nan, math.nan)) == ""
