"""What is lost without experts: against losses by hand, and intervals against what they promise."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binom

from experiments.data.windows import ScoredWindows
from experiments.inspection.ablation.choosing import Choice, by_lift, by_part, equal_mass
from experiments.inspection.ablation.facts import Fact, read_facts
from experiments.inspection.ablation.of_facts import Asked, ablate_facts
from experiments.inspection.ablation.of_texts import ablate_texts, make_units
from experiments.inspection.ablation.result import (
    Changes,
    Estimate,
    mean,
    ratio,
    read_ablation,
    rows_frame,
    rows_of_texts,
    weighted,
    with_draws,
    write_ablation,
)
from experiments.inspection.contributions import contributions
from experiments.inspection.interface import the_layer
from experiments.inspection.texts import Text
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.tasks.scoring import EncodedPair, Scorer
from tests.inspection.test_contributions import ENGRAM, KEYED, STEM, model_of

VOCAB, SEQ, END = 50, 24, 0
PEER = PEERConfig(**KEYED)


def covers(estimates, truth):
    """How often the interval of an estimate has the truth."""
    return np.mean([low <= truth <= high for low, high in (e.interval() for e in estimates)])


def least(n, level=0.95):
    """What a right interval covers at least in n draws, but for one in 1,000 such tests."""
    return binom.ppf(1e-3, n, level) / n


def test_a_mean_and_its_interval_by_hand():
    values = np.array([1.0, 2.0, 4.0, 5.0])
    found = mean(values)
    low, high = found.interval()
    # Student's t of 3 degrees at .975; a variance of 10 / 3
    assert (found.value, found.df) == (3.0, 3)
    assert high - 3 == pytest.approx(3.182446 * (10 / 3 / 4) ** 0.5, rel=1e-6)
    assert low == pytest.approx(6 - high)


def test_a_ratio_of_equal_sizes_is_a_mean_and_of_one_loss_is_exact():
    values = np.array([1.0, 2.0, 4.0, 5.0])
    found, plain = ratio(3 * values, np.full(4, 3.0)), mean(values)
    assert found.value == plain.value
    assert found.variance == pytest.approx(plain.variance)
    sizes = np.array([1.0, 10.0, 100.0])
    assert ratio(0.5 * sizes, sizes).variance == pytest.approx(0)


def test_intervals_over_documents_cover_the_loss_of_a_token():
    """Documents of very different lengths, whose losses are alike within each."""
    rng, n, n_units = np.random.default_rng(0), 600, 40
    sizes = rng.gamma(2.0, 50.0, (n, n_units)).round() + 1
    totals = sizes * (0.02 + rng.normal(0, 0.05, (n, n_units)))
    found = [ratio(*one) for one in zip(totals, sizes, strict=True)]
    assert covers(found, 0.02) >= least(n)
    naive = [
        Estimate(value=e.value, variance=0.05**2 / size.sum(), df=1e6)  # tokens as units
        for e, size in zip(found, sizes, strict=True)
    ]
    assert covers(naive, 0.02) < 0.6


def test_intervals_with_draws_cover_over_other_draws_and_other_documents():
    rng, n, n_units, n_draws = np.random.default_rng(1), 600, 30, 5
    found, of_units_alone = [], []
    for _ in range(n):
        drawn = (
            rng.normal(0, 1, (n_draws, n_units)) + rng.normal(0, 1, n_units)
            + rng.normal(0, 1, (n_draws, 1))
        )  # fmt: skip
        found.append(with_draws(mean(drawn.mean(0)), drawn.mean(1)))
        of_units_alone.append(mean(drawn.mean(0)))
    assert covers(found, 0.0) >= least(n)
    assert covers(of_units_alone, 0.0) < 0.9


def test_a_sum_of_estimates_covers_with_few_and_unequal_units():
    """Welch's test: without his degrees of freedom the smaller sample's variance is trusted."""
    rng, n = np.random.default_rng(2), 1000
    found = [
        weighted(((1.0, mean(rng.normal(1, 3, 6))), (-0.5, mean(rng.normal(0, 1, 60)))))
        for _ in range(n)
    ]
    assert covers(found, 1.0) >= least(n)


def test_lift_is_a_share_over_a_share():
    mass = np.array([[8.0, 1, 1, 0, 10], [2.0, 2, 0, 1, 35]])
    shares = mass / mass.sum(1, keepdims=True)
    # of those with a fifth of the mass: the first, and the last
    assert by_lift(mass, 0, 1).tolist() == [0]
    assert shares[0, 0] / shares[:, 0].mean() > shares[0, 4] / shares[:, 4].mean()
    assert by_lift(mass, 0, 2).tolist() == [0, 4]
    assert by_lift(mass, 1, 1).tolist() == [4]
    with pytest.raises(ValueError, match="top=3 experts are to be chosen by lift, and 2 have"):
        by_lift(mass, 0, 3)


def test_parts_of_one_expert_are_added_up():
    experts, parts = np.array([3, 1, 3, 7, 9]), np.array([1.0, 1.5, 1.0, -5.0, 0.1])
    assert by_part(experts, parts, 2).tolist() == [3, 1]
    assert by_part(experts, parts, 9).tolist() == [3, 1, 9]


def test_drawn_experts_are_others_of_about_the_same_mass():
    rng = np.random.default_rng(0)
    mass = np.where(rng.random(2000) < 0.3, 0, rng.lognormal(0, 1.5, 2000))
    chosen = rng.choice(np.flatnonzero(mass), 30, replace=False)
    sets = [equal_mass(mass, chosen, rng) for _ in range(40)]
    for drawn in sets:
        assert len(set(drawn.tolist())) == 30
        assert not set(drawn.tolist()) & set(chosen.tolist())
        assert (mass[drawn] > 0).all()
    total = np.array([mass[drawn].sum() for drawn in sets])
    assert np.abs(total / mass[chosen].sum() - 1).max() < 0.1
    assert len({tuple(drawn) for drawn in sets}) == 40
    with pytest.raises(ValueError, match="3 experts are chosen, and 2 others are read, too few"):
        equal_mass(np.ones(5), [0, 1, 2], rng)


def texts_of(n_documents, seed):
    """Two texts of documents, each with END after it; the ids of one are even, of the other odd."""
    rng, found = np.random.default_rng(seed), []
    for name, first in (("even", 2), ("odd", 1)):
        parts = []
        for _ in range(n_documents):
            parts += [rng.choice(np.arange(first, VOCAB, 2), rng.integers(4, 30)), [END]]
        tokens = np.concatenate(parts)
        found.append(Text(name=name, tokens=tokens, digest=name, max_tokens=None))
    return found


def by_hand(model, text, experts, layer):
    """Nats and targets of each document, a window at a time, with rows of zeros."""
    rows = layer.layer.slot_rows()
    kept = rows.detach().clone()
    with torch.no_grad():
        rows[experts] = 0
        document = np.searchsorted(np.flatnonzero(text.tokens == END) + 1, np.arange(
            len(text.tokens)), side="right")  # fmt: skip
        nats, sizes = np.zeros(document[-1] + 1), np.zeros(document[-1] + 1)
        windows = ScoredWindows(text.tokens, seq_len=SEQ, batch_size=1)
        for i, batch in enumerate(windows):
            logs = model(batch.inputs)[0].float().log_softmax(-1)
            for place, row, target in zip(
                windows.places(i)[0], logs, batch.targets[0], strict=True
            ):
                nats[document[place]] -= float(row[target])
                sizes[document[place]] += 1
        rows[...] = kept
    return nats, sizes


@pytest.mark.parametrize("ffn", [PEER, STEM, ENGRAM], ids=["peer", "stem", "engram"])
def test_changes_of_texts_by_hand(ffn):
    model = model_of(DenseConfig(), ffn).float()
    layer = the_layer(model, "blocks.1.ffn")
    texts = texts_of(50, 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    units = make_units(texts, SEQ, 4, END, halved=False)
    how = Choice(experts=(3, 10, 11), domain="even", top=0, draws=2, seed=0)
    found = ablate_texts(model, layer, units, how)
    assert found.unit == "document"
    even, odd, specific = found.rows
    for row, text in ((even, texts[0]), (odd, texts[1])):
        whole, sizes = by_hand(model, text, [], layer)
        without, _ = by_hand(model, text, [3, 10, 11], layer)
        table = found.units[found.units["text"] == text.name]
        assert row.n_units == len(table) == 50
        np.testing.assert_allclose(table["chosen"], without - whole, atol=1e-4)
        assert table["tokens"].tolist() == sizes.tolist()
        assert row.chosen.value == pytest.approx((without - whole).sum() / sizes.sum(), abs=1e-6)
        draws = table[["random.1", "random.2"]].to_numpy().T
        assert row.random.value == pytest.approx(draws.sum() / 2 / sizes.sum(), abs=1e-9)
        difference = row.chosen.value - row.random.value
        assert row.excess.value == pytest.approx(difference, abs=1e-9)
    assert specific.chosen.value == pytest.approx(even.chosen.value - odd.chosen.value)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_without_all_experts_the_loss_is_that_of_the_layer_none():
    model = model_of(DenseConfig(), PEER, DenseConfig()).float()
    none = model_of(DenseConfig(), NoneConfig(), DenseConfig()).float()
    state = model.state_dict()
    none.load_state_dict({n: t for n, t in state.items() if not n.startswith("blocks.1.ffn.")})
    layer = the_layer(model, "blocks.1.ffn")
    text = texts_of(30, 1)[0]
    without, _ = by_hand(model, text, list(range(64)), layer)
    other = the_layer(none, "blocks.0.ffn")
    assert by_hand(none, text, [], other)[0].tolist() == without.tolist()


def test_a_domains_experts_are_chosen_by_other_documents_than_are_told_of():
    model = model_of(DenseConfig(), STEM).float()
    layer = the_layer(model, "blocks.1.ffn")
    units = make_units(texts_of(60, 2), SEQ, 4, END, halved=True)
    how = Choice(experts=None, domain="even", top=6, draws=3, seed=0)
    found = ablate_texts(model, layer, units, how)
    (chosen,) = found.experts.values()
    assert all(expert % 2 == 0 for expert in chosen)  # a row for each id: the ids of that text
    assert (found.units["unit"] % 2 == 1).all()
    table = found.units[found.units["text"] == "odd"]
    assert (table["chosen"].abs() < 1e-4).mean() > 0.9  # but for windows that begin in the other
    assert found.units.groupby("text")["unit"].count().tolist() == [30, 30]
    again = ablate_texts(model, layer, units, how)
    assert again.experts == found.experts
    assert again.units.equals(found.units)


def test_a_text_with_too_few_documents_is_refused_before_anything_is_scored():
    with pytest.raises(ValueError, match=r"even has 19 documents to tell of \(every second one"):
        make_units(texts_of(39, 0), SEQ, 4, END, halved=True)
    with pytest.raises(ValueError, match=r"even has 19 documents to tell of, and an interval"):
        make_units(texts_of(19, 0), SEQ, 4, END, halved=False)
    whole = Text(name="file", tokens=np.arange(1, 24 * 30) % 49 + 1, digest="", max_tokens=None)
    (units,) = make_units([whole], SEQ, 4, END, halved=False)
    assert (units.kind, units.n) == ("window", 30)
    assert units.of(np.array([1, 24, 25, 719])).tolist() == [0, 0, 1, 29]


def test_specificity_is_the_target_less_the_mean_of_the_others():
    rng = np.random.default_rng(0)
    changes = [
        Changes(
            name=name, unit=np.arange(30), tokens=rng.integers(5, 50, 30),
            chosen=rng.normal(shift, 1, 30), drawn=rng.normal(0, 1, (4, 30)),
        )
        for name, shift in (("a", 3.0), ("b", 0.0), ("c", 1.0))
    ]  # fmt: skip
    a, b, c, specific = rows_of_texts(changes, "a")
    for part in ("chosen", "random", "excess"):
        value = getattr(a, part).value - (getattr(b, part).value + getattr(c, part).value) / 2
        assert getattr(specific, part).value == pytest.approx(value)
    variance = a.chosen.variance + (b.chosen.variance + c.chosen.variance) / 4
    assert specific.chosen.variance == pytest.approx(variance)
    assert len(rows_of_texts(changes, None)) == 3
    assert len(rows_of_texts(changes[:1], "a")) == 1


def asked_of(n, rng):
    def pair():
        return EncodedPair(rng.integers(1, VOCAB, 5).tolist(), rng.integers(1, VOCAB, 2).tolist())

    return [
        Asked(
            fact=Fact(line=i + 1, prompt="p", target=f"t{i}", siblings=(("q", "r"),)),
            own=pair(), siblings=(pair(), pair()), controls=(pair(),),
        )
        for i in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("given", [None, (3, 10, 11)])
def test_changes_of_facts_by_hand(given):
    model = model_of(DenseConfig(), PEER).float()
    layer = the_layer(model, "blocks.1.ffn")
    asked = asked_of(22, np.random.default_rng(0))
    scorer = Scorer(model=model, seq_len=SEQ, batch_size=4, device=torch.device("cpu"))
    found = ablate_facts(scorer, layer, asked, Choice(experts=given, top=4, draws=2, seed=0))
    rows = layer.layer.slot_rows()

    @torch.no_grad()
    def loss(pair, experts):
        kept = rows.detach().clone()
        rows[list(experts)] = 0
        ids = torch.tensor(pair.context + pair.continuation)
        logs = model(ids[:-1].unsqueeze(0))[0].log_softmax(-1)
        rows[...] = kept
        own = zip(logs[-len(pair.continuation) :], pair.continuation, strict=True)
        return -sum(float(row[target]) for row, target in own)

    for one in asked:
        experts = given or found.experts[str(one.fact.line)]
        if given is None:  # the largest sums of parts, of which all are above 0
            ids = torch.tensor(one.own.context + one.own.continuation)
            (parts,) = contributions(model, [layer], ids[:-1], ids[1:])
            own = parts.slots.experts[-2:].ravel(), parts.of_slots[-2:].ravel()
            total = torch.zeros(64, dtype=torch.float64).index_add(0, *own)
            best = [e for e in total.topk(4).indices.tolist() if total[e] > 0]
            assert sorted(best) == list(experts)
        change = [loss(pair, experts) - loss(pair, ()) for pair in one.pairs()]
        table = found.units[found.units["line"] == one.fact.line].set_index("what")["chosen"]
        assert table["target"] == pytest.approx(change[0], abs=1e-5)
        assert table["siblings"] == pytest.approx(np.mean(change[1:3]), abs=1e-5)
        assert table["controls"] == pytest.approx(change[3], abs=1e-5)
    target, siblings, controls, specific = found.rows
    assert (controls.what, specific.what) == ("controls", "specificity")
    assert specific.chosen.value == pytest.approx(target.chosen.value - siblings.chosen.value)
    assert all(row.n_units == 22 for row in found.rows)


def test_what_is_written_is_read_again(tmp_path):
    model = model_of(DenseConfig(), PEER).float()
    units = make_units(texts_of(25, 3), SEQ, 4, END, halved=False)
    how = Choice(experts=(3,), domain=None, top=0, draws=2, seed=0)
    found = ablate_texts(model, the_layer(model, "blocks.1.ffn"), units, how)
    assert read_ablation(tmp_path, {"a": 1}) is None
    path = write_ablation(tmp_path, found, {"a": 1})
    again = read_ablation(tmp_path, {"a": 1})
    assert again.rows == found.rows
    assert rows_frame(again).equals(rows_frame(found))
    assert read_ablation(tmp_path, {"a": 2}) is None
    path.write_text("{}")
    with pytest.raises(
        ValueError, match=r"is no ablation \(it lists no files, .*; the question is asked"
    ):
        read_ablation(tmp_path, {"a": 1})


def lines(n, **changes):
    made = [
        {"prompt": f"fact {i} is", "target": " so", "siblings": [{"prompt": "and", "target": " 1"}]}
        for i in range(n)
    ]
    if made:
        made[1] |= changes
    return "\n".join(map(json.dumps, made)) + "\n"


def test_facts_are_at_least_twenty(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(lines(20))
    facts = read_facts(path)
    assert len(facts.facts) == 20
    assert facts.facts[3].pairs == [("fact 3 is", " so"), ("and", " 1")]
    path.write_text(lines(19))
    with pytest.raises(ValueError, match="has 19 facts, and specificity is told of at least 20"):
        read_facts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(20) + "{", "line 21: no JSON object"),
        (lines(20, target=""), "line 2: target='' must be a text"),
        (lines(20, target=5), "line 2: target=5 must be a text"),
        (lines(20, siblings=[]), "line 2: siblings must be a list of at least one"),
        (lines(20, siblings=[{"prompt": "a"}]), "line 2, sibling 1 must have prompt and target"),
        (lines(20, siblings=[{"prompt": "fact 1 is", "target": " so"}]), "its own siblings"),
        (lines(20, more=1), "are not its keys; a fact is"),
        (lines(20, prompt="fact 0 is"), "line 2: the fact of line 1 again"),
        (lines(20, prompt="\ud800"), "half a surrogate pair"),
        (b"\xff", "is not UTF-8"),
    ],
    ids=range(10),
)
def test_what_is_no_fact_is_said_in_one_line(content, message, tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_facts(path)
    assert "\n" not in str(error.value)
