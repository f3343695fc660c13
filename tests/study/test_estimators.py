"""What README and docs/study.md say of the three estimators of one difference."""

import json

import numpy as np
import pytest
from scipy.optimize import least_squares

from tests.study.committed import MODELS, RESULTS, ROOT, SEEDED, document_table, text
from tests.study.estimators import ESTIMATORS, PAIRS, by_joint_fit, estimates, rows


@pytest.fixture(scope="module")
def found(seeds):
    return estimates(seeds)


@pytest.fixture(scope="module")
def curves():
    fits = json.loads((RESULTS / "isoflop" / "fits.json").read_text())
    return {(c["model"], round(c["budget"], -10)): c for c in fits["isoflop"]["curves"]}


def test_the_tables(seeds):
    _, shown = document_table("difference | by")
    assert shown == rows(seeds)
    _, shown = document_table("PEER minus dense, by", ROOT / "README.md")
    assert shown == [cells[1:] for cells in rows(seeds, PAIRS[:1])]


def test_the_joint_fit_is_that_of_a_search(seeds):
    """The lowest points as numbers of the fit, searched for from the lowest losses."""
    cells = [(m, b) for m in MODELS for b in SEEDED]
    runs = [r for r in seeds.records if r.n_layers >= 3]
    at = np.array([cells.index((r.model, r.budget)) for r in runs])
    x, y = np.log([r.n_layers for r in runs]), np.array([r.val_loss for r in runs])
    start = np.r_[[y[at == i].min() for i in range(18)], np.full(18, np.log(4)), 1]
    search = least_squares(lambda p: p[at] + p[-1] * (x - p[18 + at]) ** 2 - y, start)
    fit = by_joint_fit(seeds)
    for (m, o, b), d in fit.items():
        lowest = [search.x[cells.index((name, b))] for name in (m, o)]
        assert lowest[0] - lowest[1] == pytest.approx(d.value, abs=1e-5)


def significant(found, pair, budget):
    return [each[*pair, budget].p < 0.05 for each in found.values()]


def test_what_holds_by_all_three(found):
    for pair, budgets in {("peer", "dense"): (1e13, 3e13), ("peer", "none"): (1e13,)}.items():
        for budget in budgets:
            assert all(significant(found, pair, budget))
            assert all(each[*pair, budget].value < 0 for each in found.values())
    for budget in (3e12, 3e13):
        assert not any(significant(found, ("peer", "pkm"), budget))


def test_what_depends_on_the_estimator(found, curves, seeds):
    assert significant(found, ("peer", "dense"), 3e12) == [True, False, True]
    for pair in (("peer", "pkm"), ("none", "dense")):
        signs = {each[*pair, 3e12].value > 0 for each in found.values()}
        assert signs == {True, False}
    for budget in SEEDED:
        assert not any(significant(found, ("none", "dense"), budget)[1:])
    largest = [
        max(SEEDED, key=lambda b, each=each: -each["peer", "dense", b].value)
        for each in found.values()
    ]
    assert dict(zip(ESTIMATORS, largest, strict=True)) == dict(
        zip(ESTIMATORS, (1e13, 3e13, 3e13), strict=True)
    )
    lowest = {m: curves[m, 3e12]["loss_opt"] for m in MODELS}
    assert {m for m in MODELS if lowest[m] < lowest["peer"]} == {"pkm", "moe_fine"}
    peer, none = (lowest[m] - seeds.mean(m, 3e12) for m in ("peer", "none"))
    assert f"is {peer:.3f} above the mean of its three seeds, and that of no layer {none:.3f}" in (
        text("docs/study.md")
    )
    sizes = {n: seeds.mean("peer", 3e13, n) for n in range(3, 8)}
    assert min(sizes, key=sizes.get) == 4


def test_peer_and_no_layer_at_the_smallest_budget(seeds):
    assert f"before correction alone (p = {seeds.by_own('peer', 'none', 3e12).p:.3f})" in text(
        "docs/study.md"
    )
    for by in (seeds.by_own, seeds.by_pooled):
        assert [("peer", "none") in seeds.after_holm(by, b) for b in SEEDED] == [False, True, True]


def test_the_multipliers_of_the_report_s_figures():
    fits = json.loads((RESULTS / "isoflop" / "fits.json").read_text())["multipliers"]
    assert fits["slopes"] == "own"
    at = [each for each in fits["at"] if each["model"] == "peer"]
    a, b, c = (f"{d['value']:.2f} ({d['lower']:.2f} to {d['upper']:.2f})" for d in at)
    assert f"rises: {a}, {b} and {c}, the last beyond" in text("docs/study.md")
    assert [each["extrapolated"] for each in at] == [False, False, True]
