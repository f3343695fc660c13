"""results/study/pilots.md: how a run ends, as the records have it."""

import numpy as np
import pytest
from scipy import stats

from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS, ROOT, document_table, text
from tests.study.ends import ENDS, SEEDS, contrasts, doubled, less_noise, losses, noises, rows

DOCUMENT = ROOT / "results" / "study" / "pilots.md"
LINE = text("results/study/pilots.md")


@pytest.fixture(scope="module")
def found():
    return losses()


def test_all_runs_are_there_alike_and_clean(found):
    assert all(set(of) == set(SEEDS) for of in found.values())
    records = [read_record(path) for path in find_records(RESULTS / "ends")]
    assert len(records) == 36
    assert {(r.status, r.budget, r.n_layers, r.n_eval_tokens) for r in records} == {
        ("done", 3e12, 3, 196608)
    }
    assert not any(r.environment["git_dirty"] for r in records)
    assert len({r.environment["git_commit"] for r in records}) == 1


@pytest.mark.parametrize(
    ("first", "computed"),
    [("layer", rows), ("PEER minus dense", contrasts), ("end", noises)],
    ids=["losses", "contrasts", "noises"],
)
def test_the_tables_are_the_records(found, first, computed):
    assert document_table(first, DOCUMENT)[1] == computed(found)


def test_its_sentences_say_what_the_tables_have(found):
    last = {(m, e): list(found[m, e, "last"].values()) for m in ("dense", "peer") for e in ENDS}
    minus = {tuple(cells[:3]): cells[5:] for cells in rows(found) if cells[5]}
    p = {key: float(value[1]) for key, value in minus.items()}
    certain = {key for key in p if p[key] < 0.05}
    assert certain == {
        (m, *case) for m in ("dense", "peer") for case in ((ENDS[0], "mean"), (ENDS[1], "last"))
    }
    dense, peer, both = doubled(found)
    assert f"{-both.value:.3f} ({-both.upper:.3f} to {-both.lower:.3f})" in LINE
    assert f"(p = {both.p:.3f}, without correction; dense alone {dense}, PEER alone {peer})" in LINE
    r = [np.corrcoef(last[m, ENDS[0]], last[m, ENDS[1]])[0, 1] for m in ("dense", "peer")]
    assert f"correlate by {r[0]:.2f} (dense) and {r[1]:.2f} (PEER)" in LINE
    values = [float(cells[2].split()[0]) for cells in contrasts(found)]
    assert f"It is {max(values):.3f} to {min(values):.3f} by all six" in LINE
    raised = [
        np.mean(list(found[m, ENDS[1], "mean"].values())) - np.mean(last[m, ENDS[1]])
        for m in ("dense", "peer")
    ]
    assert {f"{value:.3f}" for value in raised} == {"0.005"}


def test_the_interval_of_a_ratio_holds_it(found):
    """Against draws of pairs whose standard deviations are known, at 3.5 binomial errors."""
    rng = np.random.default_rng(5)
    n, held = 2000, 0
    for _ in range(n):
        x, noise = rng.normal(size=(2, len(SEEDS)))
        y = 2 * (0.8 * x + 0.6 * noise)
        _, low, high = less_noise(*(dict(zip(SEEDS, z, strict=True)) for z in (x, y)))
        held += low <= 0.5 <= high
    assert held == pytest.approx(0.95 * n, abs=3.5 * np.sqrt(n * 0.05 * 0.95))
    x, y = (list(found["peer", e, "last"].values()) for e in ENDS[:2])
    kept = [k for k in (0.80, 0.90, 0.99) if _equal(np.array(y), k * np.array(x)) > 0.05]
    _, low, high = less_noise(found["peer", ENDS[1], "last"], found["peer", ENDS[0], "last"])
    assert kept == [k for k in (0.80, 0.90, 0.99) if low <= k <= high]


def _equal(x, y):
    """Two-sided p of equal variances of pairs."""
    return stats.pearsonr(x + y, x - y).pvalue
