"""A layer's own settings tell its runs apart, whatever they are called."""

import pandas as pd
import pytest

from analysis.experts.fit import fit_expert_law
from analysis.isoflop.fit import fit_isoflop
from analysis.table.layer import varying
from analysis.table.load import check_table, keep_rows, load_table


def table_of(n=6, **columns):
    rows = {"model": "tied", "budget": 1e12, "d_model": 64, "loss": [4 + 0.1 * i for i in range(n)]}
    return check_table(pd.DataFrame(rows | {"n_params": range(1000, 1000 + n)} | columns))


def names(**columns):
    return table_of(**{k.replace("layer_", "layer."): v for k, v in columns.items()})[
        "series"
    ].tolist()


def test_a_setting_that_nobody_knows_makes_two_curves():
    """By depth, each in its own size: the case that was one curve through both."""
    rows = [
        {"model": "tied", "budget": c, "n_params": 1e3 * size * k, "d_model": 16 * size,
         "loss": 3 + abs(size - 2.5) ** 2 / 9 + k / 9, "layer.expansion": k}
        for c in (1e12, 1e13)
        for size in (1, 2, 3, 4)
        for k in (4, 8)
    ]  # fmt: skip
    table = check_table(pd.DataFrame(rows))
    found = fit_isoflop(table, n_draws=0)
    assert {curve.model for curve in found.curves} == {"tied expansion=4", "tied expansion=8"}
    own = keep_rows(table, {"expansion": ["8"]})
    assert set(own["series"]) == {"tied"}
    with pytest.raises(ValueError, match=r"tied has runs of several expansion .*'4', '8'"):
        fit_expert_law(table.assign(n_experts=[1, 2, 4, 8] * 4))


@pytest.mark.parametrize(
    ("columns", "series"),
    [
        ({"layer_glu": [True, False] * 3}, ["tied glu=True", "tied glu=False"] * 3),
        ({"layer_glu": ["True", "false"] * 3}, ["tied glu=True", "tied glu=False"] * 3),
        ({"layer_width": [2.5, 8 / 3] * 3}, ["tied width=2.5", "tied width=2.66667"] * 3),
        # younger than half of the runs
        ({"layer_gate": [None, True] * 3}, ["tied", "tied gate=True"] * 3),
        # it grows with the model
        ({"layer_d_key": [8, 16] * 3, "d_model": [64, 128] * 3}, ["tied"] * 6),
        # what follows from the one before it is not said again
        ({"layer_a": ["x", "y"] * 3, "layer_b": [1, 2] * 3}, ["tied a=x", "tied a=y"] * 3),
        ({"n_experts": [4, 9] * 3, "top_k": [1, 2] * 3},
         ["tied n_experts=4 top_k=1", "tied n_experts=9 top_k=2"] * 3),
    ],
)  # fmt: skip
def test_series_are_named_by_settings(columns, series):
    assert sorted(names(**columns)) == sorted(series)


def test_a_run_that_broke_off_is_no_variant():
    table = table_of(**{"layer.gate": ["a"] * 5 + [None], "status": ["done"] * 5 + ["failed"]})
    assert varying(table) == []
    table = table_of(**{"layer.gate": ["a"] * 5 + ["b"], "status": ["done"] * 5 + ["diverged"]})
    assert varying(table) == ["layer.gate"]  # it tried another setting, and is no run of this one


def test_written_and_read_it_is_the_same(tmp_path):
    table = table_of(**{"layer.glu": [True, None] * 3, "layer.gate": ["a", "b"] * 3})
    table.to_csv(tmp_path / "table.csv", index=False)
    read = load_table(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(read, table[list(read)])


def test_an_earlier_table_has_its_query_norm():
    old = {"model": "peer", "budget": 1e12, "loss": 4.0, "n_params": 9, "query_norm": ["a", "b"]}
    assert check_table(pd.DataFrame(old))["series"].tolist() == [
        "peer query_norm=a",
        "peer query_norm=b",
    ]
