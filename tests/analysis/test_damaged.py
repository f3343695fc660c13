"""Records that can't be read are left out and named; the others are a table all the same."""

import json

import pytest

from analysis.__main__ import main
from analysis.report.provenance import find_provenance
from analysis.table.load import load_table
from analysis.table.sources import read_source
from experiments.records.files import write_record
from tests.records.test_record import record

DAMAGED = {
    "empty": "",
    "torn": '{"run_id": "x", "status',
    "zeros": "\0" * 100,
    "a list": "[]",
    "deep": "[" * 100_000,
    "config": {"config": 5},
    "evaluations": {"evaluations": [1]},
    "scores": {"evaluations": {"lambada": 4.5}},
    "shares": {"flops_shares": {"head": "much"}},
    "steps": {"n_steps": 0},
    "loss": {"val_loss": "4.5"},
    "status": {"status": "fine"},
}


def damage(path, what):
    """Text instead of the record, or other values in it."""
    if isinstance(what, dict):
        values = json.loads(path.read_text())
        values.pop("sha256", None)
        what = json.dumps({**values, **what})
    path.write_text(what)


@pytest.mark.parametrize("what", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_one_note_and_not_the_end(sweep, what):
    whole = load_table(sweep)
    damage(sweep / "broken" / "record.json", what)
    table = load_table(sweep)
    assert len(table) == len(whole) - 1
    assert "damaged" not in whole.attrs
    line = table.attrs["damaged"]
    assert line in table.attrs["notes"]
    start = f"left out: 1 of 31 records are damaged: {sweep / 'broken' / 'record.json'} ("
    assert line.startswith(start)
    assert "delete it" in line
    assert "\n" not in line


def test_a_record_that_is_a_folder_is_damaged(sweep):
    (sweep / "2" / "record.json").mkdir(parents=True)
    assert "1 of 32 records are damaged" in load_table(sweep).attrs["damaged"]


def test_only_if_none_is_left_is_it_an_error(tmp_path):
    for i in range(5):
        damage(write_record(tmp_path / f"run{i}", record(run_id=str(i))), "{")
    with pytest.raises(ValueError, match=r"^5 of 5 records are damaged: .*run0.*; and 2 more; del"):
        load_table(tmp_path)


def test_a_record_without_a_layer_is_a_row(sweep):
    damage(sweep / "broken" / "record.json", {"config": {"model": "peer"}})
    assert len(load_table(sweep)) == 31


def test_the_command_warns_in_one_line_with_json_too(sweep, capsys, undrawn):
    damage(sweep / "broken" / "record.json", "{")
    for options in ([], ["--json"]):
        assert main(["isoflop", str(sweep), *options]) == 0
        out, err = capsys.readouterr()
        assert err.startswith("warning: left out: 1 of 31 records are damaged: ")
        assert err.count("\n") == 1
        assert "damaged" not in out.partition("note")[0]


def test_what_is_odd_in_an_environment_is_passed_over(tmp_path):
    odd = {"command": 5, "git_commit": 12, "device": None}
    write_record(tmp_path / "a", record(run_id="a", environment=odd))
    damage(write_record(tmp_path / "b", record(run_id="b")), "{")
    found = find_provenance(read_source(tmp_path).records, ["a"])
    assert (found.commands, found.commits) == ((), ("12",))
