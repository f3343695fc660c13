"""docs/adapters.md's table is that of the committed comparisons, of the committed runs."""

import json

from analysis.adapters import compare_libraries
from experiments.records.record import find_records, read_record
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "results" / "adapters"
TEXT = (REPOSITORY / "docs" / "adapters.md").read_text(encoding="utf-8")


def test_the_document_s_table_is_what_the_command_prints():
    found = compare_libraries(FOLDER / "study")
    for line in found.summary().splitlines():
        assert line.rstrip() in TEXT, line


def test_the_comparisons_are_of_the_committed_runs():
    runs = {record.run_id: record for record in map(read_record, find_records(FOLDER / "domains"))}
    reports = [json.loads(p.read_text()) for p in sorted((FOLDER / "study").glob("seed*.json"))]
    assert reports
    for report in reports:
        named = [runs[run_id] for run_id in report["runs"]]
        assert {run.init["sha256"] for run in named} == {report["base"]}
        assert len({run.seed for run in named}) == 1
        domains = [run.config["data"]["corpus"]["domain"] for run in named]
        assert domains == [*report["adapters"], report["later"]["name"]]
