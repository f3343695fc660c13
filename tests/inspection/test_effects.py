"""What experts promote, their nearest, and excerpts: against all of it written out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.inspection.excerpts import excerpts
from experiments.inspection.interface import inspected_layers, listening
from experiments.inspection.nearest import nearest
from experiments.inspection.promoted import promoted
from experiments.inspection.statistics import Bounds, LayerStatistics
from experiments.inspection.texts import Text
from experiments.inspection.written import written_in_contexts
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.omni import OmniConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.models.ffn.sgatlin import SgatlinConfig
from tests.inspection.test_contributions import model_of

KEYED = {"n_experts": 64, "n_heads": 2, "top_k": 3, "d_key": 8, "query_norm": "layer"}
TOKENIZER = SimpleNamespace(
    decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)),
    encode_special_tokens=True,
)
CONTEXTS = (("a", 90), ("b", 37))  # tokens of two texts


@torch.no_grad()
@pytest.mark.parametrize("ffn", [PEERConfig(**KEYED), DenseConfig(), PeerNarrowConfig(**KEYED)])
def test_promoted_tokens_are_those_of_the_rows_logits(ffn):
    model = model_of(ffn).float()
    (layer,) = inspected_layers(model)
    found = promoted(model, layer, [5, 9], np.array([1, -1]), TOKENIZER)
    rows = layer.layer.slot_rows()
    for expert, sign in ((5, 1), (9, -1)):
        row = rows[expert].double()
        if isinstance(ffn, PeerNarrowConfig):
            row = layer.module.w_out.weight.double() @ row
        logits = sign * model.head.weight.double() @ (model.norm.weight.double() * row)
        far = (logits - logits.mean()) / logits.std()
        own = found[found["expert"] == expert]
        up, down = (own[own["side"] == side] for side in ("promoted", "suppressed"))
        order = far.argsort(descending=True).tolist()
        assert up["id"].tolist() == order[:8]
        assert down["id"].tolist() == order[::-1][:8]
        np.testing.assert_allclose(up["deviations"], far[order[:8]], rtol=1e-5)
        np.testing.assert_allclose(down["deviations"], far[order[::-1][:8]], rtol=1e-5)


@pytest.mark.parametrize(
    "ffn",
    [
        MoEConfig(n_experts=5, routing="token_choice", top_k=2),
        PEERConfig(**KEYED, output_gate=True),
    ],
)
def test_where_an_expert_writes_as_the_token_is_nothing_is_promoted(ffn):
    model = model_of(ffn).float()
    (layer,) = inspected_layers(model)
    found = promoted(model, layer, [1, 2], np.array([1, 1]), TOKENIZER)
    assert len(found) == 0
    assert "deviations" in found


@torch.no_grad()
@pytest.mark.parametrize("share", [True, False])
def test_nearest_by_all_pairs(share):
    (layer,) = inspected_layers(model_of(PEERConfig(**KEYED, share_keys=share)))
    found = nearest(layer, [3, 40])
    keys = layer.module.sub_keys  # (2, S, d), of each head where they are not shared
    heads = keys.unsqueeze(0) if share else keys
    whole = [
        torch.cat([torch.cat([head[0, i // 8], head[1, i % 8]]) for head in heads])
        for i in range(64)
    ]
    for by, vectors in (("value", list(layer.layer.slot_rows())), ("key", whole)):
        for expert in (3, 40):
            own = found[(found["by"] == by) & (found["expert"] == expert)]
            cosines = {
                i: float(torch.cosine_similarity(vectors[expert], vectors[i], dim=0))
                for i in range(64)
                if i != expert
            }
            best = sorted(cosines, key=lambda i: -cosines[i])[:5]
            assert own["other"].tolist() == best
            assert own["cosine"].tolist() == pytest.approx([cosines[i] for i in best])


@torch.no_grad()
def test_nearest_by_keys_of_other_layers():
    channels = SgatlinConfig(n_experts=32, n_channels=2, top_k=2, d_key=8)
    omni = OmniConfig(n_experts=16, top_k=2)
    for ffn in (channels, omni, MoEConfig(n_experts=12, routing="token_choice", top_k=2)):
        (layer,) = inspected_layers(model_of(ffn))
        module = layer.module
        if isinstance(ffn, SgatlinConfig):
            # A_c,a . z + B_c,b . z of the expert (a * C + c) * S2 + b
            keys = {
                (a * 2 + c) * 4 + b: module.sub_keys[c, 0, a] + module.sub_keys[c, 1, b]
                for a in range(4)
                for b in range(4)
                for c in range(2)
            }
        elif isinstance(ffn, OmniConfig):
            keys = {
                a * 4 + b: module.router[a] + module.router[4 + b]
                for a in range(4)
                for b in range(4)
            }
        else:
            keys = dict(enumerate(module.router.weight))
        found = nearest(layer, [3, 9])
        for expert in (3, 9):
            own = found[(found["by"] == "key") & (found["expert"] == expert)]
            cosines = {
                i: float(torch.cosine_similarity(keys[expert], key, dim=0))
                for i, key in keys.items()
                if i != expert
            }
            best = sorted(cosines, key=lambda i: -cosines[i])[:5]
            assert own["other"].tolist() == best
            assert own["cosine"].tolist() == pytest.approx([cosines[i] for i in best])


def test_layers_without_keys_have_no_nearest_by_key():
    (layer,) = inspected_layers(model_of(DenseConfig()))
    assert set(nearest(layer, [1])["by"]) == {"value"}


@torch.no_grad()
@pytest.mark.parametrize(
    "ffn", [MoEConfig(n_experts=5, routing="token_choice", top_k=2), MemoryPlusConfig(**KEYED)]
)
def test_what_an_expert_writes_on_average_in_its_contexts(ffn):
    model = model_of(ffn).float()
    (layer,) = inspected_layers(model)
    rng = np.random.default_rng(0)
    texts = [Text(name=n, tokens=rng.integers(0, 50, size), digest="") for n, size in CONTEXTS]
    found = LayerStatistics(layer.n_experts, 2, np.zeros(50, np.int64), Bounds(n_contexts=3))
    heard, wrote = [], {}
    first = 0
    with listening([layer], lambda layer, x, tokens: heard.append(x)):
        for number, text in enumerate(texts):
            for start in range(0, len(text.tokens) - 1, model.config.seq_len):
                ids = text.tokens[start : start + model.config.seq_len]
                model(torch.from_numpy(ids).unsqueeze(0))
                slots = layer.layer.slots(heard[-1])
                places = first + start + np.arange(len(ids))
                found.add(slots, ids, places, number, 0 * places)
                each = layer.layer.written(heard[-1], slots).double()
                for t, place in enumerate(places):
                    for expert, own in zip(slots.experts[t].tolist(), each[t], strict=True):
                        wrote[expert, place] = wrote.get((expert, place), 0) + own
            first += len(text.tokens)
    experts = np.flatnonzero(found.n_slots)[:4].tolist()
    mean = written_in_contexts(model, layer, found, texts, experts)
    for row, expert in enumerate(experts):
        own = [wrote[expert, p] for p in found.context_places[expert] if p >= 0]
        torch.testing.assert_close(mean[row], torch.stack(own).mean(0), rtol=1e-4, atol=1e-5)
    up = promoted(model, layer, experts, np.ones(4), TOKENIZER, lambda experts: mean)
    assert set(up["of"]) == {"contexts"}
    logits = model.head.weight.double() @ (model.norm.weight.double() * mean[0])
    assert up["id"].iloc[0] == int(logits.argmax())


def test_parts_of_an_excerpt_add_up_to_the_layers():
    fine = MoEConfig(
        n_experts=5, routing="token_choice", top_k=2, granularity=4, n_shared_experts=1
    )
    model = model_of(PEERConfig(**KEYED), DenseConfig(), fine).float()
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50, 90)
    tokens[9::10] = 0
    texts = [Text(name="a", tokens=tokens, digest=""), Text(name="b", tokens=tokens[:7], digest="")]
    run = SimpleNamespace(
        model=model, layers=inspected_layers(model), texts=texts, tokenizer=TOKENIZER,
        reading=SimpleNamespace(end_of_text=0),
    )  # fmt: skip
    found = excerpts(run)
    lines, parts = found["excerpts"], found["parts"]
    assert len(lines) == 3 * (10 + 8)  # a document and the end of one before
    named = parts.groupby(["layer", "text", "position"])["part"].sum()
    for _, line in lines.iterrows():
        total = named[line["layer"], line["text"], line["position"]]
        total += line["beside"] + line["others"]
        assert total == pytest.approx(line["part"], rel=1e-5, abs=1e-5)
    assert parts.groupby(["layer", "text", "position"]).size().max() == 16
    assert (lines["others"] != 0).any()
    assert (lines["beside"] != 0).any()
    one = lines.query("layer == 'blocks.0.ffn' and text == 'a'")
    assert one["token"].tolist()[:-1] == ["0", *one["next"].tolist()[:8]]
    assert one["token"].tolist() == ["0", *map(str, tokens[50:59])]
