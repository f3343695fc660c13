"""results/study/pilots.md: the rates of the second edition are those of its records and law."""

import math

import pytest

from tests.study.committed import ROOT, document_table, text
from tests.study.planned import planned
from tests.study.rates_2 import BUDGETS, LAYERS, fits, rate_by, rows, trials

LINE = text("results/study/pilots.md")


@pytest.fixture(scope="module")
def plan():
    """Points of the main runs."""
    return planned("study_main_2")


def test_the_table():
    assert document_table("layer | FLOPs", ROOT / "results" / "study" / "pilots.md")[1] == rows()


def test_equal_trials_of_clean_code():
    of = trials()
    assert set(of) == {(layer, budget) for layer in LAYERS for budget in BUDGETS}
    for own in of.values():
        assert len(own) == 4
        assert {r.seed for r in own} == {0}
        assert not any(r.environment["git_dirty"] for r in own)
        assert len({r.environment["git_commit"] for r in own}) == 1


def test_what_is_said_of_the_law():
    cells, law = fits()
    value, (low, high) = (law[key]["exponent[n_tokens]"] for key in ("params", "conf_int"))
    assert f"falls as D^{value:.2f} ({low:.2f} to {high:.2f})" in LINE
    assert f"held out by a factor of {law['held_out']:.2f}." in LINE
    off = [
        abs(math.log(rate_by(law, layer, cell["at"]["n_tokens"]) / cell["lr_opt"]))
        for (layer, _), cell in cells.items()
        if "outside the range" not in cell["flags"]
    ]
    assert len(off) == 14
    assert math.exp(max(off)) < 1.5
    bounded = [cell for cell in cells.values() if None not in cell["lr_interval"]]
    assert not bounded


def test_what_is_said_of_noise_and_copying():
    of = trials()
    at = {f"{r.lr:.4f}": f"{r.val_loss:.4f}" for r in of["pkm", 1e13]}
    assert f"PKM has {at['0.0070']} at 0.0070 and {at['0.0081']} at 0.0081" in LINE
    gaps = []
    for layer in LAYERS:
        for record in of[layer, 1e13]:
            d = record.documents
            repeated = sum(d["nats_repeated"]) / sum(d["n_repeated"])
            new = (sum(d["nats"]) - sum(d["nats_repeated"])) / (
                sum(d["n_tokens"]) - sum(d["n_repeated"])
            )
            gaps.append(new - repeated)
    assert f"are {min(gaps):.2f} to {max(gaps):.2f} for all layers at 1e13" in LINE


def test_the_main_runs_are_those_that_were_registered(plan):
    """62 runs in the registered order, all sparse layers with the parameters of 64 dense ones."""
    cells = [(p.config.budget, p.config.model_name, p.config.size, p.config.seed) for p in plan]
    assert len(cells) == len(set(cells)) == 62
    stages = [
        (1e13, {"dense", "none", "moe_fine", "pkm", "peer"}, 25),
        (3e13, {"none", "moe_fine", "peer"}, 15),
        (1e14, {"none", "moe_fine", "peer"}, 12),
        (3e13, {"dense", "pkm"}, 10),
    ]
    at = 0
    for budget, layers, n in stages:
        own = cells[at : at + n]
        assert {(b, m) for b, m, _, _ in own} == {(budget, m) for m in layers}
        middle = {1e13: 4, 3e13: 5, 1e14: 6}[budget]
        seeds = 2 if budget == 1e14 else 3
        expected = {(middle, s) for s in range(seeds)} | {(middle - 1, 0), (middle + 1, 0)}
        for layer in layers:
            assert {(size, seed) for _, m, size, seed in own if m == layer} == expected
        at += n
    trunk = {p.config.size: p.plan.cost.n_params for p in plan if p.config.model_name == "none"}
    for p in plan:
        size = p.config.size
        if p.config.model_name in ("moe_fine", "pkm", "peer"):
            dense = 8 * (16 * size) ** 2
            assert (p.plan.cost.n_params - trunk[size]) / dense == pytest.approx(64, rel=0.03)


def test_the_main_runs_have_the_law_s_rates(plan):
    _, law = fits()
    most = max(p.plan.n_tokens for p in plan) / law["ranges"]["n_tokens"][1]
    assert f"tokens are up to {most:.0f} times the most of the search" in LINE
    for p in plan:
        expected = rate_by(law, p.config.model_name, p.plan.n_tokens)
        assert p.plan.lr == pytest.approx(expected, rel=0.01)
