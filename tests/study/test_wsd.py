"""docs/study_pilots.md: whether it was the schedule, as the records have it."""

import numpy as np
import pytest
from scipy import stats

from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS, ROOT, document_table, text
from tests.study.estimators import paired
from tests.study.wsd import BUDGET, contrasts, copied, losses, rows, verdict

DOCUMENT = ROOT / "docs" / "study_pilots.md"
LINE = text("docs/study_pilots.md")


@pytest.fixture(scope="module")
def records():
    return {path.parent.name: read_record(path) for path in find_records(RESULTS / "wsd")}


def test_what_is_done_is_said_and_clean(records):
    assert f"Of 16 runs {len(records)} are done" in LINE
    assert {(r.status, r.budget, r.n_layers) for r in records.values()} == {("done", BUDGET, 4)}
    assert not any(r.environment["git_dirty"] for r in records.values())


@pytest.mark.parametrize(
    ("first", "computed"),
    [("model", rows), ("of", contrasts), ("of a layer", lambda found: copied()[0])],
    ids=["losses", "contrasts", "copying"],
)
def test_the_tables_are_the_records(first, computed):
    assert document_table(first, DOCUMENT)[1] == computed(losses())


def test_copying_is_of_the_records(records):
    columns = copied()[1]
    assert columns[0] == pytest.approx(
        sorted(r.val_loss for r in records.values() if r.model == "dense"), rel=1e-5
    )


def test_its_sentences_say_what_the_tables_have():
    cosine, wsd, which = verdict(losses())
    assert which == "undecided"
    assert f"Cosine's mean is {cosine:.3f}" in LINE
    assert f"WSD's is {wsd:.3f}, above 3.55" in LINE
    cells, columns = copied()
    r = np.corrcoef(columns)[0]
    assert f"that of repeated pairs by {r[1]:.2f}, and with that of new ones by {r[2]:.2f}" in LINE
    (_, low, new_low), (_, high, new_high) = columns.min(axis=1), columns.max(axis=1)
    assert f"have {low:.2f} to {high:.2f}, new ones {new_low:.2f} to {new_high:.2f}" in LINE
    assert columns[2].argmax() == columns[0].argmin()
    small = [[float(x) for x in row[5:]] for row in cells if row[1] == "1e13"]
    peer, dense = (next(row for row in cells if row[:2] == [m, "1e13"]) for m in ("peer", "dense"))
    apart = [float(d) - float(p) for d, p in zip(dense[6:], peer[6:], strict=True)]
    assert f"{apart[0]:.3f} and {apart[1]:.3f}" in LINE
    assert f"have {min(x[1] for x in small):.2f} to {max(x[1] for x in small):.2f} there" in LINE


def test_a_paired_difference_is_scipys():
    drawn = np.random.default_rng(0).normal(size=(2, 3))
    test = stats.ttest_rel(*drawn)
    interval = test.confidence_interval()
    mine = paired(*(dict(enumerate(values)) for values in drawn.tolist()))
    assert (mine.lower, mine.upper) == pytest.approx((interval.low, interval.high))
    assert mine.p == pytest.approx(test.pvalue)
