import math

import pytest
import torch

from experiments.data.batches import Batch
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.transformer import TransformerConfig
from experiments.optim.groups import parameter_groups
from experiments.points.planning import make_point
from experiments.training.module import LanguageModel


@pytest.fixture
def model():
    peer = PEERConfig(n_experts=16, n_heads=2, top_k=2, d_key=4, glu=True)
    return TransformerConfig(
        d_model=16, d_head=8, vocab_size=30, seq_len=16, tie_head=False, ffns=(peer, DenseConfig())
    ).build()


def test_tables_and_keys_have_their_own_rates_and_do_not_decay(model, compose_raw):
    optim = make_point(compose_raw("optim.table_lr=2", "optim.key_lr=0.2")).config.optim
    groups = {g["name"]: g for g in parameter_groups(model, 0.01, optim)}
    peer = model.blocks[0].ffn

    def has(group, *parameters):
        ids = {id(p) for p in groups[group]["params"]}
        return all(id(p) in ids for p in parameters)

    assert has("table", peer.w_down, peer.w_up, peer.w_gate)
    assert has("key", peer.query.weight, peer.sub_keys)
    assert has("vectors", model.norm.weight, peer.query_norm.norm.bias)
    assert has(
        "backbone", model.embedding.weight, model.head.weight, model.blocks[1].ffn.w_in.weight
    )
    assert groups["table"]["lr"] == pytest.approx(0.02)
    assert groups["key"]["lr"] == pytest.approx(0.002)
    decays = {name: g["weight_decay"] for name, g in groups.items()}
    assert decays == {"backbone": optim.weight_decay, "vectors": 0.0, "table": 0.0, "key": 0.0}
    grouped = [p for g in groups.values() for p in g["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))


def test_the_loss_holds_what_layers_add(compose_raw):
    raw = compose_raw(
        "model=moe", "model.routing=token_choice", "model.balance=loss", "model.balance_rate=1000"
    )
    point = make_point(raw)
    module = LanguageModel(point.transformer.build(), point.plan, point.config.optim)
    tokens = torch.randint(0, 2048, (2, 33))
    loss, own = module.losses(Batch(tokens[:, :-1], tokens[:, 1:]))
    assert loss > 900  # 1000 times at least 1, the auxiliary loss of even routing
    assert own == pytest.approx(math.log(2048), rel=0.1)  # what is recorded is without it
