"""What a table lacks is derived where it can be, and never silently; what a series is."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.table.load import check_table, load_table
from experiments.records.files import write_record
from tests.analysis.hand_made import runs
from tests.records.test_record import record


def test_perplexity_is_exp_of_the_loss_where_absent():
    table = check_table(runs(perplexity=[55.0, None, None]))
    assert table["perplexity"].tolist() == [55.0, math.exp(4.1), math.exp(4.2)]


def test_active_parameters_are_all_of_a_dense_model():
    table = check_table(runs(n_experts=[None, 1, None]))
    assert table["n_active_params"].tolist() == table["n_params"].tolist()
    assert (
        "n_active_params of 3 rows is n_params, for n_experts is NA or 1: taken as dense"
        in table.attrs["notes"]
    )


@pytest.mark.parametrize("layer", [{"n_experts": 64}, {"top_k": 2}])
def test_active_parameters_of_experts_are_not_guessed(layer):
    table = check_table(runs(model="moe", **layer))
    assert table["n_active_params"].isna().all()
    assert "n_active_params is unknown in 3 rows: moe" in table.attrs["notes"]


def test_a_table_may_have_active_parameters_only():
    frame = runs(n_experts=64).rename(columns={"n_params": "n_active_params"})
    table = check_table(frame)
    assert table["n_active_params"].tolist() == [1e6, 2e6, 4e6]
    assert table["n_params"].isna().all()


def test_without_a_model_all_are_one():
    table = check_table(runs())
    assert table["model"].tolist() == table["series"].tolist() == ["model"] * 3


def test_without_a_status_a_finite_loss_is_done():
    table = check_table(runs(loss=[4.0, math.nan, math.inf]))
    assert table["status"].tolist() == ["done", "failed", "failed"]
    assert (
        "3 rows have no status: 1 with a finite loss are taken as done, 2 without as failed"
        in table.attrs["notes"]
    )


def test_a_status_is_kept_and_a_diverged_run_may_have_any_loss():
    table = check_table(runs(status=["done", "diverged", "failed"], loss=[4.0, 1e4, None]))
    assert sorted(table["status"]) == ["diverged", "done", "failed"]
    assert not any("status" in note for note in table.attrs["notes"])


def test_tokens_and_budget_come_from_each_other_by_flops_per_token():
    per_token = [7e6, 13e6, 25e6]
    tokens = check_table(runs(n_tokens=None, flops_per_token=per_token))
    assert tokens["n_tokens"].tolist() == [6e15 / flops for flops in per_token]
    assert "n_tokens of 3 rows is budget / flops_per_token" in tokens.attrs["notes"]
    budget = check_table(runs(budget=None, flops_per_token=per_token)).sort_values("n_params")
    np.testing.assert_allclose(budget["budget"], runs()["n_tokens"] * per_token)


def test_without_it_they_stay_unknown_unless_6nd_is_asked_for():
    assert check_table(runs(n_tokens=None))["n_tokens"].isna().all()
    assert check_table(runs(budget=None))["budget"].isna().all()
    tokens = check_table(runs(n_tokens=None), flops="6nd")
    np.testing.assert_allclose(tokens["n_tokens"], runs()["n_tokens"])
    assert (
        "n_tokens of 3 rows is budget / (6 n_active_params), as flops='6nd' asks: "
        "wrong where attention or vocabulary dominates"
    ) in tokens.attrs["notes"]
    budget = check_table(runs(budget=None), flops="6nd")
    np.testing.assert_allclose(budget["budget"], 6e15)


def test_6nd_counts_active_parameters_and_changes_nothing_that_is_known():
    frame = runs(n_experts=64, n_active_params=[1e5, 2e5, 3e5], n_tokens=None)
    by_tokens = check_table(frame, flops="6nd")
    np.testing.assert_allclose(by_tokens["n_tokens"], 6e15 / (6 * frame["n_active_params"]))
    pd.testing.assert_frame_equal(check_table(runs(), flops="6nd"), check_table(runs()))
    unknown = check_table(runs(n_experts=64, n_tokens=None), flops="6nd")
    assert unknown["n_tokens"].isna().all()


def test_exact_copies_are_left_out():
    table = check_table(pd.concat([runs(), runs()]))
    assert len(table) == 3
    assert "left out: 3 exact copies of other rows, e.g. row 3" in table.attrs["notes"]
    assert len(check_table(runs(seed=[0, 1, 2], loss=4.0))) == 3


def test_a_record_copied_under_another_run_id_is_a_copy(tmp_path):
    for name in "ab":
        write_record(tmp_path / name, record(run_id=name, budget=6 * 500 * 5120))
    assert load_table(tmp_path)["run_id"].tolist() == ["a"]


def test_notes_of_a_checked_table_stay_with_it():
    notes = check_table(runs(n_tokens=None), flops="6nd").attrs["notes"]
    assert isinstance(notes, tuple)
    again = check_table(check_table(runs(n_tokens=None), flops="6nd"))
    assert again.attrs["notes"] == notes


# Series


def series_of(**columns):
    n = max(len(value) for value in columns.values() if isinstance(value, list))
    return check_table(runs(n, **columns)).sort_values("n_params")["series"].tolist()


def test_a_size_ladder_is_one_series():
    names = series_of(model=["dense"] * 3, n_layers=[1, 2, 3], d_model=[16, 32, 48])
    assert names == ["dense"] * 3


def test_what_is_constant_in_a_model_is_not_in_its_series():
    assert series_of(model=["pkm", "peer"], n_experts=[64, 256], top_k=[4, 8]) == ["pkm", "peer"]


def test_what_varies_in_a_model_is():
    names = series_of(
        model=["peer"] * 3 + ["dense"],
        n_experts=[4096, 4096, 16384, None],
        n_heads=[2, 2, 2, None],
        top_k=[8, 16, 8, None],
    )
    assert names == [
        "peer n_experts=4096 top_k=8",
        "peer n_experts=4096 top_k=16",
        "peer n_experts=16384 top_k=8",
        "dense",
    ]


def test_the_norm_of_queries_is_part_of_a_series():
    assert series_of(model="peer", query_norm=["none", "batch"]) == [
        "peer query_norm=none",
        "peer query_norm=batch",
    ]


def test_nothing_is_a_value_too_but_not_of_a_run_that_broke_off():
    assert series_of(model="moe", top_k=[None, 2]) == ["moe", "moe top_k=2"]
    assert series_of(model="moe", top_k=[None, 2], status=["failed", "done"]) == ["moe", "moe"]


def test_series_are_of_the_table_at_hand():
    both = check_table(runs(2, model="peer", top_k=[8, 16]))
    one = check_table(both[both["top_k"] == 8])
    assert one["series"].tolist() == ["peer"]
    assert "series were renamed; columns={'series': 'series'} keeps the given" in one.attrs["notes"]


def test_series_may_be_given():
    table = check_table(runs(series=["a", "a", None]), columns={"series": "series"})
    assert sorted(table["series"]) == ["a", "a", "model"]
