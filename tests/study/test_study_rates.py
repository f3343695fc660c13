"""What results/study/first.md says of the best rate of each layer, from the search's records."""

import math
import re

import numpy as np
import pytest

from analysis.rates.fit import fit_rates
from analysis.rates.moves import compare_rates
from analysis.table.load import load_table
from experiments.records.files import find_records, read_record
from tests.study.committed import MODELS, RESULTS, document_table, text
from tests.study.rate_readings import NOISE, SHOWN, rows

LINE = text("results/study/first.md")
START = LINE.index("## The best rate of each layer")
SECTION = LINE[START : LINE.index("## Seconds")]


@pytest.fixture(scope="module")
def rates():
    return fit_rates(load_table(RESULTS / "rates"), method="parabola", noise=NOISE)


@pytest.fixture(scope="module")
def compared(rates):
    return compare_rates(rates, load_table(RESULTS / "isoflop"))


@pytest.fixture(scope="module")
def gains(compared):
    return {(gain.cell.model, gain.cell.budget): gain for gain in compared.gains}


@pytest.fixture(scope="module")
def moves(compared):
    return compared.moves


def lowest(model, budget):
    """Of the rates tried, and the runs of results/study/rates alone."""
    records = [read_record(path) for path in find_records(RESULTS / "rates")]
    return min(r.val_loss for r in records if (r.model, r.budget) == (model, budget))


def rate(value):
    return f"{value * 1e3:.1f}e-3"


def ends(cell):
    """Of the best rate's interval, as far as rates were tried."""
    low, high = cell.lr_interval
    if not 0 < low < high < math.inf:
        return "unbounded"
    if low < min(cell.lrs):
        return f"up to {rate(high)}"
    return f"from {rate(low)}" if high > max(cell.lrs) else f"{rate(low)} to {rate(high)}"


def test_the_noise_is_that_of_the_study_s_seeds(seeds):
    pooled = math.sqrt(np.mean([seeds.pooled(budget) for budget in (1e13, 3e13)]))
    assert f"{pooled:.3f}" == f"{NOISE:.3f}"


def test_each_cell_has_a_new_trial_and_all_are_of_seed_0(rates):
    records = [read_record(path) for path in find_records(RESULTS / "rates")]
    assert {r.seed for r in records} == {0}
    assert len({r.run_id for r in records}) == len(records)
    earlier = [path for sweep in ("isoflop", "tuning") for path in find_records(RESULTS / sweep)]
    known = {read_record(path).run_id for path in earlier}
    more = [r for r in records if r.run_id not in known]
    n_known = len(records) - len(more)
    assert f"{len(records)} trials: {n_known} are runs of the sweeps above" in SECTION
    flops, hours = (sum(getattr(r, n) for r in more) for n in ("achieved_flops", "wall_seconds"))
    assert f"{len(more)} runs more, {flops:.1e} FLOPs and {hours / 3600:.1f} core hours" in LINE
    new = {(r.model, r.budget) for r in more}
    assert len(new) == len(rates.cells) == 12


def test_the_table_of_best_rates(gains):
    _, rows = document_table("layer | used at 1e13")
    assert [row[0] for row in rows] == list(MODELS)
    for model, *cells in rows:
        expected = []
        for budget in (1e13, 3e13):
            gain = gains[model, budget]
            best = f"{rate(gain.cell.lr_opt)} ({ends(gain.cell)})"
            expected += [rate(gain.lr), best, f"{gain.gain:.3f}"]
        assert cells == expected


def test_peer_at_the_smaller_budget(moves, gains, seeds):
    used = seeds.of("peer", 1e13)[0] - seeds.of("dense", 1e13)[0]
    least = lowest("peer", 1e13) - lowest("dense", 1e13)
    assert f"PEER minus dense is {used:.3f} at the rates used and {least:.3f} at the" in SECTION
    below = lowest("peer", 1e13) - gains["peer", 1e13].cell.loss_opt
    assert f"minimum is {below:.3f} below any run of PEER" in SECTION
    grows = [abs(m.moved_by) for m in moves if m.budget == 1e13 and "peer" in (m.model, m.other)]
    assert len(grows) == 5
    assert f"would grow by {min(grows):.2f} to {max(grows):.2f}" in SECTION
    cell = gains["peer", 1e13].cell
    a, b, c = np.polyfit(np.log(cell.lrs), cell.losses, 2)
    at_used = math.log(gains["peer", 1e13].lr)
    missed = a * at_used**2 + b * at_used + c - seeds.of("peer", 1e13)[0]
    assert f"the parabola misses the run at the used rate by {missed:.3f}." in SECTION
    others = [m for m in moves if m.budget == 1e13 and "peer" not in (m.model, m.other)]
    assert max(abs(m.moved_by) for m in others) < 0.01


def test_the_readings_of_the_same_trials(seeds, moves):
    found = rows(seeds)
    head, shown = document_table("reading | move by more than 0.01")
    assert head[2:] == [f"{other}, {b:.0e}".replace("e+", "e") for other, b in SHOWN]
    assert shown == found
    assert f"{sum(abs(m.moved_by) > 0.01 for m in moves)} of {len(moves)}" == found[0][1]
    dense = sorted(float(cells[2]) for cells in found)
    assert f"is between {dense[-1]:.3f} and {dense[0]:.3f}, beside" in SECTION
    assert f"beside {seeds.by_own('peer', 'dense', 1e13).value:.3f} at the rates" in SECTION
    none = sorted(-float(cells[5]) for cells in found)
    for said in (f"{none[0]:.3f} to {none[-1]:.3f}",):
        assert LINE.count(f"(#the-best-rate-of-each-layer) it is {said}.") == 1
        assert LINE.count(f"(#the-best-rate-of-each-layer) {said}.") == 1
    assert f"other readings PEER's lead is {none[1]:.3f} to {none[-1]:.3f}." in SECTION


def test_the_trial_that_sets_a_cell_s_curvature(gains):
    for model in ("dense", "moe", "pkm"):
        cell = gains[model, 3e13].cell
        *near, far = sorted(zip(cell.lrs, cell.losses, strict=True))
        assert rate(far[0]) == "28.6e-3"
        assert far[1] - max(loss for _, loss in near) == pytest.approx(0.3, abs=0.05)
    assert [rate(lr) for lr, _ in near] == ["2.5e-3", "4.5e-3", "8.9e-3"]
    a, b, c = (f"{loss:.4f}" for _, loss in near)
    assert f"PKM's runs at 2.5e-3, 4.5e-3 and 8.9e-3 have {a}, {b} and {c}," in SECTION


def test_no_layer_at_the_larger_budget(moves, gains):
    assert f"It gains {gains['none', 3e13].gain:.3f}" in SECTION
    large = {(m.model, m.other): m for m in moves if m.budget == 3e13}
    peer, pkm = large["peer", "none"], large["pkm", "none"]
    ways = [f"{-m.at_best_rates:.3f} instead of {-m.difference:.3f}" for m in (peer, pkm)]
    assert f"PEER's lead over it would be {ways[0]}, PKM's {ways[1]}." in SECTION
    for low, high in (peer.interval, pkm.interval):
        assert low < 0 < high
    for pair, move in large.items():
        assert (abs(move.moved_by) > 0.01) == ("none" in pair)
    others = [gain.gain for (m, b), gain in gains.items() if b == 3e13 and m != "none"]
    assert f"other layers none gains more than {max(others):.3f}" in SECTION


def test_how_far_the_best_rate_falls(rates):
    best = {(cell.model, cell.budget): cell.lr_opt for cell in rates.cells}
    fall = [best[model, 3e13] / best[model, 1e13] for model in MODELS]
    assert f"falls by a factor of {min(fall):.2f} to {max(fall):.2f}" in SECTION
    assert max(fall) < 1
    laws = {law.label: law for law in rates.forms[-1].laws}
    assert rates.forms[-1].law.label == "constant"
    low, high = laws["n_tokens"].bounds("exponent[n_tokens]")
    exponent = laws["n_tokens"].exponents["n_tokens"]
    assert f"as D^{exponent:.2f} ({low:.2f} to {high:.2f})" in SECTION
    missed = [f"{laws[label].held_out:.2f}" for label in ("n_tokens", "constant")]
    assert f"by a factor of {missed[0]}, beside {missed[1]} for a constant rate" in SECTION


def test_skewed_curves_say_the_same():
    table = load_table(RESULTS / "rates")
    found = fit_rates(table, noise=NOISE)
    compared = compare_rates(found, load_table(RESULTS / "isoflop"))
    gains = {(gain.cell.model, gain.cell.budget): gain for gain in compared.gains}
    peer = gains["peer", 1e13]
    low, high = peer.interval
    assert f"PEER gains {peer.gain:.2f} ({low:.2f} to {high:.2f}) at 1e13" in SECTION
    assert f"`none` {gains['none', 3e13].gain:.2f} at 3e13" in SECTION
    (law,) = [law for law in found.forms[-1].laws if law.label == "n_tokens"]
    low, high = law.bounds("exponent[n_tokens]")
    assert f"the law is D^{law.exponents['n_tokens']:.2f} ({low:.2f} to {high:.2f})" in SECTION


def test_what_a_rate_that_is_twice_too_high_costs(rates):
    cost = [
        np.polyfit(np.log(cell.lrs), cell.losses, 2)[0] * math.log(2) ** 2 for cell in rates.cells
    ]
    (said,) = re.findall(r"costs ([\d.]+) nats by the median", SECTION)
    assert said == f"{np.median(cost):.2f}"
