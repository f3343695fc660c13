"""README of a room: a corpus, a tokenizer and a set to score, each followed to the letter."""

import json

import pytest

from tests.extending import follow


@pytest.fixture
def record_of(tmp_path):
    """record_of(title): the record of the one run of a how-to."""

    def run(title):
        follow(title, tmp_path)
        (path,) = (tmp_path / "results" / "mine").glob("*/record.json")
        found = json.loads(path.read_text())
        assert found["status"] == "done"
        return found

    return run


def test_a_corpus(record_of):
    record = record_of("A corpus")
    assert record["config"]["data"]["corpus"]["_target_"].endswith("CSVColumn")


@pytest.mark.night
def test_a_tokenizer(record_of):
    assert record_of("A tokenizer")["bytes_per_token"] == pytest.approx(1, abs=0.05)


@pytest.mark.night
def test_a_set_to_score(record_of):
    found = record_of("A set of text to score")["evaluations"]
    assert set(found) == {"dogs", "dogs@stride=8"}
