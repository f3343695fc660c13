"""docs/growth.md's table is that of the committed records, and these go on from each other."""

import pytest

from analysis.growth import COLUMNS, compare_growth
from analysis.table.load import load_table
from experiments.records import find_records, read_record
from tests.conftest import REPOSITORY

FOLDERS = [REPOSITORY / "results" / "growth" / name for name in ("square", "study")]
TEXT = (REPOSITORY / "docs" / "growth.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_document_s_table_is_what_the_command_prints(folder):
    found = compare_growth(load_table(folder, keep=COLUMNS))
    printed = found.summary().splitlines()
    assert len(found.ways) == 2
    for line in printed[: 1 + len(found.ways)]:
        assert line.rstrip() in TEXT, line


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_grown_runs_started_as_their_parents_at_half_of_the_flops(folder):
    records = {record.run_id: record for record in map(read_record, find_records(folder))}
    grown = [record for record in records.values() if record.init]
    assert len(grown) >= 2
    for record in grown:
        parent = records[record.init["parent"]["run_id"]]
        assert record.before["validation"]["loss"] == parent.val_loss
        assert record.config["data"]["skip_steps"] == parent.n_steps
        assert (record.seed, record.init["moments"]) == (parent.seed, True)
        total = parent.achieved_flops + record.achieved_flops
        assert abs(total / 1e13 - 1) < 0.01
        assert record.init["parent"]["flops"] == parent.achieved_flops
