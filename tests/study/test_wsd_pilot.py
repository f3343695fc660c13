"""docs/branches.md's pilot: branches of one trunk beside the study's cosine runs."""

import math

import numpy as np
import pytest

from experiments.records.files import find_records, read_record
from tests.conftest import REPOSITORY
from tests.study.committed import RESULTS, document_table, text

DOCUMENT = REPOSITORY / "docs" / "branches.md"
LINE = text("docs/branches.md")
BUDGETS = (3e12, 1e13, 3e13)
RATES = {"dense": (3.5e-3, 5e-3, 7e-3), "peer": (3.9e-3, 5.5e-3, 7.7e-3)}


@pytest.fixture(scope="module")
def records():
    return [read_record(path) for path in find_records(RESULTS / "wsd_pilot")]


@pytest.fixture(scope="module")
def branches(records):
    """Loss by model, budget and rate."""
    found = {(r.model, r.budget, r.config["ladder"]["lr"]): r.val_loss for r in records if r.trunk}
    assert len(found) == 18
    return found


@pytest.fixture(scope="module")
def cosine():
    """Loss of seed 0 by model and budget, at four blocks."""
    found = [read_record(path) for path in find_records(RESULTS / "isoflop")]
    return {
        (r.model, r.budget): r.val_loss
        for r in found
        if r.seed == 0 and r.n_layers == 4 and r.model in RATES
    }


def signed(value):
    return f"{value:+.3f}".replace("+0", "0")


def test_the_table_is_that_of_the_records(branches, cosine):
    _, rows = document_table("layer, budget", DOCUMENT)
    expected = [
        [f"{model}, {budget:.0e}".replace("e+", "e"), f"{cosine[model, budget]:.4f}"]
        + [f"{branches[model, budget, lr]:.4f}" for lr in RATES[model]]
        for model in RATES
        for budget in BUDGETS
    ]
    assert rows == expected


def test_the_settings_are_those_of_the_cosine_runs_but_the_schedule(records):
    runs = {r.run_id: r for r in map(read_record, find_records(RESULTS / "isoflop"))}
    named = {"dense": "586d34796916", "peer": "00f04b5673c8"}
    for r in records:
        if r.trunk and r.budget == 1e13:
            other = runs[named[r.model]]
            assert (r.n_params, r.batch_tokens, r.n_steps) == (
                other.n_params, other.batch_tokens, other.n_steps,
            )  # fmt: skip
            for part in ("ladder", "model", "data", "trunk"):
                mine, theirs = r.config[part], other.config[part]
                same = {k for k in mine.keys() & theirs.keys() if k != "lr"}
                assert {k: mine[k] for k in same} == {k: theirs[k] for k in same}


def test_how_far_branches_are_from_cosine(branches, cosine, seeds):
    from_cosine = {
        (m, b): [branches[m, b, lr] - cosine[m, b] for lr in RATES[m]]
        for m in RATES
        for b in BUDGETS
    }
    at_middle = [d[1] for d in from_cosine.values()]
    best = [min(d) for d in from_cosine.values()]
    assert f"at the middle rate by {signed(min(at_middle))} to {signed(max(at_middle))}" in LINE
    assert f"best of three rates by {signed(min(best))} to {signed(max(best))}" in LINE
    noise = math.sqrt(2 * np.mean([seeds.pooled(b) for b in BUDGETS]))
    assert f"a standard deviation of {noise:.3f} over seeds" in LINE
    beyond = [cell for cell, d in from_cosine.items() if abs(d[1]) > noise]
    assert beyond == [("dense", 3e13)]
    low, high = sorted(-d for d in from_cosine["dense", 3e13])[::2]
    assert f"are below cosine, by {low:.3f} to {high:.3f}" in LINE


def test_the_cosine_run_trained_again():
    (path,) = find_records(RESULTS / "wsd_control")
    again = read_record(path)
    first = read_record(RESULTS / "isoflop" / again.run_id / "record.json")
    assert (first.model, first.budget, first.n_layers) == ("dense", 3e13, 4)
    assert f"by the pilot's code, has {again.val_loss:.4f}" in LINE
    assert abs(again.val_loss - first.val_loss) < 0.001


def test_the_lead_of_peer_by_either_schedule(branches, cosine):
    lead = {}
    for b in BUDGETS:
        best = {m: min(branches[m, b, lr] for lr in RATES[m]) for m in RATES}
        lead[b] = (
            signed(cosine["peer", b] - cosine["dense", b]),
            signed(best["peer"] - best["dense"]),
        )
    (a, b), (c, d), (e, f) = (lead[budget] for budget in (3e13, 1e13, 3e12))
    assert f"is {a} by cosine at 3e13 and four blocks, and {b} by the best branch" in LINE
    assert f"At 1e13 it is {c} and {d}, at 3e12 {e} and {f}." in LINE


def test_what_the_study_says_of_it(branches, cosine):
    less = {m: cosine[m, 3e13] - min(branches[m, 3e13, lr] for lr in RATES[m]) for m in RATES}
    lead = cosine["peer", 3e13] - cosine["dense", 3e13]
    by_branches = lead - less["peer"] + less["dense"]
    study = text("results/study/first.md")
    said = "dense at 3e13 and L = 4 is {:.3f} below its cosine run, and PEER {:.3f}"
    assert said.format(less["dense"], less["peer"]) in study
    assert f"PEER minus dense is {by_branches:.3f} there instead of {lead:.3f}" in study
    changes = [
        min(branches["peer", b, lr] for lr in RATES["peer"])
        - min(branches["dense", b, lr] for lr in RATES["dense"])
        - (cosine["peer", b] - cosine["dense", b])
        for b in BUDGETS[:2]
    ]
    assert f"it changes by {max(map(abs, changes)):.3f} at most" in study


def test_no_gain_at_the_second_budget_beside_the_best_cosine_runs(branches, seeds):
    searched = [read_record(path) for path in find_records(RESULTS / "rates")]
    found = {}
    for m in RATES:
        cosine = min(r.val_loss for r in searched if (r.model, r.budget) == (m, 1e13))
        found[m] = cosine, min(branches[m, 1e13, lr] for lr in RATES[m])
    (a, b), (c, d) = found["dense"], found["peer"]
    assert f"the best cosine runs have {a:.4f} (dense) and {c:.4f} (PEER)" in LINE
    assert f"branches have {b:.4f} and {d:.4f}: {b - a:.3f} above and {c - d:.3f} below" in LINE
    assert max(abs(b - a), abs(d - c)) < math.sqrt(2 * seeds.pooled(1e13))
    sizes = {(r.budget, r.n_layers) for r in searched}
    assert (1e13, 4) in sizes
    assert (3e13, 4) not in sizes


def test_peer_s_best_branch_at_the_largest_budget_is_of_the_lowest_rate(branches):
    lowest, middle, _ = (branches["peer", 3e13, lr] for lr in RATES["peer"])
    assert f"its loss still falls by {middle - lowest:.3f} to it" in LINE


def test_the_best_rate_falls_with_the_budget(branches):
    best = {
        (m, b): min(RATES[m], key=lambda lr, m=m, b=b: branches[m, b, lr])
        for m in RATES
        for b in BUDGETS
    }
    assert [best["dense", b] for b in BUDGETS] == [7e-3, 3.5e-3, 3.5e-3]
    assert [best["peer", b] for b in BUDGETS] == [5.5e-3, 5.5e-3, 3.9e-3]
    lost = [branches[m, b, RATES[m][1]] - branches[m, b, best[m, b]] for m, b in best]
    assert f"a budget loses up to {max(lost):.3f} nats" in LINE


def test_what_was_saved(records):
    trunks = [r for r in records if r.config["optim"]["schedule"] == "trunk"]
    branches = [r for r in records if r.trunk]
    assert (len(trunks), len(branches)) == (6, 18)
    paid = sum(r.achieved_flops for r in trunks) + sum(r.trunk["own_flops"] for r in branches)
    whole = sum(r.achieved_flops for r in branches)
    said = f"{paid:.3g} FLOPs instead of {whole:.3g}: {1 - paid / whole:.0%} less"
    assert said.replace("%", " %") in LINE
