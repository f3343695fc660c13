"""results/study/pilots.md: whether it was the schedule, as the records have it."""

import numpy as np
import pytest
from scipy import stats

from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS, ROOT, document_table, text
from tests.study.estimators import paired
from tests.study.wsd import BUDGET, SCHEDULES, contrasts, copied, losses, rows, verdict

DOCUMENT = ROOT / "results" / "study" / "pilots.md"
LINE = text("results/study/pilots.md")


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
    for model, columns in copied()[1].items():
        assert columns[0] == pytest.approx(
            sorted(r.val_loss for r in records.values() if r.model == model), rel=1e-5
        )


def test_its_sentences_say_what_the_tables_have():
    cosine, wsd, which = verdict(losses())
    assert which == "undecided"
    assert f"Cosine's mean is {cosine:.3f}" in LINE
    assert f"WSD's is {wsd:.3f}, above 3.55" in LINE
    peer = [loss for key, of in losses().items() if key[0] == "peer" for loss in of.values()]
    assert f"all schedules are within {min(peer):.3f} and {max(peer):.3f}" in LINE
    assert min(peer) == losses()["peer", SCHEDULES[2], 3.9e-3][1]


def test_what_is_said_of_copying_is_in_its_table():
    cells, of = copied()
    dense, peer = of["dense"], of["peer"]
    r = np.corrcoef(dense)[0]
    assert f"that of repeated pairs by {r[1]:.2f}, and with that of new ones by {r[2]:.2f}" in LINE
    low, high = dense.min(axis=1), dense.max(axis=1)
    assert f"have {low[1]:.2f} to {high[1]:.2f}, new ones {low[2]:.2f} to {high[2]:.2f}" in LINE
    assert dense[2].argmax() == dense[0].argmin()
    ends = [f"{x:.2f}" for gap in (peer[3], dense[3]) for x in (gap.min(), gap.max())]
    small = {row[0]: [float(x) for x in row[6:]] for row in cells if row[1] == "1e13"}
    assert {f"{gap:.2f}" for *_, gap in small.values()} == {"1.06"}
    assert (
        "are 1.06 for each of the three layers at 1e13, {} to {} for PEER's seven runs at 3e13, "
        "and {} to {} for dense's nine".format(*ends)
    ) in LINE
    assert (peer.shape[1], dense.shape[1]) == (7, 9)
    assert (dense[3] > 1.165).sum() == 5 == (dense[3] > peer[3].max() + 0.05).sum()
    new, apart = (x[2].mean() for x in (peer, dense)), dense[2].mean() - peer[2].mean()
    assert "PEER's mean is {:.3f} and dense's {:.3f}, {:.3f} apart".format(*new, apart) in LINE
    lead = dense[0].mean() - peer[0].mean()
    said = f"is {lead:.3f} below dense's on all targets and {apart:.3f} on those that can't be"
    assert said in text("docs/study.md")
    assert f"lowest of dense is {low[0] - peer[0].max():.3f} above the highest of PEER" in LINE
    assert dense[2].min() > peer[2].max() + 0.1
    less = [d - p for d, p in zip(small["dense"], small["peer"], strict=True)]
    assert f"by {less[0]:.3f} and {less[1]:.3f} in both kinds" in LINE


def test_a_paired_difference_is_scipys():
    drawn = np.random.default_rng(0).normal(size=(2, 3))
    test = stats.ttest_rel(*drawn)
    interval = test.confidence_interval()
    mine = paired(*(dict(enumerate(values)) for values in drawn.tolist()))
    assert (mine.lower, mine.upper) == pytest.approx((interval.low, interval.high))
    assert mine.p == pytest.approx(test.pvalue)
