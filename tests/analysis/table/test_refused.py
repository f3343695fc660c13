"""Refusals of tables, a line each: the row, the column, the value, the rule and the remedy."""

import importlib.util
import math
import re
import sys

import numpy as np
import pandas as pd
import pytest

from analysis.table.load import (
    best_of_cells,
    check_table,
    finished,
    keep_rows,
    load_table,
    require,
)
from analysis.table.units import parse_unit
from experiments.records.files import write_record
from tests.analysis.hand_made import runs
from tests.records.test_record import record

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="Parquet needs pyarrow"
)
SIZES, LOSSES = runs()["n_params"].tolist(), runs()["loss"].tolist()
SETS = pd.DataFrame({"N": SIZES, "eval/a/loss": LOSSES, "eval/b/loss": LOSSES})
BPB = pd.DataFrame({"params": SIZES, "a": LOSSES, "eval/a/bpb": 1.0, "eval/b/bpb": 1.0})
LETTERS = pd.DataFrame({"n": SIZES, "d": SIZES, "loss": LOSSES})
THEIRS = pd.DataFrame({"size": SIZES, "cost": 6e15})
WIDE = pd.DataFrame({f"key{i}": [1.0] for i in range(300)})
STATES = pd.DataFrame({"State": ["fine", "done"], "params": [1e6, 2e6], "loss": [4.0, 3.0]})
SMALL = runs(n_tokens=runs()["n_tokens"] / 1e9, n_params=runs()["n_params"] / 1e9)
TWO = runs(budget=[1e18, 3e18], n=2, n_tokens=None)  # budgets
COUNTED = "must be finite numbers of FLOPs above 0"
UNITS = (
    "the table's median is 1e+09 and 1 is expected: mixed units? FLOPs, not PFLOPs; "
    "parameters and tokens, not billions, are wanted"
)


def named(frame, **names):
    return frame.rename(columns=names)


def scaled(n, rows, by):
    """Runs of which some have their tokens in another unit."""
    frame = runs(n)
    frame.loc[rows, "n_tokens"] /= by
    return frame


@pytest.mark.parametrize(
    ("frame", "how", "message"),
    [
        (pd.DataFrame(), {}, "the table has no rows"),
        (runs()[:0], {}, "the table has no rows"),
        # columns
        (
            named(runs(), loss="perte"), {},
            "no column loss; found budget, n_params, n_tokens, perte; "
            "say which it is: columns={'loss': 'MY_NAME'}",
        ),
        (
            runs(n_params=None), {},
            "no column n_params or n_active_params; found budget, n_tokens, loss; "
            "say which it is: columns={'n_params': ",
        ),
        (LETTERS, {}, "no column n_params or n_active_params; found n, d, loss"),
        (
            THEIRS, {"needs": ["budget", "n_params"]},
            "no column loss, budget, n_params or n_active_params; found size, cost; say which they "
            "are: columns={'loss': 'MY_NAME', 'budget': 'MY_NAME', 'n_params': 'MY_NAME'}",
        ),
        (
            runs(budget=None), {"needs": ["budget", "n_params"]},
            "say which it is: columns={'budget': 'MY_NAME'}, or budget by flops='6nd'",
        ),
        (WIDE, {}, "key39, and 260 more; say which"),
        (
            runs(), {"columns": {"N": "n_params"}},
            "columns: 'N' is not one of series, model, budget",
        ),
        (
            runs(), {"columns": {"loss": "nll"}},
            "columns: loss='nll' is not there; found budget, n_params, n_tokens, loss",
        ),
        (
            runs(flops=6e15, compute=1e3, budget=None), {},
            "budget may be any of flops, compute; say which, e.g. columns={'budget': 'flops'}",
        ),
        (
            SETS, {},
            "loss may be any of eval/a/loss, eval/b/loss; say which, e.g. columns={'loss': 'eval",
        ),
        (BPB, {}, "bits_per_byte may be any of eval/a/bpb, eval/b/bpb; say"),
        (
            pd.concat([runs(), runs()], axis=1), {},
            "columns occur twice: budget, loss, n_params, n_tokens; rename or drop one",
        ),
        (runs(), {"flops": "6ND"}, "flops='6ND' is not '6nd' or None"),
        (STATES, {"columns": {"status": "State"}}, "status='fine' is not one of"),
        (
            runs(num_experts=[1, 4, 4]), {"series": ["condition"]},
            "series: 'condition' is no column; found series, model",
        ),
        (
            runs(a="x"), {"columns": {"series": "a"}, "series": ["a"]},
            "both name the series; give one",
        ),
        # units
        (runs(n_params=runs()["n_params"] / 1e9), {}, UNITS),
        (runs(n_tokens=runs()["n_tokens"] / 1e9), {}, UNITS),
        (runs(budget=6.0), {}, "row 0: budget=6, N=1e+06, n_tokens=1e+09: budget / (6 N n_tokens)"),
        (
            scaled(5, 3, 1e9), {},
            "row 3: budget=6e+15, N=8e+06, n_tokens=0.125: budget / (6 N n_tokens) is 1e+09",
        ),
        (scaled(4, [2, 3], 1e6), {}, "mixed units?"),
        (
            runs(n_params=[1e9, 2e9, 4e9], n_experts=512, n_tokens=[1.0, 0.5, 0.25]), {},
            "mixed units?",
        ),
        (
            runs(budget=None), {"units": {"budget": "GFLOP"}},
            "units: there is no budget; columns={'budget': 'MY_NAME'} names it",
        ),
        (runs(budget=6e6), {}, "of the whole table: units={'budget': 'GFLOP'}, or another"),
        (SMALL, {}, "units={'n_params': 'B', 'n_tokens': 'B'}, or another"),
        (
            runs(loss=None, ppl=[50.0, 0.5, 60.0]), {},
            "row 1: loss=0.5 is below 1, which no perplexity is",
        ),
        # budgets
        (
            TWO, {"budget_tolerance": -0.1},
            "budget_tolerance=-0.1 must be 0 or more, and below 0.5",
        ),
        (TWO, {"budget_tolerance": np.nan}, "must be 0 or more"),
        (TWO, {"budgets": []}, COUNTED),
        (TWO, {"budgets": [1e18, -1.0]}, COUNTED),
        (TWO, {"budgets": [1e18, 2e18]}, "no run is within 0.01 of 2e+18; they have 1e+18, 3e+18"),
        (runs(budget=None), {"budgets": [1e18]}, "the table has no budget"),
        # how a row is called
        (runs(run_id=["a", None, None], n_experts=[0, 1, 1]), {}, "run a: n_experts=0"),
        (runs(run_id=["a", None, None], n_experts=[1, 0, 1]), {}, "row 1: n_experts=0"),
        (runs(n_experts=[1, 0, 1]).set_index(pd.Index(["x", "y", "z"])), {}, "y: n_experts=0"),
    ],
)  # fmt: skip
def test_a_table_that_can_not_be_is_one_line(frame, how, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_table(frame, **how)
    assert "\n" not in str(caught.value)


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
def test_a_value_that_can_not_be_is_one_line(columns, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_table(runs(**columns))
    assert "\n" not in str(caught.value)


def left(frame, **values):
    """Runs whose last broke off."""
    frame = frame.assign(status=["done", "done", "diverged"])
    frame.loc[2, list(values)] = list(values.values())
    return frame


@pytest.mark.parametrize(
    "frame",
    [
        left(runs(), n_params=None, n_tokens=None, budget=None, loss=None),
        left(runs(), n_tokens=250.0),  # it has not used its budget
        runs(budget=6e15 * 50),  # attention and vocabulary
        runs(budget=6e15 / 50),
        # 4.3e9 parameters in a model of 25M, as in Clark 2022 (arXiv:2202.01169)
        runs(n_params=[1e9, 2e9, 4e9], n_experts=512),
    ],
)
def test_what_can_be_is_a_table(frame):
    assert len(check_table(frame)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.0}, "run bad: budget=0.0 must be above 0"),
        ({"n_params": -5}, "run bad: n_params=-5.0 must be above 0"),
        ({"n_experts": 0}, "run bad: n_experts=0 must be 1 or more"),
        ({"val_loss": None}, "run bad: loss=nan must be above 0 if done, and finite; set its"),
        ({"val_loss": -1.0}, "run bad: loss=-1.0 must be above 0 if done"),
        ({"n_active_params": 10**9}, "run bad: n_active_params=1000000000.0 must not exceed n_"),
        ({"run_id": "broken", "status": "failed"}, "run broken: run_id='broken' occurs twice"),
    ],
)
def test_a_record_s_error_names_the_run(sweep, changes, message):
    write_record(sweep / "bad", record(**{"run_id": "bad", **changes}))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_table(sweep)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (".", None, "; run a sweep first"),
        ("nowhere", None, "nowhere: no such file or folder; wanted: a sweep's folder, a .csv,"),
        ("runs.csv", None, "runs.csv: no such file or folder"),
        ("runs.xlsx", b"PK", "runs.xlsx: its suffix is not .csv, .tsv or .parquet; save it"),
        ("runs.csv", b"", "runs.csv is empty"),
        ("runs.csv", b"params,loss\n", "runs.csv has no rows"),
        ("runs.csv", b"params,loss\n,\n", "runs.csv has no rows"),
        (
            "runs.csv", b"params loss\n1e6 4.5\n",
            "it is one column: is its separator another? e.g. separator='tab'",
        ),
        *(
            (
                "runs.csv", f"params;loss\n1000000;{value}\n".encode(),
                f"line 2: loss='{value}' has a comma: a point is for decimals, and nothing for tho",
            )
            for value in ("4,125", "1,000", "1,000,000", "4,5x")
        ),
        pytest.param(
            "runs.parquet", b"no", "runs.parquet is not a Parquet file", marks=needs_pyarrow
        ),
    ],
)  # fmt: skip
def test_a_file_that_will_not_do_is_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_table(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_error_names_the_line_of_the_file(tmp_path):
    (tmp_path / "runs.csv").write_text("params,loss\n1e6,4.0\n\n2e6,-1\n")
    with pytest.raises(ValueError, match=r"^line 4: loss=-1\.0 must be above 0"):
        load_table(tmp_path / "runs.csv")


@needs_pyarrow
def test_an_error_names_the_row_of_a_parquet(tmp_path):
    runs(n_experts=[1, 0, 1]).to_parquet(tmp_path / "runs.parquet")
    with pytest.raises(ValueError, match=r"^row 2: n_experts=0 must be 1 or more"):
        load_table(tmp_path / "runs.parquet")


def test_parquet_without_pyarrow_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "runs.parquet").write_bytes(b"PAR1")
    for name in ("pyarrow", "pyarrow.parquet", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    message = re.escape("Parquet needs pyarrow: pip install -e '.[parquet]'")
    with pytest.raises(ValueError, match=message):
        load_table(tmp_path / "runs.parquet")


# What is asked of a table


def peer_runs():
    return check_table(
        pd.DataFrame(
            {
                "model": "peer",
                "budget": [1e12, 1e12, 3e12, 3e12],
                "n_params": [1e5, 2e5, 1e5, 2e5],
                "n_active_params": 1e5,
                "n_experts": [64, 256, 64, 256],
                "query_norm": ["batch", "none", "batch", None],
                "loss": [4.0, 3.9, 3.8, 3.7],
            }
        )
    )


def tuned():
    table = check_table(runs(lr=[1e-3, None, None], status=["done", "done", "failed"]))
    return table.sort_values("n_params").reset_index(drop=True)


def ended(*status):
    return check_table(runs(status=list(status), loss=[4.0, None, None]))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda: keep_rows(peer_runs(), {"norm": ["a"]}), "'norm' is no column; found series, mod"),
        (
            lambda: keep_rows(peer_runs(), {"query_norm": ["layer"]}),
            "no run has layer.query_norm=layer; they have , batch, none",
        ),
        (
            lambda: keep_rows(peer_runs(), {"budget": ["much"]}),
            "budget='much' is not a number",
        ),
        (
            lambda: keep_rows(peer_runs(), {"budget": ["2e12"]}),
            "no run has budget=2e12; they have 1000000000000.0, 3000",
        ),
        (
            lambda: finished(ended("done", "failed", "diverged")[lambda t: t["status"] != "done"]),
            "no finished run in the table: 1 failed, 1 diverged",
        ),
        (lambda: finished(runs()), "no status; pass it through check_table first"),
        (
            lambda: require(check_table(runs(n_tokens=None)), ["budget", "n_tokens"], "fit_isofl"),
            "fit_isofl needs n_tokens: the table has none; give",
        ),
        (
            lambda: require(check_table(runs()), ["depth"], "plan"),
            "plan needs depth: the table has none; load with colum",
        ),
        (
            lambda: require(tuned(), ["lr"], "tune"),
            "tune needs lr: 1 of 2 finished runs have none, e.g. 1; load with columns={'lr': ",
        ),
        (
            lambda: best_of_cells(check_table(runs()), ["size"]),
            "by=['size'] is not columns of the table; found seri",
        ),
        (lambda: best_of_cells(check_table(runs()), []), "by=[] is not"),
        (lambda: best_of_cells(ended("failed", "failed", "failed"), ["budget"]), "no finished run"),
        (lambda: parse_unit("seed", "M"), "units: 'seed' is not one of budget, n_params"),
        (lambda: parse_unit("budget", "M"), "units: budget='M' is not one of FLOP, kFLOP, MFLOP"),
        (
            lambda: parse_unit("n_params", "GFLOP"),
            "units: n_params='GFLOP' is not one of k, M, B, T, or a factor",
        ),
        (
            lambda: parse_unit("loss", "nan"),
            "units: loss='nan' is not one of nat, bit, nat/byte, bit/byte, perplex",
        ),
        (lambda: parse_unit("n_tokens", "-1"), "units: n_tokens='-1' is not one of k, M"),
        (lambda: parse_unit("n_tokens", "inf"), "units: n_tokens='inf' is not one of k, M"),
    ],
)
def test_what_is_asked_of_a_table_in_vain_is_named(asked, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        asked()


def test_only_the_runs_that_are_wanted_and_named_by_what_still_varies():
    table = peer_runs()
    assert "n_experts=64" in table["series"][0]
    kept = keep_rows(table, {"query_norm": ["batch"], "budget": ["1e12", "3e12"]})
    assert kept["loss"].tolist() == [4.0, 3.8]
    assert set(kept["series"]) == {"peer"}
    assert keep_rows(table, {"n_experts": ["256"], "query_norm": [""]})["loss"].tolist() == [3.7]
    given = table.assign(series="mine")
    assert set(keep_rows(given, {"budget": ["1e12"]})["series"]) == {"mine"}


def test_what_a_fit_needs_is_asked_of_finished_runs():
    assert finished(ended("done", "failed", "diverged"))["status"].tolist() == ["done"]
    require(check_table(runs(n_tokens=None)), ["budget", "n_params", "loss"], "fit_isoflop")
    require(tuned()[lambda table: table["lr"].notna()], ["lr"], "tune")
