"""What a table lacks is derived where it can be, and never silently; what a series is."""

import math

import pandas as pd
import pytest

from analysis.table.load import check_table, load_table
from experiments.records.files import write_record
from tests.analysis.hand_made import runs
from tests.records.test_record import record

N, ALL = [1e6, 2e6, 4e6], [math.nan] * 3
PER_TOKEN = [7e6, 13e6, 25e6]
ACTIVE = [1e5, 2e5, 3e5]
SIX_ND = (
    "n_tokens of 3 rows is budget / (6 n_active_params), as flops='6nd' asks: "
    "wrong where attention or vocabulary dominates"
)


@pytest.mark.parametrize(
    ("changes", "how", "expected", "note"),
    [
        (
            {"perplexity": [55.0, None, None]}, {},
            {"perplexity": [55.0, math.exp(4.1), math.exp(4.2)]}, None,
        ),
        (
            {"n_experts": [None, 1, None]}, {}, {"n_active_params": N},
            "n_active_params of 3 rows is n_params, for n_experts is NA or 1: taken as dense",
        ),
        *(
            (
                {"model": "moe", **layer}, {}, {"n_active_params": ALL},
                "n_active_params is unknown in 3 rows: moe",
            )
            for layer in ({"n_experts": 64}, {"top_k": 2})
        ),
        (
            {"n_experts": 64, "n_params": None, "n_active_params": N}, {},
            {"n_active_params": N, "n_params": ALL}, None,
        ),
        ({}, {}, {"model": ["model"] * 3, "series": ["model"] * 3}, None),
        (
            {"loss": [4.0, math.nan, math.inf]}, {}, {"status": ["done", "failed", "failed"]},
            "3 rows have no status: 1 with a finite loss are taken as done, 2 without as failed",
        ),
        (
            {"n_tokens": None, "flops_per_token": PER_TOKEN}, {},
            {"n_tokens": [6e15 / flops for flops in PER_TOKEN]},
            "n_tokens of 3 rows is budget / flops_per_token",
        ),
        (
            {"budget": None, "flops_per_token": PER_TOKEN}, {},
            {"budget": (runs()["n_tokens"] * PER_TOKEN).tolist()}, None,
        ),
        ({"n_tokens": None}, {}, {"n_tokens": ALL}, None),
        ({"budget": None}, {}, {"budget": ALL}, None),
        ({"n_tokens": None}, {"flops": "6nd"}, {"n_tokens": runs()["n_tokens"].tolist()}, SIX_ND),
        ({"budget": None}, {"flops": "6nd"}, {"budget": [6e15] * 3}, None),
        (  # active ones count
            {"n_experts": 64, "n_active_params": ACTIVE, "n_tokens": None}, {"flops": "6nd"},
            {"n_tokens": [1e15 / size for size in ACTIVE]}, None,
        ),
        ({"n_experts": 64, "n_tokens": None}, {"flops": "6nd"}, {"n_tokens": ALL}, None),
    ],
)  # fmt: skip
def test_what_is_missing_is_derived_and_noted_or_stays_unknown(changes, how, expected, note):
    table = check_table(runs(**changes), **how).sort_values("n_active_params")
    for name, values in expected.items():
        is_text = isinstance(values[0], str)
        assert table[name].tolist() == (values if is_text else pytest.approx(values, nan_ok=True))
    assert note is None or note in table.attrs["notes"]


def test_what_is_known_stays():
    pd.testing.assert_frame_equal(check_table(runs(), flops="6nd"), check_table(runs()))
    table = check_table(runs(status=["done", "diverged", "failed"], loss=[4.0, 1e4, None]))
    assert sorted(table["status"]) == ["diverged", "done", "failed"]
    assert not any("status" in note for note in table.attrs["notes"])


def test_exact_copies_are_left_out(tmp_path):
    table = check_table(pd.concat([runs(), runs()]))
    assert len(table) == 3
    assert "left out: 3 exact copies of other rows, e.g. row 3" in table.attrs["notes"]
    assert len(check_table(runs(seed=[0, 1, 2], loss=4.0))) == 3
    for name in "ab":  # of a record under another run_id too
        write_record(tmp_path / name, record(run_id=name, budget=6 * 500 * 5120))
    assert load_table(tmp_path)["run_id"].tolist() == ["a"]


def test_notes_of_a_checked_table_stay_with_it():
    notes = check_table(runs(n_tokens=None), flops="6nd").attrs["notes"]
    assert isinstance(notes, tuple)
    again = check_table(check_table(runs(n_tokens=None), flops="6nd"))
    assert again.attrs["notes"] == notes


# Series


@pytest.mark.parametrize(
    ("columns", "series"),
    [
        # a ladder of sizes
        ({"model": ["dense"] * 3, "n_layers": [1, 2, 3], "d_model": [16, 32, 48]}, ["dense"] * 3),
        # what is constant in a model is not in its series; what varies is
        ({"model": ["pkm", "peer"], "n_experts": [64, 256], "top_k": [4, 8]}, ["pkm", "peer"]),
        (
            {
                "model": ["peer"] * 3 + ["dense"],
                "n_experts": [4096, 4096, 16384, None],
                "n_heads": [2, 2, 2, None],
                "top_k": [8, 16, 8, None],
            },
            [
                "peer n_experts=4096 top_k=8",
                "peer n_experts=4096 top_k=16",
                "peer n_experts=16384 top_k=8",
                "dense",
            ],
        ),
        (
            {"model": "peer", "query_norm": ["none", "batch"]},
            ["peer query_norm=none", "peer query_norm=batch"],
        ),
        # nothing is a value too, but not of a run that broke off
        ({"model": "moe", "top_k": [None, 2]}, ["moe", "moe top_k=2"]),
        ({"model": "moe", "top_k": [None, 2], "status": ["failed", "done"]}, ["moe", "moe"]),
    ],
)
def test_a_series_is_named_by_what_varies_in_its_model(columns, series):
    n = len(series)
    assert check_table(runs(n, **columns)).sort_values("n_params")["series"].tolist() == series


def test_series_are_of_the_table_at_hand_or_given():
    both = check_table(runs(2, model="peer", top_k=[8, 16]))
    one = check_table(both[both["top_k"] == 8])
    assert one["series"].tolist() == ["peer"]
    assert "series were renamed; columns={'series': 'series'} keeps the given" in one.attrs["notes"]
    table = check_table(runs(series=["a", "a", None]), columns={"series": "series"})
    assert sorted(table["series"]) == ["a", "a", "model"]
