"""What cannot be is refused, with the row, the column, the value, the rule and the remedy."""

import math
import re

import pandas as pd
import pytest

from analysis.table.load import check_table, finished, load_table, require
from experiments.records.files import write_record
from tests.analysis.hand_made import runs
from tests.records.test_record import record


def refused(frame, message, **options):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_table(frame, **options)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"no record\.json below .*; run a sweep first"):
        load_table(tmp_path)


def test_an_empty_table_is_refused():
    refused(pd.DataFrame(), "the table has no rows")
    refused(runs()[:0], "the table has no rows")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.0}, "run bad: budget=0.0 must be above 0"),
        ({"n_params": -5}, "run bad: n_params=-5.0 must be above 0"),
        ({"n_experts": 0}, "run bad: n_experts=0 must be 1 or more"),
        ({"val_loss": None}, "run bad: loss=nan must be above 0 if done, and finite; set its"),
        ({"val_loss": -1.0}, "run bad: loss=-1.0 must be above 0 if done"),
        ({"n_active_params": 10**9}, "run bad: n_active_params=1000000000.0 must not exceed n_"),
    ],
)
def test_a_records_error_names_the_run(sweep, changes, message):
    write_record(sweep / "bad", record(run_id="bad", **changes))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_table(sweep)


def test_the_same_run_twice_is_refused(sweep):
    write_record(sweep / "copy", record(run_id="broken", status="failed"))
    with pytest.raises(ValueError, match="run broken: run_id='broken' occurs twice"):
        load_table(sweep)


# Columns


def test_a_table_without_a_loss_lists_what_it_has():
    refused(
        runs().rename(columns={"loss": "perte"}),
        "no column loss; found budget, n_params, n_tokens, perte; "
        "say which it is: columns={'loss': 'MY_NAME'}",
    )


def test_a_table_without_a_size_does_too():
    refused(
        runs(n_params=None),
        "no column n_params or n_active_params; found budget, n_tokens, loss; "
        "say which it is: columns={'n_params': ",
    )


def test_columns_must_be_ours_and_the_tables():
    refused(runs(), "columns: 'N' is not one of series, model, budget", columns={"N": "n_params"})
    refused(
        runs(),
        "columns: loss='nll' is not there; found budget, n_params, n_tokens, loss",
        columns={"loss": "nll"},
    )


def test_an_alias_that_could_be_either_is_asked_about():
    refused(
        runs(flops=6e15, compute=1e3).drop(columns="budget"),
        "budget may be any of flops, compute; say which, e.g. columns={'budget': 'flops'}",
    )


def test_a_column_that_is_there_twice_is_refused():
    frame = pd.concat([runs(), runs()], axis=1)
    refused(frame, "columns occur twice: budget, loss, n_params, n_tokens; rename or drop one")


def test_a_fallback_must_be_named_as_it_is():
    refused(runs(), "flops='6ND' is not '6nd' or None", flops="6ND")


# Values


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n_params": ["7B", "8B", "9B"]}, "row 0: n_params='7B' is text; a plain number is want"),
        ({"budget": [6e15, 6e15, "x"]}, "row 2: budget='x' is text"),
        ({"budget": [6e15, math.inf, 6e15]}, "row 1: budget=inf must be finite"),
        ({"n_tokens": [1e9, -math.inf, 1e9]}, "row 1: n_tokens=-inf must be finite"),
        ({"n_tokens": [1e9, 0, 1e9]}, "row 1: n_tokens=0.0 must be above 0"),
        ({"flops_per_token": -1}, "row 0: flops_per_token=-1.0 must be above 0"),
        ({"n_params": [1e6, None, 4e6]}, "row 1: n_params=nan and n_active_params are both missi"),
        (
            {"n_tokens": [1e9, None, 2.5e8]},
            "row 1: n_tokens=nan is missing, and other runs have it; give it, or flops_per_token "
            "beside budget, or load with flops='6nd'",
        ),
        ({"budget": [6e15, None, 6e15]}, "row 1: budget=nan is missing, and other runs have it"),
        ({"n_experts": [1, 2, 0]}, "row 2: n_experts=0 must be 1 or more"),
        ({"top_k": [1, -2, 1]}, "row 1: top_k=-2 must be 1 or more"),
        ({"n_heads": 2.5}, "row 0: n_heads=2.5 must be a whole number"),
        ({"n_experts": math.inf}, "row 0: n_experts=inf must be a whole number"),
        ({"n_active_params": [1e6, 3e6, 1e6]}, "row 1: n_active_params=3000000.0 must not exceed"),
        ({"model": ["a", " ", "b"]}, "row 1: model=<NA> is empty; name it, or leave the row out"),
        ({"model": ""}, "row 0: model=<NA> is empty"),
        ({"status": "finished"}, "row 0: status='finished' is not one of done, failed, diverged"),
        ({"run_id": ["a", "b", "b"]}, "run b: run_id='b' occurs twice: two sweeps in one fold"),
        ({"causal_eval": "perhaps"}, "row 0: causal_eval='perhaps' must be True or False"),
        ({"status": "done", "loss": [4, 4, None]}, "row 2: loss=nan must be above 0 if done"),
        ({"status": "done", "loss": [4, 4, math.inf]}, "row 2: loss=inf must be above 0 if done"),
        ({"loss": [4.0, 0.0, 4.0]}, "row 1: loss=0.0 must be above 0 if done, and finite; set it"),
        (
            {"loss": [20.5, 4.0, 4.0]},
            "row 0: loss=20.5 is above 20 and looks like a perplexity or bits: nats per token are "
            "wanted, the logarithm of a perplexity, or bits * ln 2",
        ),
        ({"loss": [1e3, 4.0, 4.0]}, "row 0: loss=1000.0 is above 20 and looks like a perplexity"),
    ],
)
def test_a_value_that_cannot_be_is_refused(columns, message):
    refused(runs(**columns), message)


def test_a_run_that_broke_off_may_lack_what_it_never_had():
    frame = runs(status=["failed", "done", "done"])
    frame.loc[0, ["n_params", "n_tokens", "budget", "loss"]] = None
    assert len(check_table(frame)) == 3


def test_the_row_is_called_by_its_run_id_or_its_own_label():
    refused(runs(run_id=["a", None, None], n_experts=[0, 1, 1]), "run a: n_experts=0")
    refused(runs(run_id=["a", None, None], n_experts=[1, 0, 1]), "row 1: n_experts=0")
    named = runs(n_experts=[1, 0, 1]).set_index(pd.Index(["x", "y", "z"]))
    refused(named, "y: n_experts=0")


# Units


@pytest.mark.parametrize("name", ["n_params", "n_tokens"])
def test_billions_are_refused(name):
    refused(
        runs(**{name: runs()[name] / 1e9}),
        "the table's median is 1e+09 and 1 is expected: mixed units? FLOPs, not PFLOPs; "
        "parameters and tokens, not billions, are wanted",
    )


def test_a_budget_in_other_units_is_refused():
    refused(runs(budget=6.0), "row 0: budget=6, N=1e+06, n_tokens=1e+09: budget / (6 N n_tokens)")


def test_one_row_in_other_units_is_named():
    frame = runs(5)
    frame.loc[3, "n_tokens"] /= 1e9
    refused(frame, "row 3: budget=6e+15, N=8e+06, n_tokens=0.125: budget / (6 N n_tokens) is 1e+09")
    half = runs(4)
    half.loc[2:, "n_tokens"] /= 1e6
    refused(half, "mixed units?")


def test_what_attention_and_vocabulary_add_is_no_unit():
    assert len(check_table(runs(budget=[6e15 * 50] * 3))) == 3
    assert len(check_table(runs(budget=[6e15 / 50] * 3))) == 3


def test_a_sparse_model_of_unknown_active_size_is_no_unit():
    # 4.3e9 parameters in a model of 25M, as in Clark 2022 (arXiv:2202.01169)
    frame = runs(n_params=[1e9, 2e9, 4e9], n_experts=512)
    assert len(check_table(frame)) == 3
    refused(frame.assign(n_tokens=frame["n_tokens"] / 1e9), "mixed units?")


def test_a_run_that_diverged_has_not_used_its_budget():
    frame = runs(status=["done", "done", "diverged"])
    frame.loc[2, "n_tokens"] /= 1e4
    assert len(check_table(frame)) == 3


# What a fit asks of a table


def test_finished_runs():
    table = check_table(runs(status=["done", "failed", "diverged"], loss=[4.0, None, None]))
    assert finished(table)["status"].tolist() == ["done"]
    with pytest.raises(ValueError, match="no finished run in the table: 1 failed, 1 diverged"):
        finished(table[table["status"] != "done"])
    with pytest.raises(ValueError, match="no status; pass it through check_table first"):
        finished(runs())


def test_a_fit_says_what_it_needs():
    table = check_table(runs(n_tokens=None))
    require(table, ["budget", "n_params", "loss"], "fit_isoflop")
    with pytest.raises(ValueError, match=r"fit_isoflop needs n_tokens: the table has none; give"):
        require(table, ["budget", "n_tokens"], "fit_isoflop")
    with pytest.raises(ValueError, match="plan needs depth: the table has none; load with colum"):
        require(table, ["depth"], "plan")


def test_a_column_must_be_known_for_each_finished_run():
    table = check_table(runs(lr=[1e-3, None, None], status=["done", "done", "failed"]))
    message = r"tune needs lr: 1 of 2 finished runs have none, e\.g\. 1; load with columns={'lr': "
    with pytest.raises(ValueError, match=message):
        require(table.sort_values("n_params").reset_index(drop=True), ["lr"], "tune")
    require(table[table["lr"].notna()], ["lr"], "tune")
