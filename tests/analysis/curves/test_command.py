"""`analysis curves` on tables and folders: what it says, writes and refuses."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from experiments.records.files import write_record
from tests.analysis.curves.made import annealed
from tests.records.test_record import record

SIZES = {"n_params": 1000, "n_active_params": 1000, "n_tokens": 10**6, "budget": 6e9}
FAST = ["--law", "annealing", "--draws", "20"]


def frame(*runs):
    parts = [
        pd.DataFrame({"run": one.run, "step": one.step, "loss": one.loss, "lr": one.rate})
        for one in runs
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "curves.csv"
    rng = np.random.default_rng(0)
    runs = [annealed(kind, 1000, noise=0.01, rng=rng) for kind in ("cosine", "wsd", "constant")]
    frame(*runs).to_csv(path, index=False)
    return path


def test_a_table_is_fitted_held_out_and_predicted(table, capsys):
    words = ["--hold-out", "each", "--predict", "cosine:3000"]
    assert main(["curves", str(table), *FAST, *words]) == 0
    out = capsys.readouterr().out
    assert "L = L0 + A S1^-alpha - C S2" in out
    assert "annealing: rms error" in out
    assert "cosine 3000" in out
    folder = table.parent / "curves-analysis"
    found = json.loads((folder / "curves.json").read_text())
    assert len(found["held"]) == 6  # three runs, by the law and the nearest run
    assert set(found["fits"][0]["params"]) == {"L0", "A", "alpha", "C", "lambda"}
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    again = folder / "table.csv"
    assert main(["curves", str(again), *FAST, "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    first = found["fits"][0]["estimates"]
    assert second["fits"][0]["estimates"] == pytest.approx(first, rel=0.02)  # losses are rounded


def test_a_schedule_of_a_file_is_predicted(table, tmp_path, capsys):
    path = tmp_path / "mine.csv"
    step = np.arange(10, 2001, 10)
    pd.DataFrame({"step": step, "lr": 0.01 * np.minimum(1, step / 60)}).to_csv(path, index=False)
    assert main(["curves", str(table), *FAST, "--predict", str(path), "--json"]) == 0
    (predicted,) = json.loads(capsys.readouterr().out)["predicted"]
    assert predicted["run"] == "mine"
    assert predicted["n_steps"] == 2000
    assert predicted["measured"] is None


def write_history(folder, one):
    """As the trainer does: a row has the rate of the step after it."""
    later = np.append(one.rate[1:], one.rate[-1])
    rows = pd.DataFrame({"step": one.step.astype(int), "loss": one.loss, "lr": later})
    rows.to_csv(folder / "history.csv", index=False)


def test_a_sweep_s_runs_are_named_by_what_differs(tmp_path, capsys):
    for kind, loss in (("cosine", 3.0), ("wsd", 3.1)):
        one = annealed(kind, 1000)
        folder = tmp_path / kind
        config = {"optim": {"schedule": kind, "warmup": 0.1}}
        more = {**SIZES, "n_steps": 1000, "config": config, "val_loss": loss}
        write_record(folder, record(run_id=kind, **more))
        write_history(folder, one)
    assert main(["curves", str(tmp_path), *FAST, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"][0]["runs"] == ["schedule=cosine", "schedule=wsd"]
    assert "blocks of" in found["fits"][0]["series"]


def test_runs_of_two_series_may_have_one_name(table, capsys):
    both = pd.read_csv(table)
    other = both.assign(series="b", loss=both["loss"] + 0.5)
    pd.concat([both.assign(series="a"), other]).to_csv(table, index=False)
    assert main(["curves", str(table), *FAST, "--json"]) == 0
    fits = json.loads(capsys.readouterr().out)["fits"]
    assert [fit["series"] for fit in fits] == ["a", "b"]
    assert fits[1]["params"]["L0"] == pytest.approx(fits[0]["params"]["L0"] + 0.5, abs=0.02)


def refusal(capsys, *words):
    assert main(["curves", *map(str, words)]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_a_sweep_without_histories_is_refused(tmp_path, capsys):
    write_record(tmp_path / "a", record(run_id="a", **SIZES))
    assert "no finished run" in refusal(capsys, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.drop(columns="lr"),
            "no column lr; found run, step, loss; .*column.lr=MY_NAME",
        ),
        (lambda t: t.assign(loss=t["loss"].where(t.index != 7)), "line 9: loss=nan is no finite"),
        (lambda t: t.assign(lr=-t["lr"]), "rates must be 0 or more"),
        (lambda t: t.assign(lr=0.0), "some rates above 0"),
        (lambda t: t.assign(loss=-1.0), "losses must be above 0"),
        (lambda t: t.assign(run="a"), "run a: step 10 comes after step 1000; are two runs mixed"),
        (lambda t: t.drop(index=range(20, 60)), "no row between steps 200 and 610"),
        (lambda t: t.head(5), "has 5 rows; a curve needs 10"),
        (lambda t: t[t["run"] == "constant 1000"], "the rate of no run falls before its end"),
    ],
)
def test_a_bad_table_is_one_line(table, capsys, change, message):
    change(pd.read_csv(table)).to_csv(table, index=False)
    text = refusal(capsys, table, *FAST)
    assert re.search(message, text), text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--table", "unit.loss=bit"], "--table unit is not for curves"),
        (["--predict", "cosine"], "--predict 'cosine' is not {cosine,wsd,constant}:STEPS"),
        (["--predict", "linear"], "--predict 'linear' is not {cosine,wsd,constant}:STEPS"),
        (["--predict", "wsd:9,decay=2"], "shares from 0 to 1, and no file"),
        (["--hold-out", "nothing"], "--hold-out 'nothing' is in no run's name"),
        (["--where", "run=x"], "no row has run=x"),
        (["--predict", "cosine:20"], "no longer than the warm-up"),
    ],
)
def test_options_that_don_t_go_are_one_line(table, capsys, words, message):
    assert message in refusal(capsys, table, *FAST, *words)
