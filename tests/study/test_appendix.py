"""The appendix is what the records have, and its figures are theirs."""

import csv

import pytest

from tests.study import appendix


@pytest.fixture(scope="module")
def found():
    return appendix.sweeps()


def test_the_committed_appendix_is_that_of_the_records(found):
    again = "`python -m tests.study.appendix` writes it again"
    assert appendix.DOCUMENT.read_text() == appendix.document(found), again
    assert appendix.RUNS.read_text() == appendix.runs(found), again


def test_a_row_a_run(found):
    rows = list(csv.DictReader(appendix.RUNS.read_text().splitlines()))
    assert len(rows) == sum(map(len, found.values()))
    by_id = {(name, r.run_id): r for name, records in found.items() for r in records}
    for row in rows:
        record = by_id.pop((row["sweep"], row["run_id"]))
        assert float(row["loss"]) == pytest.approx(record.val_loss, abs=1e-5)
        assert (int(row["n_tokens"]), int(row["seed"])) == (record.n_tokens, record.seed)
        assert float(row["lr"]) == pytest.approx(record.lr, rel=1e-5)
    assert not by_id


def test_every_trial_of_a_search_is_in_its_table(found):
    for name in appendix.RATES:
        said = appendix.tried(found[name])
        for record in found[name]:
            assert f"{record.val_loss:.4f}" in said
