"""Budgets as runs counted them: what is one budget, what is left out, and what is said of it."""

import numpy as np
import pandas as pd
import pytest

from analysis.table.budgets import COUNTED
from analysis.table.load import check_table, load_table
from experiments.records.files import write_record
from tests.records.test_record import record

BUDGET = 6 * 500 * 5120  # of a record() of 500 active parameters and 5120 tokens


def table_of(counted, **how):
    """A run of 6ND FLOPs for each of these, in their order."""
    sizes = np.arange(1.0, len(counted) + 1) * 1e8
    frame = {"budget": counted, "n_params": sizes, "n_tokens": counted / (6 * sizes), "loss": 3.0}
    return check_table(pd.DataFrame(frame), **how).sort_values("n_params", ignore_index=True)


def test_budgets_that_are_equal_stay_as_they_are_and_none_are_nothing_to_join():
    table = table_of(np.array([1e18, 1e18, 1.0123456e19]))
    assert table["budget"].tolist() == [1e18, 1e18, 1.0123456e19]
    for found in (table, check_table(table.drop(columns="budget"))):
        assert COUNTED not in found
        assert not any("budget" in note for note in found.attrs["notes"])


def test_values_within_the_tolerance_are_one_budget_of_a_round_name():
    counted = np.array([9.9999e17, 1.00002e18, 1e18, 2.9871e18, 3.0129e18, 1.0123456e19])
    table = table_of(counted)
    assert table["budget"].tolist() == [1e18] * 3 + [3e18] * 2 + [1.0123456e19]
    assert table[COUNTED].tolist() == counted.tolist()
    (note,) = (text for text in table.attrs["notes"] if "budget" in text)
    assert note.startswith("4 values of budget, as runs counted them, are 2 budgets")
    assert "at most 0.0043 off" in note


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_is_within_the_tolerance_of_all_its_runs(seed):
    rng = np.random.default_rng(seed)
    planned = np.repeat(10 ** rng.uniform(17, 22) * np.array([1.0, 1.5, 7.0]), 6)
    table = table_of(planned * rng.uniform(0.99, 1.01, len(planned)))
    assert table["budget"].nunique() == 3
    assert (table[COUNTED] / table["budget"] - 1).abs().max() <= 0.01
    groups = table.groupby("budget")[COUNTED]
    for budget, low, high in zip(groups.min().index, groups.min(), groups.max(), strict=True):
        assert low <= budget <= high


def test_where_most_runs_are_alone_no_budget_was_planned():
    counted = 1e18 * 1.1 ** np.arange(12)
    counted[1], counted[5] = counted[0] * 1.004, counted[4] * 1.004
    assert COUNTED not in table_of(counted)
    assert table_of(counted, budgets=[1e18])[COUNTED].tolist() == counted[:2].tolist()
    few = table_of(counted[[0, 1, 4, 5, 8]])
    assert few["budget"].nunique() == 3


def test_values_in_a_row_that_is_too_long_stay_apart():
    counted = 1e18 * 1.005 ** np.arange(9)  # neighbours are near, the ends are not
    assert COUNTED not in table_of(counted)
    assert table_of(counted, budget_tolerance=0.03)["budget"].nunique() == 1
    assert COUNTED not in table_of(np.array([1e18, 1.00001e18]), budget_tolerance=0.0)


def test_named_budgets_take_the_nearest_runs_and_leave_the_others_out():
    counted = np.append(1e18 * 1.005 ** np.arange(9), 5e18)
    table = table_of(counted, budgets=[1e18, 1.03e18], budget_tolerance=0.012)
    expected = [b for b in (1e18, 1.03e18) for v in counted if abs(v / b - 1) <= 0.012]
    assert table["budget"].tolist() == expected
    assert table[COUNTED].tolist() == [v for v in counted if v in set(table[COUNTED])]
    assert table.attrs["left_out"] == (
        "left out: 2 of 10 runs, whose budgets are not within 0.012 of 1e+18, 1.03e+18: "
        "1.015e+18, 5e+18"
    )
    assert table.attrs["left_out"] in table.attrs["notes"]
    twice = table_of(counted, budgets=[1e18, 1.01e18], budget_tolerance=0.01)
    nearest = [min((1e18, 1.01e18), key=lambda b: abs(v / b - 1)) for v in counted[:4]]
    assert twice["budget"].tolist() == nearest


def test_a_table_that_was_joined_keeps_what_runs_counted():
    table = table_of(np.array([9.98e17, 1.002e18, 3e18]))
    again = check_table(table)
    pd.testing.assert_frame_equal(again[["budget", COUNTED]], table[["budget", COUNTED]])
    other = check_table(table, budgets=[1.001e18], budget_tolerance=0.01)
    assert other["budget"].tolist() == [1.001e18] * 2
    assert other[COUNTED].tolist() == [9.98e17, 1.002e18]


def test_the_planned_budgets_of_a_sweep_stay_as_they_are(tmp_path):
    for size, budget in ((1, BUDGET), (2, BUDGET * 1.005)):
        run = record(run_id=f"r{size}", n_params=800 * size, budget=budget)
        write_record(tmp_path / run.run_id, run)
    assert sorted(load_table(tmp_path)["budget"]) == [BUDGET, BUDGET * 1.005]
    assert load_table(tmp_path, budget_tolerance=0.01)["budget"].nunique() == 1
    assert load_table(tmp_path, budgets=[BUDGET])["budget"].tolist() == [BUDGET] * 2
