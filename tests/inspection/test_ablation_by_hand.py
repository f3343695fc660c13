"""Arithmetic of an ablation, against sums and intervals that are written out: no library's."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.data.windows import ScoredWindows
from experiments.inspection.ablation.choosing import Choice, by_lift, by_part, equal_mass
from experiments.inspection.ablation.facts import Fact, Facts
from experiments.inspection.ablation.of_facts import N_CONTROLS, Asked, encode_facts
from experiments.inspection.ablation.of_texts import Units, ablate_texts, text_mass
from experiments.inspection.ablation.result import (
    Changes,
    Estimate,
    make_row,
    mean,
    ratio,
    rows_of_facts,
    rows_of_texts,
    weighted,
    with_draws,
)
from experiments.inspection.interface import the_layer
from experiments.inspection.texts import Text
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.tasks.scoring import EncodedPair
from tests.inspection.test_contributions import KEYED, model_of

END, SEQ = 0, 24
STUDENT = {3: 3.182446305284263, 29: 2.045229642132703}  # .975 quantiles, of tables


def mean_by_hand(values):
    """(value, variance, df) of a mean of units."""
    n = len(values)
    value = math.fsum(values) / n
    return value, math.fsum((x - value) ** 2 for x in values) / (n - 1) / n, n - 1


def ratio_by_hand(totals, sizes):
    n, size = len(totals), math.fsum(sizes)
    value = math.fsum(totals) / size
    off = math.fsum((t - value * s) ** 2 for t, s in zip(totals, sizes, strict=True))
    return value, n / (n - 1) * off / size**2, n - 1


def sum_by_hand(*parts):
    """Of (weight, estimate): the sum's value and variance, and Welch's degrees of freedom."""
    value = math.fsum(w * e[0] for w, e in parts)
    variance = math.fsum(w**2 * e[1] for w, e in parts)
    below = math.fsum((w**2 * e[1]) ** 2 / e[2] for w, e in parts)
    return value, variance, variance**2 / below


def drawn_by_hand(estimate, draws):
    """Such an estimate, of experts that were drawn too."""
    return sum_by_hand((1, estimate), (1, (0.0, *mean_by_hand(draws)[1:])))


def assert_is(estimate, by_hand):
    own = estimate.value, estimate.variance, estimate.df
    assert own == pytest.approx(by_hand, rel=1e-9, abs=1e-15)


def test_intervals_of_a_mean_a_ratio_and_a_sum():
    rng = np.random.default_rng(0)
    values, sizes = rng.normal(1, 2, 7), rng.integers(1, 9, 7).astype(float)
    other = rng.normal(0, 1, 4)
    assert_is(mean(values), mean_by_hand(values))
    assert_is(ratio(values, sizes), ratio_by_hand(values, sizes))
    parts = mean_by_hand(values), mean_by_hand(other)
    both = weighted(((2.0, mean(values)), (-0.5, mean(other))))
    assert_is(both, sum_by_hand((2, parts[0]), (-0.5, parts[1])))
    assert_is(with_draws(mean(values), other), drawn_by_hand(parts[0], other))
    exact = weighted(((1.0, Estimate(value=1.0, variance=0.0, df=6)), (1.0, mean(np.ones(4)))))
    assert (exact.value, exact.variance, exact.df) == (2, 0, 3)
    low, high = mean(other).interval()
    half = STUDENT[3] * math.sqrt(parts[1][1])
    assert (low, high) == pytest.approx((parts[1][0] - half, parts[1][0] + half), rel=1e-9)


def changes_of(n_texts=3, n_units=30, n_draws=4):
    rng = np.random.default_rng(1)
    return [
        Changes(
            name=name, unit=np.arange(n_units), tokens=rng.integers(5, 50, n_units),
            chosen=rng.normal(1, 1, n_units),
            drawn=rng.normal(0, 1, (n_draws, n_units)) + rng.normal(0, 1, (n_draws, 1)),
        )
        for name in "abc"[:n_texts]
    ]  # fmt: skip


def of_draws(one):
    """Of each draw of a text the nats a token; and of each unit the mean over draws."""
    by_draw = [math.fsum(values) / math.fsum(one.tokens) for values in one.drawn.tolist()]
    return by_draw, [math.fsum(unit) / len(unit) for unit in one.drawn.T.tolist()]


def test_a_row_of_a_text():
    for one in changes_of():
        row, (by_draw, mean_draw) = make_row(one.name, [(1.0, one)]), of_draws(one)
        excess = [c - m for c, m in zip(one.chosen, mean_draw, strict=True)]
        assert_is(row.chosen, ratio_by_hand(one.chosen, one.tokens))
        assert_is(row.random, drawn_by_hand(ratio_by_hand(mean_draw, one.tokens), by_draw))
        assert_is(row.excess, drawn_by_hand(ratio_by_hand(excess, one.tokens), by_draw))
        assert (row.what, row.n_units) == (one.name, 30)
        table = one.table()
        assert table["chosen"].tolist() == one.chosen.tolist()
        assert table["random.4"].tolist() == one.drawn[3].tolist()


@pytest.mark.parametrize("target", ["a", "b"])
def test_the_specificity_of_texts(target):
    changes = changes_of()
    *_, specific = rows_of_texts(changes, target)
    weights = {one.name: 1 if one.name == target else -1 / 2 for one in changes}
    draws = [
        math.fsum(weights[one.name] * of_draws(one)[0][d] for one in changes) for d in range(4)
    ]
    parts = {"chosen": [], "random": [], "excess": []}
    for one in changes:
        mean_draw = np.array(of_draws(one)[1])
        for what, values in (
            ("chosen", one.chosen), ("random", mean_draw), ("excess", one.chosen - mean_draw)
        ):  # fmt: skip
            parts[what].append((weights[one.name], ratio_by_hand(values, one.tokens)))
    assert_is(specific.chosen, sum_by_hand(*parts["chosen"]))
    assert_is(specific.random, drawn_by_hand(sum_by_hand(*parts["random"]), draws))
    assert_is(specific.excess, drawn_by_hand(sum_by_hand(*parts["excess"]), draws))
    assert specific.n_units == 90


@pytest.mark.parametrize("one_choice", [True, False])
def test_rows_of_facts(one_choice):
    rng = np.random.default_rng(2)
    names = ("target", "siblings", "controls")
    chosen = {name: rng.normal(1, 1, 25) for name in names}
    drawn = {name: rng.normal(0, 1, (3, 25)) + rng.normal(0, 1, (3, 1)) for name in names}
    changes = [
        Changes(
            name=name,
            unit=np.arange(25),
            tokens=np.ones(25),
            chosen=chosen[name],
            drawn=drawn[name],
        )
        for name in names
    ]
    rows = {row.what: row for row in rows_of_facts(changes, one_choice=one_choice)}
    assert list(rows) == [*names, "specificity"]
    chosen["specificity"] = chosen["target"] - chosen["siblings"]
    drawn["specificity"] = drawn["target"] - drawn["siblings"]
    for what, row in rows.items():
        by_draw = [math.fsum(values) / 25 for values in drawn[what].tolist()]
        of_unit = np.array([math.fsum(values) / 3 for values in drawn[what].T.tolist()])
        assert row.n_units == 25
        assert_is(row.chosen, mean_by_hand(chosen[what]))
        for part, values in ((row.random, of_unit), (row.excess, chosen[what] - of_unit)):
            plain = mean_by_hand(values)
            assert_is(part, drawn_by_hand(plain, by_draw) if one_choice else plain)


def text_of(n_documents, seed=0):
    """A text of documents with END after each, and of each place its document."""
    rng = np.random.default_rng(seed)
    parts = [[*rng.integers(1, 50, rng.integers(3, 20)), END] for _ in range(n_documents)]
    tokens = np.concatenate(parts)
    document = [d for d, part in enumerate(parts) for _ in part]
    return Text(name=f"text {seed}", tokens=tokens, digest=""), document


def units(text, batch_size=2):
    windows = ScoredWindows(text.tokens, seq_len=SEQ, batch_size=batch_size)
    return Units(text, windows, END)


def test_a_document_has_its_own_end_and_not_the_next_ones_beginning():
    text, document = text_of(9)
    own = units(text)
    assert own.of(np.arange(len(text.tokens))).tolist() == document
    assert (own.kind, own.n) == ("document", 9)
    scored = {document[place] for place in range(1, len(text.tokens))}  # the first has no target
    assert own.told.tolist() == sorted(scored)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return model_of(DenseConfig(), PEERConfig(**KEYED)).float()


@pytest.mark.parametrize("halved", [True, False])
@torch.no_grad()
def test_the_mass_of_a_text_is_of_the_even_documents_where_others_are_told_of(model, halved):
    layer = the_layer(model, "blocks.1.ffn")
    (first, document), (second, other) = text_of(7), text_of(8, seed=1)
    found = text_mass(model, layer, [units(first), units(second)], halved=halved)
    expected = np.zeros((2, 64))
    heard = []
    handle = layer.module.register_forward_pre_hook(lambda m, inputs: heard.append(inputs[0]))
    for row, (text, of) in enumerate(((first, document), (second, other))):
        windows = ScoredWindows(text.tokens, seq_len=SEQ, batch_size=1)
        for i, batch in enumerate(windows):
            model(batch.inputs)
            slots = layer.layer.slots(heard.pop()[0], None)
            for t, place in enumerate(windows.places(i)[0]):  # of targets
                if not halved or of[place] % 2 == 0:
                    for expert, gate in zip(slots.experts[t], slots.gates[t], strict=True):
                        expected[row, int(expert)] += float(gate)
    handle.remove()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # float32 gates


def losses_by_hand(model, text, document, rows, experts):
    """Nats and targets of each document, with rows of zeros."""
    kept = rows.detach().clone()
    nats, sizes = np.zeros(max(document) + 1), np.zeros(max(document) + 1)
    with torch.no_grad():
        rows[list(experts)] = 0
        windows = ScoredWindows(text.tokens, seq_len=SEQ, batch_size=1)
        for i, batch in enumerate(windows):
            logs = model(batch.inputs)[0].double().log_softmax(-1)
            for t, place in enumerate(windows.places(i)[0]):
                nats[document[place]] -= float(logs[t, batch.targets[0, t]])
                sizes[document[place]] += 1
        rows[...] = kept
    return nats, sizes


@pytest.mark.parametrize("given", [None, (3, 10, 11)])
def test_what_is_told_is_of_documents_that_did_not_choose(model, given):
    layer = the_layer(model, "blocks.1.ffn")
    texts = [text_of(8), text_of(9, seed=1)]
    own = [units(text) for text, _ in texts]
    how = Choice(experts=given, domain="text 1", top=4, draws=2, seed=3)
    found = ablate_texts(model, layer, own, how)
    (chosen,) = found.experts.values()
    mass = text_mass(model, layer, own, halved=given is None)
    if given is None:
        assert sorted(chosen) == sorted(by_lift(mass, 1, 4).tolist())
    overall = (mass / mass.sum(1, keepdims=True)).mean(0)
    rng = np.random.default_rng(3)
    draws = [equal_mass(overall, given or by_lift(mass, 1, 4), rng) for _ in range(2)]
    assert found.mass_ratio == pytest.approx(
        np.mean([overall[d].sum() for d in draws]) / overall[list(chosen)].sum(), rel=1e-12
    )
    rows = layer.layer.slot_rows()
    for text, document in texts:
        whole, sizes = losses_by_hand(model, text, document, rows, [])
        table = found.units[found.units["text"] == text.name]
        told = [d for d in range(len(sizes)) if sizes[d] and (given is not None or d % 2 == 1)]
        assert table["unit"].tolist() == told
        assert table["tokens"].tolist() == sizes[told].tolist()
        for column, experts in (
            ("chosen", chosen), ("random.1", draws[0]), ("random.2", draws[1])
        ):  # fmt: skip
            without, _ = losses_by_hand(model, text, document, rows, experts)
            np.testing.assert_allclose(table[column], (without - whole)[told], atol=1e-4)
    assert np.abs(found.units["chosen"]).max() > 1e-2  # so that a sign is seen


def fact(line, *siblings):
    pairs = tuple((f"p{i}", f"t{i}") for i in siblings)
    return Fact(line=line, prompt=f"p{line}", target=f"t{line}", siblings=pairs)


def encoded(facts, seed=0):
    encoder = SimpleNamespace(
        encode_pair=lambda prompt, target: EncodedPair([int(prompt[1:])], [int(target[1:])])
    )
    return encode_facts(Facts(path="f", digest="", facts=tuple(facts)), encoder, SEQ, seed)


def test_controls_are_facts_of_other_families():
    """A fact's siblings, and facts that have a sibling in common with it, are none."""
    families = [fact(line, line ^ 1) for line in range(20)]  # in pairs
    cousins = [fact(20, 40), fact(21, 40), fact(22, 21)]
    facts = [*families, *cousins]
    found = encoded(facts)
    drawn = set()
    for one in found:
        own = {pair.context[0] for pair in (one.own, *one.siblings)}
        controls = [pair.context[0] for pair in one.controls]
        assert len(controls) == len(set(controls)) == N_CONTROLS
        drawn |= set(controls)
        for control in controls:
            other = facts[control]
            assert not own & {control, *(int(prompt[1:]) for prompt, _ in other.siblings)}
    assert drawn == {*range(23)}
    again, other = encoded(facts), encoded(facts, seed=1)
    assert [one.controls for one in again] == [one.controls for one in found]
    assert [one.controls for one in other] != [one.controls for one in found]
    assert [pair.context[0] for pair in found[5].pairs()[:2]] == [5, 4]


def test_a_fact_without_another_family_leaves_all_without_controls():
    hub = Fact(line=9, prompt="p9", target="t9", siblings=tuple(fact(i).pairs[0] for i in range(4)))
    found = encoded([*(fact(i, 30 + i) for i in range(4)), hub])
    assert [one.controls for one in found] == [()] * 5


def test_values_of_a_fact_are_of_its_target_and_means_of_the_others():
    def pair(i):
        return EncodedPair([i], [i])

    one = Asked(
        fact=fact(1, 2, 3), own=pair(1), siblings=(pair(2), pair(3)),
        controls=(pair(4), pair(5), pair(6)),
    )  # fmt: skip
    found = one.parts(np.array([1.0, 2, 4, 8, 16, 33]))
    assert found == [1, 3, 19]


def test_the_experts_of_a_domain_are_those_of_the_highest_ratio_of_shares():
    mass = np.random.default_rng(4).gamma(1.0, size=(3, 50))
    shares = [[m / math.fsum(row) for m in row] for row in mass.tolist()]
    overall = [math.fsum(row[e] for row in shares) / 3 for e in range(50)]
    read = [e for e in range(50) if overall[e] >= 1 / 50]
    for text in range(3):
        lift = {e: shares[text][e] / overall[e] for e in read}
        best = sorted(read, key=lambda e: -lift[e])
        assert by_lift(mass, text, 5).tolist() == best[:5]
    assert len(by_lift(mass, 0, len(read))) == len(read)
    with pytest.raises(ValueError, match=f"and {len(read)} have the mean mass"):
        by_lift(mass, 0, len(read) + 1)


def test_the_experts_of_a_fact_are_those_of_the_largest_sums_above_0():
    rng = np.random.default_rng(5)
    experts, parts = rng.integers(0, 20, 200), rng.normal(0, 1, 200)
    sums = {e: math.fsum(parts[experts == e]) for e in range(20)}
    best = sorted((e for e in sums if sums[e] > 0), key=lambda e: -sums[e])
    assert by_part(experts, parts, 4).tolist() == best[:4]
    assert by_part(experts, parts, 20).tolist() == best
    assert by_part(np.array([1, 2]), np.array([0.0, -1.0]), 2).tolist() == []


def test_each_drawn_expert_is_among_the_eight_of_the_nearest_mass():
    mass = np.random.default_rng(6).permutation(np.arange(100.0))
    mass[mass == 0] = 50.5
    for seed in range(60):
        chosen = int(np.random.default_rng(seed).integers(100))
        (drawn,) = equal_mass(mass, [chosen], np.random.default_rng(seed))
        others = sorted(set(range(100)) - {chosen}, key=lambda e: abs(mass[e] - mass[chosen]))
        assert abs(mass[drawn] - mass[chosen]) <= abs(mass[others[7]] - mass[chosen])
    seen = {int(equal_mass(mass, [chosen], np.random.default_rng(seed))[0]) for seed in range(200)}
    assert len(seen) >= 8
    two = [equal_mass(mass, [3, 7, 11], np.random.default_rng(seed)) for seed in range(20)]
    assert all(low < high for drawn in two for low, high in pairwise(drawn.tolist()))
    assert not set(np.concatenate(two)) & {3, 7, 11}
    few = np.array([0.0, 1, 2, 3, 0])
    ones = [int(equal_mass(few, [1], np.random.default_rng(seed))[0]) for seed in range(400)]
    assert set(ones) == {2, 3}  # those that are read, each as often: 200, less four errors
    assert 160 <= ones.count(2) <= 240
