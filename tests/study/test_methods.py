"""What the study computes by rules of its own is what these rules promise."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from analysis.curves.compare import BOTH, NEAREST, compare_curves
from analysis.curves.read import histories_of_table
from analysis.table.sources import read_source
from experiments.inspection.ablation.facts import read_facts
from tests.study.histories import PARTS, thinned
from tests.study.inside.files import FACTS
from tests.study.inside.naming import Read, averaged, halves, named, permuted
from tests.study.pilots import ENDS, SEEDS, ended, less_noise
from tests.study.records import RESULTS, ROOT, paired
from tests.study.trend import BEYOND, BUDGETS, multipliers, slope


def test_the_interval_of_a_ratio_holds_it():
    """Against draws of pairs whose standard deviations are known, at 3.5 binomial errors."""
    rng = np.random.default_rng(5)
    n, held = 2000, 0
    for _ in range(n):
        x, noise = rng.normal(size=(2, len(SEEDS)))
        y = 2 * (0.8 * x + 0.6 * noise)
        _, low, high = less_noise(*(dict(zip(SEEDS, z, strict=True)) for z in (x, y)))
        held += low <= 0.5 <= high
    assert held == pytest.approx(0.95 * n, abs=3.5 * np.sqrt(n * 0.05 * 0.95))
    of = [ended()["peer", e, "last"] for e in ENDS[:2]]
    x, y = (np.array([*each.values()]) for each in of)
    kept = [k for k in (0.80, 0.90, 0.99) if stats.pearsonr(y + k * x, y - k * x).pvalue > 0.05]
    _, low, high = less_noise(*of[::-1])
    assert kept == [k for k in (0.80, 0.90, 0.99) if low <= k <= high]


def test_a_paired_difference_is_scipys():
    drawn = np.random.default_rng(0).normal(size=(2, 3))
    test = stats.ttest_rel(*drawn)
    interval = test.confidence_interval()
    mine = paired(*(dict(enumerate(values)) for values in drawn.tolist()))
    assert (mine.lower, mine.upper) == pytest.approx((interval.low, interval.high))
    assert mine.p == pytest.approx(test.pvalue)


def test_a_multiplier_is_read_between_runs_and_its_slope_is_known():
    """No layer: loss 4 - 0.2 ln C. PEER: that of twice the compute at 1e13, of 2 C^0.1 later."""
    times = {c: 2 * (c / 1e13) ** 0.1 for c in BUDGETS}
    means = {("none", 5, c): 10 - 0.2 * np.log(c) for c in (*BUDGETS, BEYOND, 1e15)}
    means |= {("peer", 5, c): 10 - 0.2 * np.log(times[c] * c) for c in BUDGETS}
    found = {c: np.exp(own[5]) for c, own in multipliers(means).items()}
    assert found == pytest.approx(times)
    assert slope(means) == pytest.approx(0.1)
    means["peer", 6, 1e14] = 0.0  # no layer of this size: left out
    assert 6 not in multipliers(means)[1e14]
    del means["none", 5, 1e15], means["none", 5, BEYOND]
    assert slope(means) is None  # nothing is continued beyond a run


def test_a_thinned_curve_is_of_means():
    step = np.arange(10, 100_001, 10)
    history = pd.DataFrame(
        {"step": step, "n_tokens": 2 * step, "lr": 1 / step, "loss": 5 - step / 1e5}
    )
    curve = thinned(history)
    assert len(curve) <= PARTS
    assert (curve["step"].iloc[0], curve["step"].iloc[-1]) == (10, 100_000)
    before = curve["step"].shift(fill_value=0)
    middle = (before + 10 + curve["step"]) / 2  # of the steps that a row is of
    np.testing.assert_allclose(curve["loss"], 5 - middle / 1e5, atol=1e-4)


# docs/inspect_study.md

INSPECTED = (ROOT / "docs" / "inspect_study.md").read_text(encoding="utf-8")


def drawn(rng, *, n=60, n_domains=4, n_experts=40, lift=0.0):
    """n documents of each domain, of log-normal masses; an expert is of one domain, or of none."""
    domain = np.repeat(np.arange(n_domains), n)
    own = np.arange(n_experts) % n_domains == domain[:, None]
    mass = rng.lognormal(0, 1, (len(domain), n_experts)) * np.exp(lift * own)
    tokens = rng.integers(50, 200, len(domain)).astype(float)
    return Read(mass=sparse.csr_matrix(mass), domain=domain, tokens=tokens)


def test_naming_is_a_sum_written_out():
    read = drawn(np.random.default_rng(0), n=6, lift=0.5)
    half, mass = halves(read), read.mass.toarray()
    found = named(read)
    for i in range(len(half)):
        shares = []
        for d in range(4):
            own = mass[(half != half[i]) & (read.domain == d)].sum(0)
            shares.append(own / own.sum())
        of = np.argmax(shares, axis=0)
        expected = mass[i, of == read.domain[i]].sum() / mass[i].sum()
        assert found[i] == pytest.approx(expected, rel=1e-12)


def test_documents_that_are_alike_name_their_domain_by_chance():
    """However many experts there are for few documents: 0.25 of 4 domains, within 4 errors."""
    rng = np.random.default_rng(1)
    values = [averaged(one, named(one)).value for one in (drawn(rng) for _ in range(100))]
    assert abs(np.mean(values) - 0.25) < 4 * np.std(values) / 10
    read = drawn(rng, lift=0.5)
    assert averaged(read, named(read)).value > 0.3
    values = [averaged(one, named(one)).value for one in (permuted(read, rng) for _ in range(25))]
    assert abs(np.mean(values) - 0.25) < 0.01


def test_intervals_are_too_narrow_by_what_the_document_says():
    """They hold for the choice that was made; another half of documents would choose otherwise."""
    rng = np.random.default_rng(2)
    found = [averaged(one, named(one)) for one in (drawn(rng, lift=0.5) for _ in range(100))]
    truth = np.mean([one.value for one in found])
    covers = np.mean([one.interval()[0] <= truth <= one.interval()[1] for one in found])
    assert 0.75 < covers < 0.9
    assert f"cover in {covers:.0%} where" in " ".join(INSPECTED.split()).replace(" %", "%")


def test_the_facts_are_at_least_twenty_with_four_siblings_each():
    found = read_facts(FACTS).facts
    assert len(found) >= 20
    assert {len(one.siblings) for one in found} == {4}
    assert f"{len(found)} facts" in INSPECTED


# laws of loss curves, in docs/surfaces.md

CURVES = RESULTS / "curves" / "table.csv"
SHORT = "budget=1e+12 schedule="
THIRDS = [f"budget=3e+12,{SHORT}{name}" for name in
          ("cosine decay=0.2", "wsd decay=0", "wsd decay=0.2")]  # fmt: skip
HELD = {
    "the other five runs of a model": ["each"],
    "three short runs": ["budget=3e+12"],
    "two short runs": THIRDS,
}


@pytest.fixture(scope="module")
def histories():
    return histories_of_table(read_source(CURVES).frame)


def test_the_table_has_two_models_three_schedules_and_two_lengths(histories):
    assert len(histories) == 12
    assert {one.series for one in histories} == {"dense 2 blocks of 32", "peer 2 blocks of 32"}
    assert len({one.run for one in histories}) == 6
    assert CURVES.stat().st_size < 200_000


def test_cosine_and_a_decay_predict_a_constant_rate(histories):
    """Within 0.02 nats, the document says, where it ends 0.19 nats or more above the others."""
    found = compare_curves(histories, ["annealing"], hold_out=[THIRDS[1]], n_draws=20)
    constant = [p for p in found.held if "wsd decay=0" in p.run and not p.run.endswith("0.2")]
    errors = {p.run: abs(p.error) for p in constant if p.law == "annealing"}
    assert len(constant) == 8
    assert max(errors.values()) < 0.02
    nearest = [p.error for p in constant if p.law == NEAREST and "1e+12" in p.run]
    assert max(nearest) < -0.19


@pytest.mark.long
@pytest.mark.night
@pytest.mark.parametrize("row", HELD)
def test_the_document_s_errors_are_the_laws(histories, row):
    """Roundings move little: errors are equal to 3 thousandths, and intervals hold as many."""
    found = compare_curves(histories, hold_out=HELD[row])
    head, *rows = (
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in (ROOT / "docs" / "surfaces.md").read_text().splitlines()
        if line.startswith(("| fitted to |", *(f"| {name} |" for name in HELD)))
    )
    by_name = dict(zip(head, next(cells for cells in rows if cells[0] == row), strict=True))
    for law in ("annealing", "multi-power", BOTH, "steps", NEAREST):
        mine = [p for p in found.held if p.law == law]
        rms = (sum(p.error**2 for p in mine) / len(mine)) ** 0.5
        said, _, inside = by_name[law].partition(", ")
        assert float(said) == pytest.approx(rms, abs=0.003), law
        if inside:
            assert inside == f"{sum(bool(p.inside) for p in mine)} of {len(mine)}", law
