"""docs/growth.md's table is that of the committed records, and these go on from each other."""

from itertools import permutations

import pytest
from scipy import stats

from analysis.growth import COLUMNS, compare_growth
from analysis.table.load import load_table
from experiments.records.files import find_records, read_record
from tests.conftest import REPOSITORY
from tests.study.committed import document_table

FOLDERS = [REPOSITORY / "results" / "growth" / name for name in ("square", "study")]
TEXT = (REPOSITORY / "docs" / "growth.md").read_text(encoding="utf-8")
LINE = " ".join(TEXT.split())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_document_s_table_is_what_the_command_prints(folder):
    found = compare_growth(load_table(folder, keep=COLUMNS))
    printed = found.summary().splitlines()
    assert len(found.ways) == {"square": 4, "study": 2}[folder.name]
    for line in printed[: 1 + len(found.ways)]:
        assert line.rstrip() in TEXT, line


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_grown_runs_started_as_their_parents_at_half_of_the_flops(folder):
    records = {record.run_id: record for record in map(read_record, find_records(folder))}
    grown = [record for record in records.values() if record.init]
    assert len(grown) >= 2
    for record in grown:
        parent = records[record.init["parent"]["run_id"]]
        assert record.before["validation"]["loss"] == parent.val_loss
        assert record.config["data"]["skip_steps"] == parent.n_steps
        assert record.seed == parent.seed
        assert record.init["how"] == "beside" or record.init["moments"]
        total = parent.achieved_flops + record.achieved_flops
        assert abs(total / 1e13 - 1) < 0.01
        assert record.init["parent"]["flops"] == parent.achieved_flops


@pytest.fixture(scope="module")
def runs():
    """By (how, the parent's experts, own experts, seed); how is None throughout."""
    of = {r.run_id: r for r in map(read_record, find_records(FOLDERS[0]))}
    found = {}
    for r in of.values():
        if not r.init and r.budget != 1e13:
            continue  # a parent
        small = of[r.init["parent"]["run_id"]].n_experts if r.init else None
        found[r.init["how"] if r.init else None, small, r.n_experts, r.seed] = r
    return found


def test_the_shares_of_each_seed(runs):
    shares = {}
    for small in (1024, 4096):
        for seed in (0, 1, 2):
            low = runs[None, None, small, seed].val_loss
            high = runs[None, None, 16384, seed].val_loss
            grown = runs["bias", small, 16384, seed].val_loss
            shares[small, seed] = (low - grown) / (low - high)
    few, more = ([f"{shares[small, seed]:.2f}" for seed in (0, 1, 2)] for small in (1024, 4096))
    said = "By `bias` the seeds have {}, {} and {} from 1,024, and {}, {} and {} from 4,096"
    assert said.format(*few, *more) in LINE


def test_what_is_significant():
    found = compare_growth(load_table(FOLDERS[0], keep=COLUMNS))
    assert all(way.closed.lower < 0 < way.closed.upper for way in found.ways)
    assert all(way.closed.value < 0.8 for way in found.ways)
    below = [(way.how, way.small) for way in found.ways if way.closed.upper < 0.8]
    assert below == [("beside", 1024), ("bias", 4096)]
    assert f"standard deviation over seeds is {found.sd:.3f}" in LINE
    losses = [
        float(cells[1]) for cells in document_table("| loss", REPOSITORY / "docs" / "growth.md")[1]
    ]
    spread, noise = max(losses) - min(losses), 2**0.5 * found.sd
    assert f"differ by {spread:.3f} at most" in LINE
    assert f"of two runs has a standard deviation of {noise:.3f} over seeds" in LINE
    assert len(losses) == 7


def test_even_use_goes_with_a_low_loss(runs):
    grown = [r for (how, *_), r in runs.items() if how == "bias"]
    uneven = [r.unevenness for r in grown]
    of = [
        stats.spearmanr(losses, uneven).statistic
        for losses in permutations([r.val_loss for r in grown])  # the first is as they are
    ]
    p = sum(abs(rho) >= of[0] - 1e-9 for rho in of) / len(of)
    assert f"is {of[0]:.2f} (p = {p:.2f})" in LINE
    spread = sorted(r.unevenness for r in grown)
    assert f"({spread[0]:.2f} to {spread[-1]:.2f} nats from uniform)" in LINE
    large = sorted(runs[None, None, 16384, seed].unevenness for seed in (0, 1, 2))
    assert f"16,384 experts have {large[0]:.2f} to {large[-1]:.2f}" in LINE


def test_the_seeds_differ_more_than_the_ways(runs):
    ends = {
        seed: sorted(r.val_loss for (how, *_, s), r in runs.items() if how and s == seed)
        for seed in (1, 2)
    }
    assert all(len(losses) == 4 for losses in ends.values())
    said = "with seed 1 all four end at {:.2f} to {:.2f}, with seed 2 at {:.2f} to {:.2f}"
    assert said.format(ends[1][0], ends[1][-1], ends[2][0], ends[2][-1]) in LINE
