"""A run of one's own app: what it may return, how it may end, and what it leaves of its steps."""

import logging
import sys

import numpy as np
import pandas as pd
import pytest

from examples.ridge.ridge import Ridge
from experiments import collect
from experiments.records.app_record import AppRecord
from experiments.records.files import read_any_record
from experiments.sweep.objective import Objective
from experiments.sweep.one_run import run_one
from experiments.sweep.states import read_states
from tests.sweep.conftest import RIDGE

pytestmark = pytest.mark.usefixtures("ridge_app")


def test_a_failure_is_a_record_and_is_tried_again(ridge_raw, tmp_path, monkeypatch, capsys):
    def fail(self, run):
        raise ZeroDivisionError("no data")

    with monkeypatch.context() as patch:
        patch.setattr(Ridge, "run", fail)
        with pytest.raises(SystemExit) as end:
            run_one(ridge_raw(), place=RIDGE)
    assert end.value.code == 1
    (point,) = read_states(tmp_path / "results" / "s")
    assert (point.state, point.detail) == ("failed", "ZeroDivisionError: no data")
    run_one(ridge_raw(), place=RIDGE)
    (point,) = read_states(tmp_path / "results" / "s")
    assert point.state == "done"


@pytest.mark.parametrize(
    ("returned", "status"),
    [
        ({"loss": float("nan")}, "diverged"),
        ({"loss": np.float32(1)}, "done"),
        ({"loss": [1]}, "failed"),
        ({"loss": 10**400}, "failed"),  # which its own reader would refuse
        (1.0, "failed"),
    ],
)
def test_what_a_run_may_return(ridge_raw, tmp_path, monkeypatch, returned, status):
    monkeypatch.setattr(Ridge, "run", lambda self, run: returned)
    try:
        run_one(ridge_raw(), place=RIDGE)
    except SystemExit:
        assert status == "failed"
    assert read_any_record(next(tmp_path.rglob("record.json"))).status == status


@pytest.mark.parametrize("step", ["-1", "1e999", "true", '"3"', "9" * 5000, "[]"])
def test_a_checkpoint_of_no_step_is_refused(ridge_raw, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patch:
        patch.setattr(Ridge, "run", lambda self, run: 1.0)
        with pytest.raises(SystemExit):
            run_one(ridge_raw(), place=RIDGE)
    run_dir = next(tmp_path.rglob("record.json")).parent
    (run_dir / "last.ckpt").write_text(f'{{"step": {step}}}\n')
    with pytest.raises(SystemExit):
        run_one(ridge_raw(), place=RIDGE)
    error = read_any_record(run_dir / "record.json").error
    assert error is not None
    assert "last.ckpt is no checkpoint; delete it, and the same command" in error


@pytest.mark.parametrize("own", [False, True])
def test_log_lines_go_where_a_run_s_output_goes(ridge_raw, monkeypatch, capsys, own):
    """From INFO on, and once, if an app has a handler of its own."""
    handler = logging.StreamHandler(sys.stdout)
    monkeypatch.setattr(logging.root, "handlers", [handler] if own else [])

    def run(self, run):
        log = logging.getLogger("mine")
        log.debug("debug")
        log.info("half %d", 2)
        log.warning("whole")
        return {}

    monkeypatch.setattr(Ridge, "run", run)
    run_one(ridge_raw(), place=RIDGE)
    out, err = capsys.readouterr()
    assert ("whole\n" in out) is own
    assert [line.partition("]")[2] for line in err.splitlines() if "mine" in line] == (
        [] if own else ["[mine][INFO] - half 2", "[mine][WARNING] - whole"]
    )
    assert logging.root.handlers == ([handler] if own else [])


@pytest.mark.parametrize("code", [None, 0, 3, 130])
def test_an_exit_within_a_run_is_a_failure(ridge_raw, tmp_path, monkeypatch, code):
    """Not the end of the command by that code, which says something else of a sweep's point."""

    def leave(self, run):
        raise SystemExit(code)

    monkeypatch.setattr(Ridge, "run", leave)
    with pytest.raises(SystemExit) as end:
        run_one(ridge_raw(), place=RIDGE)
    assert end.value.code == 1
    (point,) = read_states(tmp_path / "results" / "s")
    said = "" if code is None else code
    assert point.state == "failed"
    assert point.detail.startswith(f"RuntimeError: run called sys.exit({said}); it has to return")


@pytest.mark.parametrize("name", ["own", "loss"])
def test_steps_that_are_taken_again_are_no_rows_twice(ridge_raw, tmp_path, monkeypatch, name):
    """Of an app that asks for no checkpoint, after a kill; its columns are those of the first."""

    def run(self, run):
        for step in (1, 2, 3):
            run._row = float("-inf")  # a row a step
            if step == 3 and killed:
                raise KeyboardInterrupt
            run.step(step, lambda: b"", **{name: float(step)})
        return {"loss": 0.0}

    monkeypatch.setattr(Ridge, "run", run)
    killed = True
    with pytest.raises(KeyboardInterrupt):
        run_one(ridge_raw(n_steps=3), place=RIDGE)
    (history,) = tmp_path.rglob("history.csv")
    with history.open("a") as file:
        file.write("3,3")  # torn by the kill
    killed = False
    run_one(ridge_raw(n_steps=3), place=RIDGE)
    assert history.read_text() == f"step,{name}\n1,1\n2,2\n3,3\n"


def test_values_replace_no_column_of_the_record(tmp_path):
    """In a table they have their own, and a search is by them."""
    record = app_record(values={"loss": 1.0, "status": "mine", "n_steps": 7}, config={"loss": 2})
    row = collect.record_row(record)
    assert (row["status"], row["values.status"]) == ("done", "mine")
    assert (row["loss"], row["config.loss"]) == (1.0, 2)
    assert Objective(name="n_steps", direction="minimize").of(record) == 7.0
    assert Objective(name="wall_seconds", direction="minimize").of(record) is None


def test_a_table_holds_values_of_several_types(tmp_path):
    """Parquet's columns have one type."""
    given = [{"a": 1.5}, {"a": "no"}, {"a": True, "b": 2**70}, {"b": None}]
    rows = [collect.record_row(app_record(values=values)) for values in given]
    csv, parquet = collect.write_tables(tmp_path, rows)
    for table in (pd.read_csv(csv), pd.read_parquet(parquet)):
        assert table["a"].dropna().tolist() == ["1.5", "no", "True"]
        assert table["b"].dropna().tolist() == [pytest.approx(2**70)]


def app_record(**given):
    plain = {"run_id": "r", "sweep": "s", "status": "done", "app": RIDGE, "label": "ridge"}
    steps = {"n_steps": 3, "planned_steps": 3, "own_work": 3.0, "unit": "steps"}
    return AppRecord(**plain, **steps, **given)
