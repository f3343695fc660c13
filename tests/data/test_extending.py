"""docs/extending.md: a corpus, a tokenizer and a set to score, each followed to the letter."""

import json

import pytest

from tests.extending import follow


@pytest.mark.long
def test_a_corpus(tmp_path):
    follow("A corpus", tmp_path)
    (record,) = (tmp_path / "results" / "mine").glob("*/record.json")
    found = json.loads(record.read_text())
    assert found["status"] == "done"
    assert found["config"]["data"]["corpus"]["_target_"].endswith("CSVColumn")
