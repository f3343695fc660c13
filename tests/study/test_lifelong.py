"""docs/lifelong.md's table of one stream is that of the committed records."""

import math

import pytest

from analysis.forgetting import compare_forgetting, way_of
from experiments.records import find_records, read_record
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "lifelong.md").read_text(encoding="utf-8")
WAYS = {
    "dense, full fine-tuning": "dense",
    "dense, replay 0.05": "dense, replay 0.05",
    "PEER, full fine-tuning": "peer 16,384",
    "PEER, replay 0.05": "peer 16,384, replay 0.05",
    "PEER, its tables alone": "peer 16,384, tables alone",
    "PEER, a layer beside, which is trained alone": "peer 16,384, layer alone, beside",
    "PEER, its layer alone": "peer 16,384, layer alone",
    "PEER, distillation": "peer 16,384, distillation 1",
    "PEER, all domains jointly": "peer 16,384, joint",
}


@pytest.fixture(scope="module")
def records():
    """Of seed 0."""
    folder = REPOSITORY / "results" / "lifelong" / "streams"
    found = [read_record(path) for path in find_records(folder)]
    return [record for record in found if record.seed == 0]


def test_the_table_at_equal_learning_is_that_of_the_records(records):
    at = {one.way: one for one in compare_forgetting(records, learning=0.92).equal.ways}
    rows = [line.strip("| \n").split(" | ") for line in TEXT.splitlines() if "| +0." in line]
    rows = [row for row in rows if row[0] in WAYS]
    assert [row[0] for row in rows] == list(WAYS)
    assert set(at) == set(WAYS.values())
    for name, *numbers in rows:
        one = at[WAYS[name]]
        assert one.n_streams == 1
        found = [x for x in (one.forgetting.value, one.base.value) if not math.isnan(x)]
        assert [text.strip(" |") for text in numbers if text.strip(" |")] == [
            f"{x:+.2f}" for x in found
        ]


def test_the_values_in_the_text_are_those_of_the_records(records):
    ways = compare_forgetting(records).ways
    most = {
        way: max(one.learning.value for one in ways if one.way == way)
        for way in {one.way for one in ways}
    }
    assert "jointly learn 1.06 bits/byte at most" in TEXT.replace("\n", " ")
    assert f"{most['peer 16,384, joint']:.2f}" == "1.06"
    assert f"{most['peer 16,384']:.2f}" == "1.60"
    for n, value in ((1024, "0.62"), (256, "0.38"), (64, "0.19")):
        assert f"{most[f'peer 16,384, tables alone, top {n} rows']:.2f}" == value
        assert value in TEXT
    at = {one.way: one for one in compare_forgetting(records, learning=0.51).equal.ways}
    rows, tables = (at[f"peer 16,384, tables alone{w}"] for w in (", top 1024 rows", ""))
    assert [f"{x:+.2f}" for x in (rows.forgetting.value, tables.forgetting.value)] == [
        "+0.26",
        "+0.26",
    ]
    assert [f"{x:+.2f}" for x in (rows.base.value, tables.base.value)] == ["+0.15", "+0.16"]


def test_every_record_is_of_a_way_that_is_compared(records):
    assert {"dense", "peer 16,384", "peer 16,384, LoRA"} <= {way_of(r) for r in records}
    assert all(record.status == "done" for record in records)
