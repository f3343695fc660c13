"""docs/lifelong.md's table of facts is that of the committed records."""

import re

from experiments.records.files import find_records, read_record
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "results" / "lifelong" / "facts"
TEXT = (REPOSITORY / "docs" / "lifelong.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| [^|]*\| (\de-\d) \| (.*) \|$", re.M)


def row_of(record):
    held_in, held_out = (record.evaluations[f"tasks/facts_held_{name}"] for name in ("in", "out"))
    start, end = record.stages[0]["scores"]["base"], record.stages[-1]["scores"]["base"]
    lost = end["bits_per_byte"] - start["bits_per_byte"]
    scores = f"{held_in['acc']:.2f} | {held_in['bits_per_byte']:.2f} | {held_out['acc']:.2f}"
    return f"{scores} | {lost:+.2f}"


def test_every_row_is_a_run_s_and_every_run_has_one():
    records = [read_record(path) for path in find_records(FOLDER)]
    expected = sorted(
        (f"{record.lr:.0e}".replace("e-0", "e-"), row_of(record)) for record in records
    )
    assert len(records) == 15
    assert sorted(ROW.findall(TEXT)) == expected
