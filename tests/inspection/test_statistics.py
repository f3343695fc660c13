"""Sums over tokens for each expert: against a loop over all slots, with all of it in memory."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from experiments.inspection.cards import layer_card, top_share
from experiments.inspection.documents import find_ends
from experiments.inspection.interface import Inspected
from experiments.inspection.pairs import PENDING, PairCounts
from experiments.inspection.statistics import Bounds, LayerStatistics
from experiments.models.ffn._slots import Slots
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.usage import ExpertUsage

N, VOCAB, T, J = 40, 7, 25, 4
CLASSES_OF = np.array([0, 0, 1, 1, 1, 4, 7])  # of ids


def some_slots(seed, n=T):
    """Few of the experts, often in several slots of a token."""
    made = torch.Generator().manual_seed(seed)
    return Slots(
        experts=torch.randint(0, 12, (n, J), generator=made),
        gates=torch.rand(n, J, generator=made, dtype=torch.float64),
        weights=torch.randn(n, J, generator=made, dtype=torch.float64),
    )


def documents(i):
    """Of 12 tokens each; those of a second batch go on, and each text's begin with 0."""
    return (np.arange(T) + T * (i % 2)) // 12


@pytest.fixture
def batches():
    """Slots, ids and places of four batches, two of each text."""
    made = np.random.default_rng(0)
    return [
        (some_slots(i), made.integers(0, VOCAB, T), np.arange(T) + T * i, i // 2, documents(i))
        for i in range(4)
    ]


def added(batches, bounds):
    statistics = LayerStatistics(N, 2, CLASSES_OF, bounds)
    for batch in batches:
        statistics.add(*batch)
    return statistics


def test_all_sums_by_a_loop(batches):
    bounds = Bounds(n_contexts=3, n_pairs=1000)
    found = added(batches, bounds)
    tokens, slots, squares = Counter(), Counter(), defaultdict(float)
    mass, pairs, readings = defaultdict(float), Counter(), defaultdict(list)
    of_classes, class_lengths = defaultdict(float), Counter()
    n_distinct, of_documents, lengths, sums = 0, defaultdict(float), Counter(), defaultdict(float)
    for read, ids, places, text, numbers in batches:
        for t in range(T):
            together = defaultdict(float)
            lengths[text, numbers[t]] += 1
            kind = int(CLASSES_OF[ids[t]])
            class_lengths[kind, text, numbers[t]] += 1
            for j in range(J):
                expert = int(read.experts[t, j])
                sums[expert] += float(read.weights[t, j])
                of_documents[text, numbers[t], expert] += float(read.gates[t, j])
                of_classes[kind, text, numbers[t], expert] += float(read.gates[t, j])
                slots[expert] += 1
                squares[expert] += float(read.weights[t, j]) ** 2
                mass[text, expert] += float(read.gates[t, j])
                together[expert] += float(read.gates[t, j])
            n_distinct += len(together)
            for expert, gate in together.items():
                tokens[expert] += 1
                pairs[expert, int(ids[t])] += 1
                readings[expert].append((-np.float32(gate), int(places[t])))
    assert found.n_tokens.tolist() == [tokens[e] for e in range(N)]
    assert found.n_slots.tolist() == [slots[e] for e in range(N)]
    np.testing.assert_allclose(found.squares, [squares[e] for e in range(N)], rtol=1e-12)
    np.testing.assert_allclose(found.weights, [sums[e] for e in range(N)], rtol=1e-12)
    moments = found.documents.moments()
    for text in range(2):
        own = [n for (t, _), n in lengths.items() if t == text]
        assert moments.n_documents[text] == len(own) == 5
        assert moments.n_tokens[text] == sum(own) == 2 * T
        assert moments.squared_tokens[text] == sum(n**2 for n in own)
        for expert in range(N):
            read = {d: m for (t, d, e), m in of_documents.items() if (t, e) == (text, expert)}
            assert moments.n_read[text, expert] == len(read)
            squares = sum(m**2 for m in read.values())
            assert moments.squares[text, expert] == pytest.approx(squares, rel=1e-12)
            products = sum(m * lengths[text, d] for d, m in read.items())
            assert moments.products[text, expert] == pytest.approx(products, rel=1e-12)
    moments = found.classes.moments()
    for kind in range(8):
        own = [n for (k, *_), n in class_lengths.items() if k == kind]
        assert moments.n_documents[kind] == len(own)
        assert moments.n_tokens[kind] == sum(own)
        for expert in range(N):
            read = {(t, d): m for (k, t, d, e), m in of_classes.items() if (k, e) == (kind, expert)}
            assert found.classes.mass[kind, expert] == pytest.approx(sum(read.values()), rel=1e-12)
            assert moments.n_read[kind, expert] == len(read)
            squares = sum(m**2 for m in read.values())
            assert moments.squares[kind, expert] == pytest.approx(squares, rel=1e-12)
            products = sum(m * class_lengths[kind, *place] for place, m in read.items())
            assert moments.products[kind, expert] == pytest.approx(products, rel=1e-12)
    for text in range(2):
        expected = [mass[text, e] for e in range(N)]
        np.testing.assert_allclose(found.mass[text], expected, rtol=1e-12)
    assert found.total.tolist() == [4 * T, 4 * T * J, n_distinct]
    for expert in range(N):
        best = sorted(readings[expert])[:3]
        n = len(best)
        assert found.context_places[expert, :n].tolist() == [place for _, place in best]
        assert found.context_gates[expert, :n].tolist() == [-gate for gate, _ in best]
        assert (found.context_places[expert, n:] == -1).all()
    assert found.pairs.error == 0
    before = Counter()
    for read, ids, *_ in batches:
        for t in range(1, T):
            for expert in set(read.experts[t].tolist()):
                before[expert, int(ids[t - 1]) * VOCAB + int(ids[t])] += 1
    assert {(e, i): n for e, i, n in found.bigrams.most_common(VOCAB**2)} == dict(before)
    common = {(e, i): n for e, i, n in found.pairs.most_common(VOCAB)}
    assert common == dict(pairs)
    for expert in range(12):
        own = sorted((-n, i) for (e, i), n in pairs.items() if e == expert)[:2]
        mine = [(-n, i) for e, i, n in found.pairs.most_common(2) if e == expert]
        assert mine == own


def test_goes_on_from_a_state_to_the_bit(batches):
    bounds = Bounds(n_contexts=3, n_pairs=30)
    whole, begun = added(batches, bounds), added(batches[:2], bounds)
    again = LayerStatistics(N, 2, CLASSES_OF, bounds)
    again.load(begun.state())
    for batch in batches[2:]:
        again.add(*batch)
    one, other = whole.state(), again.state()
    assert one.keys() == other.keys()
    # which pairs were dropped depends on when a state was taken
    for name in one:
        if not name.startswith(("pairs.", "bigrams.")):
            assert np.array_equal(one[name], other[name]), name


def test_two_tokens_are_a_string_where_they_follow_each_other_in_one_window():
    """A batch has several windows, spread over a text; the first token of each has none before."""
    statistics = LayerStatistics(N, 1, CLASSES_OF, Bounds(n_pairs=100))
    ids, places = np.array([1, 2, 3, 4, 5, 6]), np.array([0, 1, 2, 10, 11, 30])
    experts = torch.arange(6).unsqueeze(1)
    slots = Slots(experts=experts, gates=torch.ones(6, 1), weights=torch.ones(6, 1))
    statistics.add(slots, ids, places, 0, np.zeros(6, np.int64))
    found = {(e, divmod(pair, VOCAB)) for e, pair, _ in statistics.bigrams.most_common(9)}
    assert found == {(1, (1, 2)), (2, (2, 3)), (4, (4, 5))}


def test_of_equal_gates_the_earlier_places_are_kept():
    """Within a batch, whose windows may come in any order, and over batches."""
    statistics = LayerStatistics(1, 1, CLASSES_OF, Bounds(n_contexts=3, n_pairs=100))
    for places in ([40, 41, 20, 21], [60, 61, 62, 63]):
        one = torch.ones(4, 1)
        slots = Slots(experts=torch.zeros(4, 1, dtype=torch.int64), gates=one, weights=one)
        statistics.add(slots, np.zeros(4, np.int64), np.array(places), 0, np.zeros(4, np.int64))
        assert statistics.context_places.tolist() == [[20, 21, 40]]
    assert statistics.context_gates.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_places_that_end_documents(at_once):
    tokens = np.array([5, 0, 0, 3, 4, 1, 0])
    assert find_ends(tokens, 0, at_once).tolist() == [1, 2, 6]
    assert find_ends(tokens, 9, at_once).tolist() == []


def test_rare_pairs_are_dropped_and_by_how_much_counts_may_be_low_is_known():
    made = np.random.default_rng(1)
    counts, true = PairCounts(VOCAB, limit=20), Counter()
    for _ in range(60):
        experts = np.minimum(made.geometric(0.5, 10), N - 1)
        ids = np.minimum(made.geometric(0.5, 10), VOCAB) - 1
        counts.add(experts, ids)
        true.update(zip(experts.tolist(), ids.tolist(), strict=True))
    counts.settle()
    kept = {(e, i): n for e, i, n in counts.most_common(VOCAB)}
    assert len(kept) == 20
    assert 0 < counts.error < max(true.values())  # so that the most frequent is surely there
    for pair, n in kept.items():
        assert true[pair] - counts.error <= n <= true[pair]
    for pair, n in true.items():
        assert pair in kept or n <= counts.error


def test_of_a_layer_without_a_router_the_units_that_write_most_count():
    made = torch.Generator().manual_seed(0)
    gates = torch.rand(5, N, generator=made)
    units = torch.arange(N).expand(5, N)
    slots = Slots(experts=units, gates=gates, weights=gates, all_experts=True)
    statistics = LayerStatistics(N, 1, CLASSES_OF, Bounds(n_units=3, n_pairs=100))
    statistics.add(slots, np.zeros(5, np.int64), np.arange(5), 0, np.zeros(5, np.int64))
    largest = gates >= gates.sort(descending=True).values[:, 2:3]
    assert statistics.n_tokens.tolist() == largest.sum(0).tolist()
    assert statistics.mass[0] == pytest.approx((gates * largest).sum(0).double().numpy())


def test_a_card_is_of_the_sums(batches):
    layer = Inspected(name="blocks.0.ffn", block=0, module=PKMConfig(n_experts=36).build(4))
    found = added(batches, Bounds(n_pairs=1000))
    found.squares[3] = 0  # as if it had never had a weight
    card = layer_card(layer, found)
    usage = ExpertUsage(N)
    for read, *_ in batches:
        usage.add(read.experts, read.gates)
    assert (card.kind, card.routed, card.n_experts) == ("PKM", True, N)
    assert (card.n_tokens, card.n_slots) == (4 * T, J)
    assert card.usage == usage.summary().usage
    assert card.unevenness == pytest.approx(usage.summary().unevenness, rel=1e-12)
    assert card.n_never == N - 12
    assert card.n_silent == 1
    distinct = [len(set(row)) for read, *_ in batches for row in read.experts.tolist()]
    assert card.n_distinct == pytest.approx(np.mean(distinct))
    assert card.overlap == pytest.approx(1 - np.mean(distinct) / J)


def test_the_share_of_the_largest_hundredth():
    mass = np.arange(300.0)
    assert top_share(mass) == pytest.approx((299 + 298 + 297) / mass.sum())
    assert top_share(np.array([1.0, 3.0])) == 0.75  # at least one
    assert top_share(np.zeros(5)) == 0
    assert math.isclose(top_share(np.ones(1000)), 0.01)


def test_memory_is_bounded_by_what_is_said():
    bounds = Bounds(n_contexts=3, n_pairs=64)
    statistics = LayerStatistics(1000, 2, CLASSES_OF, bounds)
    rng = np.random.default_rng(0)
    for i in range(20):
        slots = some_slots(i)
        statistics.add(
            slots, rng.integers(0, VOCAB, T), np.arange(T) + i * T, 0, documents(0) + 3 * i
        )
    held = {name: array.nbytes for name, array in statistics.state().items()}
    assert sum(held.values()) <= bounds.n_bytes(1000, 2, VOCAB)
    of_pairs = 64 * (64 + min(bounds.n_bigrams, 1000 * VOCAB**2) + 2 * PENDING)
    rest = sum(n for name, n in held.items() if not name.startswith(("pairs.", "bigrams.")))
    assert rest < bounds.n_bytes(1000, 2, VOCAB) - of_pairs < 1.5 * rest
