"""`collect`: a sweep's records as one table."""

import os
import time

import pandas as pd
import pytest

from experiments import collect
from experiments.records.files import write_record
from experiments.training.execute import execute
from tests.records.test_record import record


def test_collect_writes_both_tables_or_neither(make, sweep, monkeypatch):
    record = execute(make("eval=[validation]"))
    rows = collect.collect_rows(sweep)
    csv, parquet = collect.write_tables(sweep, rows)
    for table in (pd.read_csv(csv), pd.read_parquet(parquet)):
        assert table["run_id"].tolist() == [record.run_id]
        assert table["val_loss"][0] == record.val_loss
        scored = record.evaluations["validation"]["perplexity"]
        assert table["validation.perplexity"][0] == scored
        assert table[[c for c in table if c.startswith("share.")]].sum(axis=1)[0] == pytest.approx(
            1
        )
    before = csv.read_bytes(), parquet.read_bytes()

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="no space"):
        collect.write_tables(sweep, [{"run_id": "x"}])
    assert (csv.read_bytes(), parquet.read_bytes()) == before
    assert not list(sweep.glob(".table-*"))


def test_a_history_without_its_last_rows_is_said_with_the_remedy(tmp_path, command):
    whole, cut = tmp_path / "sweep" / "whole", tmp_path / "sweep" / "cut"
    for run_dir in (whole, cut):
        write_record(run_dir, record(run_id=run_dir.name))
        (run_dir / "last.ckpt").touch()
        (run_dir / "history.csv").write_text(f"step,loss\n{record().n_steps},3.0\n")
    (cut / "history.csv").write_bytes(b"")  # as a loss of power leaves it
    assert command(collect, "sweep", "--results", tmp_path)[2] == (
        "warning: history.csv lacks its last rows in 1 finished runs (cut); the command that "
        "started the sweep, or retry, writes them from last.ckpt\n"
    )


def test_records_of_uncommitted_code_are_counted(tmp_path, command):
    for name, changed in {"a": True, "b": False, "c": None}.items():
        made = record(run_id=name, environment={"git_dirty": changed})
        write_record(tmp_path / "sweep" / name, made)
    assert command(collect, "sweep", "--results", tmp_path)[2] == (
        "note: of 3 records: 1 of a working tree with uncommitted changes (git_dirty); "
        "1 of an unknown commit\n"
    )


def test_what_a_killed_collect_left_is_removed_and_what_runs_is_not(tmp_path):
    for name, age in ((".table-old", 4000), (".table-new", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.csv").write_text("a")
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    collect.write_tables(tmp_path, [{"run_id": "x"}])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".table-new", "records.csv", "records.parquet"}
