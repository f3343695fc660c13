"""Losses by document of a sweep's records: read once, kept small, and what is wrong with them."""

import pytest

from analysis import read_source
from experiments.records.files import write_record
from tests.records.test_record import record

MORE = "a document has more of its repeated targets than of all"


def of(losses, **changes):
    """A record's two documents, of these losses a token."""
    values = {
        "document": [0, 1],
        "n_tokens": [30, 10],
        "n_bytes": [120.0, 40.0],
        "nats": [30 * losses[0], 10 * losses[1]],
        "domains": ["a", "b"],
        "domain": [0, 1],
    }
    return {**values, **changes}


def folder(path, **documents):
    for run_id, found in documents.items():
        write_record(path / run_id, record(run_id=run_id, val_loss=4.25, documents=found))
    return path


def test_runs_share_what_they_were_scored_on_and_records_keep_no_lists(tmp_path):
    source = read_source(folder(tmp_path, one=of([4.0, 5.0]), two=of([4.0, 5.0]), none={}))
    documents = source.documents
    scored = documents.scored(["one", "two"])
    assert len(documents.sets) == 1
    assert list(scored.n_tokens) == [30, 10]
    assert list(scored.within("b")) == [False, True]
    assert list(documents.nats["one"]) == [120, 50]
    assert not any(one.documents for one in source.records)
    with pytest.raises(ValueError, match="1 of 3 runs have none in the record: none"):
        documents.scored(["one", "none", "two"])


def test_repeated_targets_of_newer_records_are_read_beside_older_ones(tmp_path):
    newer = of([4.0, 5.0], n_repeated=[6, 2], nats_repeated=[9.0, 3.0])
    other = of([4.0, 5.0], n_repeated=[6, 3], nats_repeated=[9.0, 3.0])
    made = folder(tmp_path, a_old=of([4.0, 5.0]), b_new=newer, c_old=of([4.0, 5.0]), d_other=other)
    found = read_source(made).documents
    assert len(found.sets) == 1
    assert list(found.scored(["a_old", "b_new"]).n_of["repeated"]) == [6, 2]
    assert list(found.kinds["repeated"]) == ["b_new"]
    assert found.damaged == {
        "d_other": "n_repeated is another one than of other runs on the same documents"
    }
    parts = found.parts(["b_new"], "targets")
    assert {name: part.nats["b_new"].tolist() for name, part in parts.items()} == {
        "repeated": [9.0, 3.0], "new": [111.0, 47.0],
    }  # fmt: skip
    assert [part.scored(["b_new"]).n_tokens.tolist() for part in parts.values()] == [
        [6, 2],
        [24, 8],
    ]
    with pytest.raises(ValueError, match="1 of 2 runs do not say which of their targets are"):
        found.parts(["a_old", "b_new"], "targets")


def test_targets_that_are_seen_are_a_part_where_all_runs_say_which(tmp_path):
    repeated = {"n_repeated": [6, 2], "nats_repeated": [9.0, 3.0]}
    seen = {**repeated, "n_seen": [14, 0], "nats_seen": [50.0, 0.0]}
    made = folder(tmp_path, a=of([4.0, 5.0], **seen), b=of([4.0, 5.0], **repeated))
    found = read_source(made).documents
    assert len(found.sets) == 1
    parts = found.parts(["a"], "targets")
    assert {name: part.nats["a"].tolist() for name, part in parts.items()} == {
        "repeated": [9.0, 3.0], "seen": [50.0], "neither": [61.0, 47.0],
    }  # fmt: skip
    assert parts["neither"].scored(["a"]).n_tokens.tolist() == [10, 8]
    assert found.targets(["a"])["new"].nats["a"].tolist() == [111.0, 47.0]
    assert list(found.parts(["a", "b"], "targets")) == ["repeated", "new"]


@pytest.mark.parametrize(
    "changes",
    [
        {"n_bytes": [120.0, 41.0]},  # another tokenizer, or text
        {"domain": [0, 0]},
        {"document": [0, 2]},
        {"domains": ["a", "c"]},
    ],
)
def test_documents_that_differ_in_anything_are_others(tmp_path, changes):
    found = read_source(folder(tmp_path, one=of([4.0, 5.0]), two=of([4.0, 5.0], **changes)))
    assert len(found.documents.sets) == 2
    with pytest.raises(ValueError, match=r"2 sets of documents, e.g. (one, two|two, one)"):
        found.documents.scored(["one", "two"])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"nats": [120.0]}, "2 of document, 2 of n_tokens, 2 of n_bytes, 1 of nats, 2 of domain"),
        ({"nats": [120.0, None]}, "nats has a value that is no number of 0 or more"),
        ({"nats": [120.0, float("nan")]}, "nats has a value that is no number of 0 or more"),
        ({"nats": [130.0, 50.0]}, "their mean is 4.5 nats/token, and val_loss is 4.25"),
        ({"n_tokens": "many"}, "n_tokens is no list of numbers"),
        ({"n_tokens": [30, 0], "nats": [127.5, 0.0]}, "a document has no token"),
        ({"domain": [0, 7]}, "a domain is no number of the 2 in domains"),
        ({"domains": "ab"}, "domains are no list of names"),
        ({"n_repeated": [6, 2]}, "nats_repeated is no list of numbers"),
        ({"n_repeated": [6, 11], "nats_repeated": [9.0, 9.0]}, MORE),
        ({"n_repeated": [6, 2], "nats_repeated": [9.0, 51.0]}, MORE),
        (
            {
                "n_repeated": [6, 2],
                "nats_repeated": [9.0, 3.0],
                "n_seen": [25, 0],
                "nats_seen": [9.0, 0.0],
            },
            "a document has more of its repeated and seen targets than of all",
        ),
    ],
)
def test_damaged_documents_are_a_line_and_their_run_stays(tmp_path, changes, why):
    source = read_source(folder(tmp_path, one=of([4.0, 5.0]), bad=of([4.0, 5.0], **changes)))
    assert sorted(source.frame["run_id"]) == ["bad", "one"]
    assert source.documents.damaged == {"bad": why}
    with pytest.raises(ValueError, match="1 of 2 runs have damaged ones: bad"):
        source.documents.scored(["one", "bad"])
