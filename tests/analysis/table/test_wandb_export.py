"""Runs exported from W&B, written as its two forms look, are the sweep that was logged."""

import csv
import json
import math
import re

import pandas as pd
import pytest

from analysis.table.load import COLUMNS, check_table, load_table
from experiments.records.files import find_records, read_record

LAYER = {"_target_": "experiments.models.ffn.peer.PEERConfig", "n_heads": 2, "top_k": 16}


def wandb_config(values, **layer):
    """Config that the harness gives W&B, in part: see training/trackers."""
    shared = {"model_name": values["model"], "seed": values["seed"], "n_experts": None}
    model = {**LAYER, "query_norm": "none", **layer} if values["model"] == "peer" else {}
    return {**shared, "budget": values["budget"], "optim": {"lr": 0.1}, "model": model}


def wandb_summary(values):
    """Record but its config, and the last row of the history: its loss is the training's."""
    record = {k: v for k, v in values.items() if k != "config" and v is not None}
    return {**record, "loss": 9.0, "step": 10, "_runtime": 12, "_wandb": {"runtime": 12}}


def flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def write_ui_export(path, rows, config_prefix="", summary_prefix=""):
    """As the runs table's "Export CSV" writes it: all quoted, "-" for no notes, "" for nothing.

    rows: (state, config, summary) of each run.
    """
    table = []
    for i, (state, config, summary) in enumerate(rows):
        row = {"Name": f"lunar-sweep-{i}", "State": state, "Notes": "-", "User": "someone"}
        row |= {"Tags": "a, b", "Created": "2026-11-24T22:07:35.000Z", "Runtime": "12"}
        row |= {"Sweep": "", "ID": f"{i}e{i}"}
        row |= {f"{config_prefix}{k}": v for k, v in flat(config)}
        row |= {f"{summary_prefix}{k}": v for k, v in flat(summary) if k[0] != "_"}
        table.append({k: json.dumps(v) if isinstance(v, bool) else v for k, v in row.items()})
    with path.open("w", newline="") as file:
        header = list(dict.fromkeys(name for row in table for name in row))
        writer = csv.DictWriter(file, header, quoting=csv.QUOTE_ALL, restval="")
        writer.writeheader()
        writer.writerows(table)


def write_api_export(path, rows, text):
    """As the example script of the public API writes it: no state, and an index."""
    frame = {
        "summary": [text(summary) for _, _, summary in rows],
        "config": [text(config) for _, config, _ in rows],
        "name": [f"lunar-sweep-{i}" for i in range(len(rows))],
    }
    pd.DataFrame(frame).to_csv(path)


@pytest.fixture
def exported(tmp_path):
    """exported(rows, ...): the table of such an export."""

    def load(rows, *prefixes, **how):
        write_ui_export(tmp_path / "export.csv", rows, *prefixes)
        return load_table(tmp_path / "export.csv", **how)

    return load


@pytest.fixture
def wandb_rows(sweep):
    """Every run of the sweep, as W&B has it: (state, config, summary)."""
    rows = []
    for path in find_records(sweep):
        values = vars(read_record(path))
        state = "failed" if values["status"] == "failed" else "finished"
        rows.append((state, wandb_config(values), wandb_summary(values)))
    return rows


def same_runs(table, sweep):
    """Sweep's own table, but for the layer's config, which the fixture's records lack."""
    ours = load_table(sweep)
    layer = ["n_heads", "top_k"]
    pd.testing.assert_frame_equal(
        table[list(COLUMNS)].drop(columns=layer), ours.drop(columns=layer)
    )
    peer = table[(table["model"] == "peer")]
    assert set(peer["n_heads"]) == {2}
    assert set(peer["top_k"]) == {16}
    assert set(peer["layer.query_norm"]) == {"none"}
    assert table[table["model"] != "peer"][[*layer, "layer.query_norm"]].isna().all(axis=None)
    return True


@pytest.mark.parametrize("prefixes", [("", ""), ("config.", "summary.")])
def test_the_runs_table_of_wandb_is_the_sweep(sweep, wandb_rows, exported, prefixes):
    table = exported(wandb_rows, *prefixes)
    assert same_runs(table, sweep)
    assert table["given_loss"].eq(9.0).all()  # the last training loss of the history
    assert {"Name", "State", "Created", "optim.lr"} <= set(table.columns)


@pytest.mark.parametrize("text", [json.dumps, repr, str, dict], ids=["json", "repr", "str", "dict"])
def test_the_public_apis_table_is_the_sweep(sweep, wandb_rows, tmp_path, text):
    if text is dict:  # in a notebook, before it is written
        frame = pd.DataFrame(
            {"summary": [row[2] for row in wandb_rows], "config": [row[1] for row in wandb_rows]}
        )
        table = check_table(frame)
    else:
        write_api_export(tmp_path / "project.csv", wandb_rows, text)
        table = load_table(tmp_path / "project.csv")
    assert same_runs(table, sweep)


def test_states_of_wandb(exported):
    ends = ("finished", "crashed", "failed", "killed", "running", "Pending")
    rows = [(state, {"params": 1e6 + i}, {"val/loss": 4.0}) for i, state in enumerate(ends)]
    table = exported(rows).sort_values("n_params")
    assert table["status"].tolist() == ["done", "failed", "failed", "failed"]
    assert table["run_id"].tolist() == ["0e0", "1e1", "2e2", "3e3"]
    assert "left out: 2 runs that W&B calls pending, running" in table.attrs["notes"]


def test_a_column_named_as_the_status_may_say_wandbs_states():
    words = ("finished", "crashed", "Killed", "running", "diverged", "done")
    rows = [{"State": word, "params": 1e6 + i, "loss": 4.0} for i, word in enumerate(words)]
    table = check_table(pd.DataFrame(rows), {"status": "State"}).sort_values("n_params")
    assert table["status"].tolist() == ["done", "failed", "failed", "diverged", "done"]
    assert "left out: 1 run that W&B calls running" in table.attrs["notes"]
    rows[0]["State"] = "fine"
    with pytest.raises(ValueError, match="status='fine' is not one of"):
        check_table(pd.DataFrame(rows), {"status": "State"})


def test_a_status_of_ours_goes_before_wandbs_state(exported):
    summary = {"val_loss": 4.0, "n_params": 1e6}
    rows = [
        ("finished", {"lr": 1e-3}, {**summary, "status": "diverged"}),
        ("running", {"lr": 2e-3}, {**summary, "status": "done"}),  # W&B was told no end
        ("crashed", {"lr": 3e-3}, {**summary}),
        ("finished", {"lr": 4e-3}, {**summary, "status": "fine"}),  # not ours
    ]
    table = exported(rows).sort_values("lr")
    assert table["status"].tolist() == ["diverged", "done", "failed", "done"]


def test_a_crash_before_the_summary_is_a_failed_run_of_its_model(wandb_rows, exported):
    wandb_rows[-1] = ("crashed", wandb_rows[-1][1], {})
    table = exported(wandb_rows)
    assert len(table) == 31
    crashed = table[table["State"] == "crashed"].iloc[0]
    assert (crashed["status"], crashed["series"]) == ("failed", "peer")
    assert crashed["run_id"] == "30e30"
    assert crashed["budget"] > 0
    assert math.isnan(crashed["n_params"])


@pytest.mark.parametrize(
    ("states", "losses", "message"),
    [
        (["running"], [4.0], "no row is left: left out: 1 run that W&B calls running"),
        (
            ["finished"] * 2,
            [4.0, None],
            "run 1e1: loss=nan must be above 0 if done, and finite",
        ),
    ],
)
def test_a_finished_run_with_a_loss_is_needed(exported, states, losses, message):
    rows = [
        (state, {"params": 1e6}, {} if loss is None else {"loss": loss})
        for state, loss in zip(states, losses, strict=True)
    ]
    with pytest.raises(ValueError, match=message):
        exported(rows)


def test_the_summary_goes_before_the_config(exported):
    rows = [("finished", {"params": 5e6, "seed": 3}, {"loss": 4.0, "params": 1e6})]
    for prefixes in (("config.", "summary."), ("config.", ""), ("", "summary.")):
        run = exported(rows, *prefixes).iloc[0]
        assert (run["n_params"], run["seed"]) == (1e6, 3)


def test_others_metrics_are_named_as_in_the_export(exported):
    rows = [("finished", {"m": {"size": 1e6}}, {"valid": {"nll": 4.0}})]
    for size, loss in (("m.size", "valid.nll"), ("config.m.size", "summary.valid.nll")):
        columns = {"n_params": size, "loss": loss}
        table = exported(rows, "config.", "summary.", columns=columns)
        assert table["loss"].tolist() == [4.0]


def test_heads_of_others_are_attentions(exported):
    rows = [("finished", {"params": 1e6, "model": {"n_heads": 12}}, {"loss": 4.0})]
    table = exported(rows)
    assert table["n_heads"].isna().all()
    assert table["model.n_heads"].tolist() == [12]


def test_python_prints_more_than_its_literals_have(tmp_path):
    summary = {"loss": math.nan, "best": -math.inf, "val_loss": 4.0, "list": [1, None], "n": None}
    frame = pd.DataFrame(
        {"summary": [str(summary)], "config": ["{'params': 1e6}"], "state": "Failed"}
    )
    frame.to_csv(tmp_path / "project.csv")
    run = load_table(tmp_path / "project.csv").iloc[0]
    assert (run["loss"], run["list"], run["status"]) == (4.0, "[1, None]", "failed")
    assert run["best"] == -math.inf
    frame.assign(summary='{"loss": "NaN", "val_loss": Infinity}').to_csv(tmp_path / "project.csv")
    assert load_table(tmp_path / "project.csv").iloc[0]["loss"] == math.inf


@pytest.mark.parametrize(
    "text",
    ["{'loss': <object>}", "[1]", "{'loss': f(1)}", "{'loss': 1", "{[]: 1}", "{{}: {}}", "{{1}: 2}",
     "{'loss': " + "9" * 10**5 + "x}", "{'loss': '" + "x" * 10**5],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_dict_is_refused(tmp_path, text):
    good = "{'loss': 4.0, 'params': 1e6}"
    frame = pd.DataFrame({"name": ["a", "b"], "summary": [good, text], "config": "{}"})
    frame.to_csv(tmp_path / "project.csv")
    message = rf"^line 3: summary=.{re.escape(text[:5])}.* is not a dict, in JSON or as Python"
    with pytest.raises(ValueError, match=message.replace("'", ".")) as refused:
        load_table(tmp_path / "project.csv")
    assert len(str(refused.value)) < 400  # of a cell of 100,000 characters too
