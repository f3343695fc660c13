"""What a table can be made from: files of this harness, of others; published runs."""

import importlib.util
import re

import pandas as pd
import pytest

from analysis.table.load import COLUMNS, check_table, load_table
from experiments.collect import collect_rows, write_tables
from experiments.system.csv_text import to_csv
from tests.analysis.hand_made import runs

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="Parquet needs pyarrow"
)


# Files


def test_a_csv_is_a_table(tmp_path):
    runs().to_csv(tmp_path / "runs.csv", index=False)
    pd.testing.assert_frame_equal(load_table(tmp_path / "runs.csv"), check_table(runs()))


@needs_pyarrow
def test_a_parquet_is_a_table(tmp_path):
    runs(n_experts=[1, None, 1]).to_parquet(tmp_path / "runs.parquet")
    table = load_table(str(tmp_path / "runs.parquet"))
    pd.testing.assert_frame_equal(table, check_table(runs(n_experts=[1, None, 1])))


@needs_pyarrow
@pytest.mark.parametrize("name", ["records.csv", "records.parquet"])
def test_what_collect_writes_is_the_sweep(sweep, name):
    write_tables(sweep, collect_rows(sweep))
    table = load_table(sweep / name)
    pd.testing.assert_frame_equal(table[list(COLUMNS)], load_table(sweep))
    assert "share.head" in table


def test_an_index_of_to_csv_is_no_column(tmp_path):
    pd.concat([runs(), runs()]).reset_index(drop=True).to_csv(tmp_path / "runs.csv")
    table = load_table(tmp_path / "runs.csv")
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 3  # copies, whatever their number was


def test_a_csv_from_a_spreadsheet(tmp_path):
    text = "\ufeff params , tokens,flops,loss,model\r\n1e6,1000000000,6e15,4.0,a\r\n\r\n,,,,\r\n"
    (tmp_path / "runs.csv").write_text(text, encoding="utf-8")
    table = load_table(tmp_path / "runs.csv")
    assert table[["n_params", "n_tokens", "budget", "model"]].values.tolist() == [
        [1e6, 1e9, 6e15, "a"]
    ]


def test_large_integers_and_ids_are_read_as_what_they_are(tmp_path):
    budget = 5_760_000_000_000_000_000_000_000  # more than 64 bits hold
    text = f"run_id,params,tokens,flops,loss\n0123456789e5,1000000,960000000000000000,{budget},2\n"
    (tmp_path / "runs.csv").write_text(text)
    run = load_table(tmp_path / "runs.csv").iloc[0]
    assert run["budget"] == 5.76e24
    assert run["run_id"] == "0123456789e5"


# Published runs


def test_chinchilla(published):
    table = load_table(published("chinchilla_epoch_245.csv"))
    assert len(table) == 245
    assert table["n_active_params"].equals(table["n_params"])
    assert table["budget"].is_monotonic_increasing
    assert "n_active_params of 245 rows is n_params" in table.attrs["notes"][1]


def test_chinchilla_without_its_flops_or_tokens(published, tmp_path):
    given = pd.read_csv(published("chinchilla_epoch_245.csv"))
    for name in ("flops", "tokens"):
        given.drop(columns=name).to_csv(tmp_path / "part.csv", index=False)
        table = load_table(tmp_path / "part.csv", flops="6nd")
        ours = table[{"flops": "budget", "tokens": "n_tokens"}[name]]
        # Only the last bits differ: their flops are 6 N D
        assert sorted(ours) == pytest.approx(sorted(given[name]), rel=1e-12)


def test_porian(published):
    table = load_table(published("porian_rw_tuned_121.csv"))
    assert len(table) == 121
    assert table["budget"].nunique() == 12


def test_clark(published):
    table = load_table(
        published("clark_final_163.csv"),
        columns={
            "model": "router_type",
            "n_experts": "num_experts",
            "n_active_params": "dense_parameter_count",
            "n_params": "total_parameter_count",
            "loss": "loss_validation",
        },
    )
    assert table["model"].value_counts().to_dict() == {
        "RL-R": 54,
        "S-Base": 53,
        "Hash": 51,
        "Dense": 5,
    }
    assert table["n_tokens"].isna().all()
    assert table["n_heads"].isna().all()  # theirs, num_heads, are attention's
    assert {"Dense", "S-Base n_experts=64", "Hash n_experts=512"} <= set(table["series"])
    assert table.loc[table["model"] == "Dense", "n_experts"].eq(1).all()
    assert {"loss_c4", "num_heads", "step"} <= set(table.columns)


# Spreadsheets


def test_text_that_a_spreadsheet_would_run_comes_back_as_it_was(tmp_path):
    names = ["=cmd|' /C calc'!A0", "@x", "'-1"]
    table = check_table(
        runs(
            model=names,
            run_id=["1", "2", "3"],
            **{"=note": ["+1", "-x", "plain"], "delta": [-1, 2, -3]},
        )
    )
    path = tmp_path / "table.csv"
    path.write_text(to_csv(table), encoding="utf-8")
    assert not re.search(r'(^|[,"])[=+@]', path.read_text(), re.MULTILINE)
    back = load_table(path).set_index("run_id").loc[["1", "2", "3"]]
    assert back["model"].tolist() == names
    assert back["=note"].tolist() == ["+1", "-x", "plain"]
    assert back["delta"].tolist() == [-1, 2, -3]
