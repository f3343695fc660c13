"""What experts promote, their nearest, and excerpts: against all of it written out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.inspection.excerpts import excerpts
from experiments.inspection.interface import inspected_layers
from experiments.inspection.nearest import nearest
from experiments.inspection.promoted import promoted
from experiments.inspection.texts import Text
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.models.ffn.sgatlin import SgatlinConfig
from tests.inspection.test_contributions import model_of

KEYED = {"n_experts": 64, "n_heads": 2, "top_k": 3, "d_key": 8, "query_norm": "layer"}
TOKENIZER = SimpleNamespace(
    decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)),
    encode_special_tokens=True,
)
VOCABULARY = SimpleNamespace(tokenizer=lambda: TOKENIZER, end_of_text=0)


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


def test_layers_without_keys_of_their_own_have_no_nearest_by_key():
    channels = SgatlinConfig(n_experts=32, n_channels=2, top_k=2, d_key=8)
    for ffn in (DenseConfig(), channels):
        (layer,) = inspected_layers(model_of(ffn))
        assert set(nearest(layer, [1])["by"]) == {"value"}


def test_parts_of_an_excerpt_add_up_to_the_layers():
    fine = MoEConfig(
        n_experts=5, routing="token_choice", top_k=2, granularity=4, n_shared_experts=1
    )
    model = model_of(PEERConfig(**KEYED), DenseConfig(), fine).float()
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50, 90)
    tokens[9::10] = 0
    texts = [Text(name="a", tokens=tokens, digest=""), Text(name="b", tokens=tokens[:7], digest="")]
    found = excerpts(model, inspected_layers(model), texts, VOCABULARY)
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
