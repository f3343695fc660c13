"""Which experts fire on a string: against a loop over all tokens, and intervals by simulation."""

from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.inspection.interface import inspected_layers, listening
from experiments.inspection.reading import Pass
from experiments.inspection.statistics import Bounds
from experiments.inspection.strings import fired_on, occurrences, share_interval
from experiments.inspection.texts import Text
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.pkm import PKMConfig
from tests.inspection.test_contributions import model_of

TOKENIZER = SimpleNamespace(
    # after a space it is of other tokens
    encode=lambda text: SimpleNamespace(
        ids=[int(i) + 10 * text.startswith(" ") for i in text.split()]
    ),
    decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)),
)


@pytest.fixture
def reading():
    rng = np.random.default_rng(0)
    texts = []
    for name, n in (("a", 150), ("b", 97)):
        tokens = rng.integers(1, 4, n)
        tokens[11::12] = 0
        texts.append(Text(name=name, tokens=tokens, digest=name))
    return Pass(
        texts=texts, seq_len=16, batch_size=3, classes=np.zeros(50, int), end_of_text=0,
        bounds=Bounds(n_units=3), identity={},
    )  # fmt: skip


@torch.no_grad()
def test_by_a_loop(reading):
    model = model_of(PKMConfig(n_experts=64, n_heads=2, top_k=2, d_key=8), DenseConfig()).float()
    layers = inspected_layers(model)
    (sought,) = occurrences("1 2", reading, TOKENIZER)
    assert sought.ids == (1, 2)
    read, heard, batch = [], {}, -1
    with listening(
        layers, lambda layer, x, tokens: heard.update({layer.name: layer.layer.slots(x)})
    ):
        for text, ids, places, documents in reading.batches():
            model(ids)
            batch += 1
            for t, (token, place, document) in enumerate(
                zip(ids.flatten().tolist(), places.ravel(), documents.ravel(), strict=True)
            ):
                of = {}
                for name, slots in heard.items():
                    order = slots.gates[t].argsort(descending=True)[
                        : 3 if slots.all_experts else 99
                    ]
                    of[name] = set(slots.experts[t][order].tolist())
                read.append((int(place), token, (text, int(document), batch), of))
    by_place = {place: i for i, (place, *_) in enumerate(read)}
    starts = [
        place
        for place, token, *_ in read
        if token == 1
        and place % 150 % 16 < 15  # in one window
        and place + 1 in by_place
        and read[by_place[place + 1]][1] == 2
    ]
    assert sought.places.tolist() == starts
    batches = {read[by_place[place]][2][2] for place in starts}
    overall = {layer.name: np.full(layer.n_experts, 0.01) for layer in layers}
    run = SimpleNamespace(model=model, layers=layers, reading=reading, tokenizer=TOKENIZER)
    found = fired_on(run, [sought], overall)
    for layer in layers:
        for j, token in enumerate((1, 2)):
            at = [read[by_place[place + j]] for place in starts]
            n = Counter(expert for *_, of in at for expert in of[layer.name])
            others = [
                of[layer.name]
                for place, own, (*_, batch), of in read
                if own == token and place - j not in starts and batch in batches
            ]
            elsewhere = Counter(expert for of in others for expert in of)
            mine = found.query("layer == @layer.name and position == @j")
            assert len(mine) == min(10, len(n))
            for _, line in mine.iterrows():
                assert line["n_read"] == len(starts) > 10
                assert line["n_documents"] == len({document[:2] for _, _, document, _ in at})
                assert line["share"] == pytest.approx(n[line["expert"]] / len(starts))
                assert line["low"] <= line["share"] <= line["high"]
                assert line["elsewhere"] == pytest.approx(elsewhere[line["expert"]] / len(others))
            best = sorted(n.values(), reverse=True)[:10]
            assert (mine["share"] * len(starts)).tolist() == pytest.approx(best)


def test_a_string_that_is_nowhere_is_refused(reading):
    with pytest.raises(ValueError, match="find=7 1 is nowhere in the texts that are read"):
        occurrences("7 1", reading, TOKENIZER)
    (one,) = occurrences("3", reading, TOKENIZER)
    assert one.string == "3"


@pytest.mark.parametrize("share", [0.03, 0.4, 0.97])
def test_intervals_cover_over_documents(share):
    """Documents differ in their own share, so that occurrences would say too much."""
    rng, n_draws, covered = np.random.default_rng(0), 400, defaultdict(int)
    for _ in range(n_draws):
        sizes = rng.geometric(0.2, 40)
        own = rng.beta(4 * share, 4 * (1 - share), 40)
        totals = rng.binomial(sizes, own)
        low, high = share_interval(totals, sizes, 0.95)
        covered["documents"] += low <= share <= high
        low, high = share_interval(
            np.repeat([0, 1], [sizes.sum() - totals.sum(), totals.sum()]),
            np.ones(sizes.sum()),
            0.95,
        )
        covered["occurrences"] += low <= share <= high
    error = 3 * (0.95 * 0.05 / n_draws) ** 0.5
    assert covered["documents"] / n_draws >= 0.93 - error
    assert covered["occurrences"] < covered["documents"]


def test_where_all_documents_say_the_same_they_are_what_is_counted():
    sizes = np.full(10, 1000)
    assert share_interval(sizes, sizes, 0.95) == pytest.approx((0.025 ** (1 / 10), 1.0))
    low, high = share_interval(0 * sizes, sizes, 0.95)
    assert (low, high) == pytest.approx((0, 1 - 0.025 ** (1 / 10)))
    assert np.isnan(share_interval(sizes[:4], sizes[:4], 0.95)).all()
