"""Tables that `collect --as` writes for other projects: read back, the same fit; and their card."""

import dataclasses
import math
import sys

import pandas as pd
import pytest
import yaml

from analysis.isoflop.fit import fit_isoflop
from analysis.table.load import load_table
from experiments import collect
from experiments.interchange.runs import LAYOUTS
from experiments.records.files import read_record, write_record

PER_BYTE = 1 / (4.4 * math.log(2))  # bits/byte of a nat/token, at 4.4 bytes a token
THEIRS = {  # as their files have them
    "open-athena": "source,dataset,model,condition,experiment,tokens,params,budget,loss",
    "nanochat": "flops_budget,depth,model_dim,params_wte,params_value_embeds,params_lm_head,"
    "params_transformer,params_scalars,params_total,num_iterations,tokens_trained,val_bpb,"
    "core_score,train_time_sec",
}


@pytest.fixture
def made(sweep):
    """Sweep with bits per byte."""
    for path in sorted(sweep.glob("*/record.json")):
        record = read_record(path)
        bits = None if record.val_loss is None else record.val_loss * PER_BYTE
        write_record(path.parent, dataclasses.replace(record, bits_per_byte=bits, sweep="made"))
    return sweep


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["collect", *map(str, words)])
    collect.main()


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_read_back_it_is_the_same_fit(made, name, monkeypatch, capsys):
    run(monkeypatch, made, "--as", name)
    path = made / name / "runs.csv"
    assert capsys.readouterr().out == f"{path}\n"
    frame = pd.read_csv(path)
    assert ",".join(frame.columns).startswith(THEIRS[name])
    own, read = load_table(made), load_table(path)
    done = own[own["status"] == "done"]
    assert len(read) == len(done) == 30
    fits = [fit_isoflop(table, n_draws=0) for table in (done, read)]
    unit = 1.0 if name == "open-athena" else PER_BYTE * math.log(2)  # val_bpb: nats per byte
    for curve, same in zip(*(fit.curves for fit in fits), strict=True):
        assert (curve.model, curve.budget) == (same.model, same.budget)
        assert curve.x_opt == pytest.approx(same.x_opt, rel=1e-9)
        assert curve.loss_opt * unit == pytest.approx(same.loss_opt, rel=1e-9)
    for law, same in zip(*(fit.laws for fit in fits), strict=True):
        assert law.laws["n_tokens"].exponent == pytest.approx(same.laws["n_tokens"].exponent)


def test_the_card_says_what_the_table_is(made, monkeypatch, capsys):
    run(monkeypatch, made, "--as", "open-athena", "--card", "--license", "cc-by-4.0")
    folder = made / "open-athena"
    assert capsys.readouterr().out == f"{folder / 'runs.csv'}\n{folder / 'README.md'}\n"
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-4.0"
    assert front["size_categories"] == ["n<1K"]
    (config,) = front["configs"]
    frame = pd.read_csv(folder / config["data_files"])
    for name in frame:
        assert body.count(f"| `{name}` | ") == 1
    assert "| `budget` | FLOPs | " in body
    assert "runs: 30 done, 1 failed, 0 diverged" in body
    assert "git commit: not recorded" in body
    assert "It is not 6ND" in " ".join(body.split())
    assert "evaluation of moe is not causal" in body


def test_the_card_has_the_commit_and_the_command(made, monkeypatch):
    for path in sorted(made.glob("*/record.json")):
        environment = {
            "git_commit": "ab" * 20,
            "git_dirty": False,
            "command": ["experiments-run", "-m", "model=dense,moe", "sweep=made"],
            "device": "cpu",
        }
        record = dataclasses.replace(read_record(path), environment=environment)
        write_record(path.parent, record)
    run(monkeypatch, made, "--as", "nanochat", "--card")
    text = (made / "nanochat" / "README.md").read_text()
    assert "license: unknown" in text
    assert f"- git commit: {'ab' * 20}\n" in text
    assert "python -m experiments.run -m model=dense,moe sweep=made\n" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--card"], "--card is of a table for others; name its form, e.g. --as nanochat"),
        (["--as", "nanochat", "--license", "mit"], "--license is written in a card; add --card"),
        (["--as", "nanochat", "--card", "--license", "CC BY"], "--license 'CC BY' must be an"),
        (["--as", "nanochat"], "has no bits_per_byte, which a table as karpathy/nanochat needs"),
    ],
)
def test_what_can_not_be_written_is_one_line(made, words, says, monkeypatch, capsys):
    path = sorted(made.glob("*/record.json"))[1]
    write_record(path.parent, dataclasses.replace(read_record(path), bits_per_byte=None))
    with pytest.raises(SystemExit):
        run(monkeypatch, made, *words)
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (made / "nanochat").exists()


def test_a_sweep_of_failed_runs_has_no_table(made):
    records = [read_record(made / "broken" / "record.json")]
    with pytest.raises(ValueError, match="no run is done yet"):
        collect.write_as("nanochat", records, made / "nanochat")
