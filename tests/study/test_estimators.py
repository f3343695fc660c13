"""Holds results/study/first.md to the records about the three estimators of one difference."""

import json

import pytest

from tests.study.committed import MODELS, RESULTS, SEEDED, document_table, text
from tests.study.estimators import ESTIMATORS, by_joint_fit, estimates, joint_fit, rows


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


def test_what_the_joint_fit_warns_of():
    found = joint_fit().warnings
    for start in ("the curves miss more than seeds", "curvatures differ by layer", "best size"):
        assert sum(text.startswith(start) for text in found) == 1, start
    (missed,) = (text for text in found if "miss more" in text)
    assert missed.count(" at 3e13") == missed.count(" at ") == 2
    (outside,) = (text for text in found if text.startswith("best size"))
    assert outside.count(" at 3e12") == outside.count(" at ") == 4


def test_other_choices_of_the_joint_fit():
    found = []
    for choice in ({"centres": "layer+budget"}, {"curvature": "layer"}):
        fit = by_joint_fit(**choice)
        cells = [str(fit["peer", "dense", b]) for b in SEEDED]
        (option, value), *_ = choice.items()
        found.append(f"{cells[0]}, {cells[1]} and {cells[2]} with `--{option} {value}`")
    assert f"PEER minus dense is {'; and '.join(found)}." in text("results/study/first.md")


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
        text("results/study/first.md")
    )
    sizes = {n: seeds.mean("peer", 3e13, n) for n in range(3, 8)}
    assert min(sizes, key=sizes.get) == 4


def test_peer_and_no_layer_at_the_smallest_budget(seeds):
    assert f"before correction alone (p = {seeds.by_own('peer', 'none', 3e12).p:.3f})" in text(
        "results/study/first.md"
    )
    for by in (seeds.by_own, seeds.by_pooled):
        assert [("peer", "none") in seeds.after_holm(by, b) for b in SEEDED] == [False, True, True]


def test_the_multipliers_of_the_report_s_figures():
    fits = json.loads((RESULTS / "isoflop" / "fits.json").read_text())["multipliers"]
    assert fits["slopes"] == "own"
    at = [each for each in fits["at"] if each["model"] == "peer"]
    a, b, c = (f"{d['value']:.2f} ({d['lower']:.2f} to {d['upper']:.2f})" for d in at)
    assert f"rises: {a}, {b} and {c}, the last beyond" in text("results/study/first.md")
    assert [each["extrapolated"] for each in at] == [False, False, True]
