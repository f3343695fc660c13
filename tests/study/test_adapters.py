"""docs/adapters.md's table is that of the committed comparisons, of the committed runs."""

import json

from analysis.adapters import compare_libraries
from experiments.records.files import find_records, read_record
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "results" / "adapters"
TEXT = (REPOSITORY / "docs" / "adapters.md").read_text(encoding="utf-8")


def test_the_document_s_table_is_what_the_command_prints():
    found = compare_libraries(FOLDER / "study")
    for line in found.summary().splitlines():
        assert line.rstrip() in TEXT, line


def reports():
    return [json.loads(path.read_text()) for path in sorted((FOLDER / "study").glob("seed*.json"))]


def test_what_is_said_of_domains_without_an_adapter():
    line = " ".join(TEXT.split())
    news = "packages/bbc_news"
    more = {
        way: [r["losses"][way][news] - r["losses"]["base"][news] for r in reports()]
        for way in ("256 tokens", "64 tokens")
    }
    worst = more["256 tokens"]
    assert f"worse than the base with each seed, by {min(worst):.3f} to {max(worst):.3f}" in line
    others = more["64 tokens"]
    assert f"those of 64 tokens are at {min(others):.3f} to {max(others):.3f}." in line
    assert {report["windows"]["held_out"] for report in reports()} == {3}
    keys = ("token", "16 tokens", "64 tokens", "256 tokens", "learned")
    for losses in (report["losses"] for report in reports()):
        for domain in ("wikitext2/test", news):
            assert losses["uniform"][domain] < min(losses[way][domain] for way in keys)


def test_how_far_other_text_moves_when_an_adapter_is_added():
    most = []
    for report in reports():
        before, after = report["later"]["without"], report["later"]["with"]
        moved = {d: abs(after[d] - before[d]) for d in before if d != report["later"]["name"]}
        most.append(f"{max(moved.values()):.4f}")
    said = f"most did so by {most[0]}, {most[1]} and {most[2]} with the three seeds"
    assert said in " ".join(TEXT.split())


def test_the_comparisons_are_of_the_committed_runs():
    runs = {record.run_id: record for record in map(read_record, find_records(FOLDER / "domains"))}
    assert len(reports()) == 3
    for report in reports():
        named = [runs[run_id] for run_id in report["runs"]]
        assert {run.init["sha256"] for run in named} == {report["base"]}
        assert len({run.seed for run in named}) == 1
        domains = [run.config["data"]["corpus"]["domain"] for run in named]
        assert domains == [*report["adapters"], report["later"]["name"]]
