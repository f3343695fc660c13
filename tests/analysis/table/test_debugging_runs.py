"""Debugging runs are no results: the analysis leaves them out, and says so."""

import pytest

from analysis.table.sources import read_source
from experiments.records.files import write_record
from tests.records.test_record import record


def test_they_are_left_out_with_a_line(tmp_path):
    looked_at = {"debug": {"name": "fdr", "steps": 1}}
    write_record(tmp_path / "b", record(run_id="b", config={**record().config, **looked_at}))
    with pytest.raises(ValueError, match="has debugging runs alone"):
        read_source(tmp_path)
    write_record(tmp_path / "a", record(run_id="a"))
    source = read_source(tmp_path)
    assert [one.run_id for one in source.records] == ["a"]
    assert source.frame.attrs["damaged"] == "left out: 1 debugging run"
