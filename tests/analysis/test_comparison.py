"""Shared by comparisons: noise over groups, a row a way, and tables whose columns are text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
import pytest

from analysis.comparison import Comparison, Table, noise_warnings, pooled_noise, shown
from analysis.fitting.intervals import Estimate
from analysis.fitting.status import FitStatus

NAN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class Way:
    way: str
    seeds: tuple[int, ...]
    gain: Estimate
    tasks: Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True, kw_only=True)
class Row:
    at: float
    n: int
    p: float
    value: Estimate
    shares: Mapping[str, float]


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
    class Compared(Comparison):
        level: float
        ways: tuple[Way, ...]

        @property
        def warnings(self):
            return noise_warnings(0, "one seed")

        def tables(self):
            return [Table(rows=self.ways, shown="way, gain|signed", notes=["a note"])]

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
    assert shown(NAN) == ""


ROW = Row(at=3e12, n=1, p=0.01234, value=Estimate.around(0.5, 0.25), shares={"a": 0.25, "b": 0.75})


@pytest.mark.parametrize(
    ("columns", "frame", "printed"),
    [
        ("at", {"at": 3e12}, "3e+12"),
        ("C=at|flops", {"C": "3e12"}, "3e12"),
        ("minus {}=p|.2g", {"minus b=c, d": 0.01234}, "0.012"),
        ("value", {"value": 0.5, "lower": 0.25, "upper": 0.75}, "0.5 0.25 0.75"),
        (
            "v=value|own +.2f",
            {"v": 0.5, "v_lower": 0.25, "v_upper": 0.75},
            "+0.50 +0.25 +0.75",
        ),
        ("value|signed", {"value": "+0.50 (+0.25 to +0.75)"}, "+0.50 (+0.25 to +0.75)"),
        ("value|interval", {"value": "0.50 (0.25 to 0.75)"}, "0.50 (0.25 to 0.75)"),
        ("n, shares|each .0%", {"n": 1, "a": 0.25, "b": 0.75}, "1 25% 75%"),
    ],
)
def test_a_column_is_a_name_a_field_and_a_form(columns, frame, printed):
    table = Table(rows=[ROW], columns=columns, named="b=c, d", digits=2, beside={"x": "y"})
    assert table.frame().to_dict("records") == [{**frame, "x": "y"}]
    head, line = table.text().splitlines()
    assert " ".join(line.split()) == f"{printed} y"
    assert " ".join(head.split()) == " ".join([*frame, "x"])


def test_what_is_shown_may_be_other_columns_and_leave_out_empty_ones():
    table = Table(
        rows=[ROW, Row(at=1e13, n=2, p=math.nan, value=NAN, shares={})],
        columns="n, p, value|own",
        shown="n, p, value",
        head=["above", ""],
        notes=["below"],
    )
    assert list(table.frame()) == ["n", "p", "value", "value_lower", "value_upper"]
    assert table.text().splitlines()[0::5] == ["above", "below"]
    empty = Table(rows=[Row(at=1.0, n=2, p=math.nan, value=NAN, shares={})], columns="n, p, value")
    assert empty.text().split() == ["n", "p", "value", "lower", "upper", "2", *["NaN"] * 4]
    assert replace(empty, skip_empty=True).text().split() == ["n", "2"]
