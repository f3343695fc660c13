"""Lifts by document: against the documents themselves, and coverage of their intervals by draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from experiments.inspection.chosen import chosen_experts
from experiments.inspection.documents import DocumentMoments
from experiments.inspection.lifts import Lifts, adjusted, lifts


def moments_of(texts):
    """Mass (D, N) and moments of texts: (n, N) masses of documents, and their (n,) lengths."""
    columns = {
        "n_read": [(m > 0).sum(0) for m, _ in texts],
        "squares": [(m**2).sum(0) for m, _ in texts],
        "products": [(m * t[:, None]).sum(0) for m, t in texts],
        "n_documents": [len(t) for _, t in texts],
        "n_tokens": [t.sum() for _, t in texts],
        "squared_tokens": [(t**2).sum() for _, t in texts],
    }
    moments = DocumentMoments(**{name: np.array(own, float) for name, own in columns.items()})
    return np.array([m.sum(0) for m, _ in texts]), moments


def drawn(rng, sizes, rates, sigma):
    """Texts of documents that read an expert by chance `rates` (D, N). Lengths are log-normal, and
    so are masses a token, with sigma."""
    texts = []
    for n, own in zip(sizes, rates, strict=True):
        lengths = np.ceil(rng.lognormal(4.5, 0.7, n))
        size = (n, rates.shape[1])
        per_token = rng.lognormal(-(sigma**2) / 2, sigma, size) * (rng.random(size) < own)
        texts.append((per_token * lengths[:, None], lengths))
    return moments_of(texts)


def true_lifts(rates, tokens):
    return rates / ((rates * tokens[:, None]).sum(0) / tokens.sum())


@pytest.mark.parametrize("sizes", [(20, 30, 25), (20, 30, 1)])
def test_a_lift_its_interval_and_its_p_by_hand_from_the_documents(sizes):
    """A text of one document has that one's distance from all as its variance."""
    rng = np.random.default_rng(0)
    texts = []
    for n in sizes:
        mass = rng.gamma(1.0, size=(n, 3)) * (rng.random((n, 3)) < 0.8)
        texts.append((mass + 0.5 * (n == 1), rng.integers(5, 50, n).astype(float)))
    found = lifts(*moments_of(texts), level=0.9)
    for expert in range(3):
        for d in range(3):
            mine = [(texts[d][0][:, expert], texts[d][1])]
            rest = [(m[:, expert], t) for i, (m, t) in enumerate(texts) if i != d]
            rate, variance, below = {}, 0.0, 0.0
            for side, own in (("d", mine), ("o", rest)):
                mass, tokens = (sum(float(x[i].sum()) for x in own) for i in (0, 1))
                rate[side] = mass / tokens
                for m, t in own:
                    off, n = m / mass - t / tokens, len(m)
                    part = n * np.var(off, ddof=1) if n > 1 else float(off[0]) ** 2
                    variance += part
                    below += part**2 / max(1, m.sum() ** 2 / (m**2).sum() - 1)
            df = variance**2 / below
            wide = stats.t.ppf(0.95, df) * math.sqrt(variance)
            total = sum(t.sum() for _, t in texts)
            own_tokens = texts[d][1].sum()

            def lift(ratio, own_tokens=own_tokens, total=total):
                return total * ratio / (own_tokens * ratio + total - own_tokens)

            ratio = rate["d"] / rate["o"]
            assert found.lift[d, expert] == pytest.approx(lift(ratio), rel=1e-12)
            if len(texts[d][1]) == 1:
                assert np.isnan(found.p[d, expert])
                continue
            assert found.low[d, expert] == pytest.approx(lift(ratio * math.exp(-wide)), rel=1e-9)
            assert found.high[d, expert] == pytest.approx(lift(ratio * math.exp(wide)), rel=1e-9)
            p = 2 * stats.t.sf(abs(math.log(ratio)) / math.sqrt(variance), df)  # of both sides
            assert found.p[d, expert] == pytest.approx(p, rel=1e-9)


def test_none_of_a_texts_documents_and_all_of_them():
    """A share of which n draws show none has the exact p (1 - share)^n of one side, twice that of
    both."""
    lengths, others = np.full(40, 10.0), np.full(60, 10.0)
    mass = np.where(np.arange(60) % 3, 0.0, 1.0)[:, None]  # of a third
    found = lifts(*moments_of([(0 * mass[:40], lengths), (mass, others)]), level=0.95)
    assert found.lift[:, 0] == pytest.approx([0, 10 / 6], rel=1e-12)
    assert found.low[0, 0] == 0
    assert found.high[1, 0] == pytest.approx(10 / 6, rel=1e-12)
    bound = (1 - 0.025 ** (1 / 40)) / (1 / 3)  # of the ratio of both rates a token
    assert found.high[0, 0] == pytest.approx(10 * bound / (4 * bound + 6), rel=1e-9)
    assert found.low[1, 0] == pytest.approx(10 / (6 + 4 * bound), rel=1e-9)
    assert found.p[:, 0] == pytest.approx(2 * (2 / 3) ** 40, rel=1e-9, abs=0)
    assert found.q[:, 0] == pytest.approx(2 * (2 / 3) ** 40, rel=1e-9, abs=0)


def test_what_is_tested_and_the_level_of_the_family():
    """At least five documents, by the number that would have the mass evenly, on each side."""
    sizes, n_read = (40, 60), np.array([3, 12, 13, 14, 40])
    mass = [(np.arange(n)[:, None] < np.ceil(n_read * n / 100)).astype(float) for n in sizes]
    found = lifts(*moments_of([(m, np.full(len(m), 10.0)) for m in mass]))
    evenly = sum(m.sum(0) for m in mass)
    assert np.isfinite(found.p).tolist() == [(evenly / 100 * 40 >= 5).tolist()] * 2
    assert 0 < found.n_tested < 10
    _, n = adjusted(found.p)
    assert (found.n_tested, found.n_significant) == (np.isfinite(found.p).sum(), n)
    assert found.level == pytest.approx(1 - 0.05 * max(1, n) / found.n_tested, rel=1e-12)
    clear = lifts(*moments_of([
        (np.full((40, 2), 9.0) + np.arange(40)[:, None] / 40, np.full(40, 10.0)),
        (np.full((60, 2), 1.0) + np.arange(60)[:, None] / 60, np.full(60, 10.0)),
    ]))  # fmt: skip
    assert (clear.n_tested, clear.n_significant) == (4, 4)
    assert clear.level == pytest.approx(0.95, rel=1e-12)


def test_too_few_documents_have_no_interval():
    rng = np.random.default_rng(0)
    mass = np.ones((30, 1))
    mass[3:] = 0
    few = lifts(*moments_of([(mass, np.full(30, 10.0)), (mass, np.full(30, 10.0))]))
    assert few.n_tested == 0
    assert few.level == 0.95
    assert np.isnan(few.low).all()
    assert few.lift[:, 0].tolist() == [1, 1]
    # two documents have nearly all of the mass
    mass = np.concatenate([[[1e6], [1e6]], rng.random((28, 1))])
    assert lifts(*moments_of([(mass, np.full(30, 10.0))] * 2)).n_tested == 0
    alone = lifts(*moments_of([(rng.random((30, 2)), np.full(30, 10.0))]))
    assert alone.lift.tolist() == [[1, 1]]
    assert alone.n_tested == 0


def test_q_by_its_definition():
    p = np.array([[0.01, np.nan, 0.04], [0.03, 0.5, 0.02]])
    q, n = adjusted(p)
    known = np.sort(p[np.isfinite(p)])
    for place, value in np.ndenumerate(p):
        if np.isnan(value):
            assert np.isnan(q[place])
        else:
            least = min(known[k] * 5 / (k + 1) for k in range(5) if known[k] >= value)
            assert q[place] == pytest.approx(least)
    assert n == 4


@pytest.mark.parametrize(("sizes", "n_draws"), [((40, 40), 4), ((300, 100, 30), 2)])
def test_intervals_cover_and_significance_is_where_they_exclude_1(sizes, n_draws):
    """At least 0.93 at 0.95, less three binomial errors of as many documents' draws as are
    independent: experts are, draws of one table."""
    rng = np.random.default_rng(7)
    hits = n = 0
    for _ in range(n_draws):
        rates = 0.3 * rng.choice([0.25, 1, 1, 3], (len(sizes), 200))
        mass, moments = drawn(rng, sizes, rates, 0.7)
        true = true_lifts(rates, moments.n_tokens)
        found = lifts(mass, moments, level=0.95)
        known = np.isfinite(found.low)
        hits += int(((found.low <= true) & (true <= found.high))[known].sum())
        n += int(known.sum())
        family = lifts(mass, moments)
        excludes = (family.low > 1) | (family.high < 1)
        assert ((family.q <= 0.05) == excludes).all()
        assert np.isfinite(family.q).sum() == family.n_tested
        assert 0 < family.n_significant < family.n_tested
    assert n > 300
    assert hits / n >= 0.93 - 3 * math.sqrt(0.95 * 0.05 / n)


def test_where_nothing_differs_few_are_significant():
    """Of 40 draws without any lift, at most as many have one as the binomial law of 5 % allows."""
    rng = np.random.default_rng(8)
    n = 0
    for _ in range(40):
        rates = np.tile(rng.choice([0.1, 0.5], 100), (2, 1))
        n += lifts(*drawn(rng, (60, 40), rates, 0.7)).n_significant > 0
    assert n <= stats.binom.ppf(0.999, 40, 0.05)


@pytest.mark.night
def test_where_a_few_documents_have_much_of_the_mass_less_is_held():
    """Figures of docs/inspect.md, with sigma = 1.5: a warning and no promise."""
    rng = np.random.default_rng(9)
    sizes, hits, n, false = (1500, 300, 60), 0, 0, []
    for _ in range(30):
        rates = np.tile(rng.choice([0.02, 0.1, 0.5], 400), (3, 1))
        several = rng.random(400) < 0.3
        rates[:, several] *= rng.choice([1, 1, 1, 4], (3, int(several.sum())))
        rates = np.minimum(rates, 0.95)
        mass, moments = drawn(rng, sizes, rates, 1.5)
        true = true_lifts(rates, moments.n_tokens)
        found, family = lifts(mass, moments, level=0.95), lifts(mass, moments)
        known = np.isfinite(found.low)
        hits += int(((found.low <= true) & (true <= found.high))[known].sum())
        n += int(known.sum())
        chosen = family.q <= 0.05
        false.append((chosen & np.isclose(true, 1)).sum() / max(1, chosen.sum()))
    print(f"coverage {hits / n:.3f} of {n}, false {np.mean(false):.3f}")
    assert hits / n > 0.9
    assert np.mean(false) < 0.15


def test_the_experts_of_a_page_by_their_definition():
    """At most twelve of each group, of those that are read; significant up to a q of 0.05."""
    rng = np.random.default_rng(10)
    mass = np.where(np.arange(40) < 30, rng.random(40), 0)
    mass[7] = mass[3]  # of equal mass the lower number comes first
    q = rng.choice([0.05, 0.0500001, 0.01, np.nan], (2, 40))
    lift, low = rng.choice([1.0, 1.0000001, 2, 0.5], (2, 40)), 1 + rng.random((2, 40))
    nan = np.full((2, 40), np.nan)
    made = Lifts(
        lift=lift, low=low, high=nan, p=nan, q=q, level=0.95, n_tested=0, n_significant=0
    )  # fmt: skip
    for few, n in ((made, 40), (replace(made, q=np.where(np.arange(40) < 4, q, np.nan)), 4)):
        found = chosen_experts(mass, few)
        own = {name: group["expert"].tolist() for name, group in found.groupby("group")}
        assert own["used"] == sorted(range(40), key=lambda e: (-mass[e], e))[:12]
        best = {
            e: max(few.low[d, e] for d in (0, 1) if few.q[d, e] <= 0.05 and lift[d, e] > 1)
            for e in range(n)
            if any(few.q[d, e] <= 0.05 and lift[d, e] > 1 for d in (0, 1))
        }
        assert own["specific"] == sorted(best, key=lambda e: -best[e])[:12]
        assert len(set(own["random"])) == 12
        assert max(own["random"]) < 30
        for group in own:
            ranks = found[found["group"] == group]["rank"].tolist()
            assert ranks == [i + 1 for i in range(len(own[group]))]
        assert chosen_experts(mass, few).equals(found)
    three = chosen_experts(
        np.array([0, 2.0, 0, 1, 3]), replace(made, q=nan[:, :5], lift=nan[:, :5], low=nan[:, :5])
    )
    assert three["expert"].tolist()[:3] == [4, 1, 3]
    assert sorted(three["expert"].tolist()[3:]) == [1, 3, 4]
