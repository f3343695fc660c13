"""What no layer can be, by its options and by the words of a run: one line each, before compute."""

import pytest

from experiments.models.ffn.engram import EngramConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.omni import OmniConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.models.ffn.sgatlin import SgatlinConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.ffn.ultramem import UltraMemConfig
from experiments.points.planning import make_point
from tests.conftest import TINY

OWN = {"n_experts": 64, "n_heads": 4, "top_k": 3, "d_key": 8, "share_experts": False}
TOKEN_CHOICE = {"routing": "token_choice"}
REFUSED = {
    PEERConfig: (
        ({"n_experts": 1000}, "n_experts=1000 must be a perfect square; nearest: 961, 1024"),
        ({"n_experts": 4, "top_k": 5}, "top_k=5 must be at most n_experts=4"),
        ({"d_key": 7}, "d_key=7 must be even"),
        ({"n_heads": 0}, "n_heads=0 must be at least 1"),
        ({"query_norm": "bach"}, "query_norm='bach' is not one of none, layer, batch"),
        ({"score": "max"}, "score='max' is not one of"),
        ({"activation": "tanh"}, "activation='tanh' is not one of"),
        ({"value_init": "one"}, "value_init='one' is not one of normal, zero"),
        ({"d_query_rank": 0}, "d_query_rank=0 must be at least 1"),
        ({**OWN, "d_query_rank": 32}, r"d_query_rank=32 must be below n_heads \* d_key = 32, whe"),
        ({"d_query_rank": 1.5}, "d_query_rank=1.5 must be of type int"),
        ({**OWN, "n_experts": 60}, "must be 4 times a perfect square; nearest"),
        ({**OWN, "top_k": 17}, "top_k=17 must be at most n_experts=64, 16 for"),
        ({**OWN, "n_experts": 96, "n_first_keys": 5}, "multiple of 4 times n_fi"),
        ({"output_gate": 2}, "output_gate=2 must be of type bool"),
        ({"shared_width_factor": -1.0}, "shared_width_factor=-1 must be at least 0"),
        ({"shared_width_factor": float("nan")}, "shared_width_factor=nan must be"),
    ),
    PeerNarrowConfig: (
        ({"d_value": 0}, "d_value=0 must be at least 1"),
        ({"d_value": 1.5}, "d_value=1.5 must be of type int"),
        ({"activation": "tanh"}, "activation='tanh' is not one of"),
        ({"n_experts": 1000}, "n_experts=1000 must be a perfect square"),
        ({"n_experts": 4}, "top_k=32 must be at most n_experts=4"),
        ({"table_dtype": "int8"}, "table_dtype='int8' is not one of"),
    ),
    MemoryPlusConfig: (
        ({"n_experts": 1000}, "n_experts=1000 must be a perfect square"),
        ({"n_experts": 4}, "top_k=32 must be at most n_experts=4"),
        ({"d_key": 7}, "d_key=7 must be even"),
        ({"n_heads": 0}, "n_heads=0 must be at least 1"),
        ({"score": "max"}, "score='max' is not one of"),
        ({"table_dtype": "int8"}, "table_dtype='int8' is not one of"),
    ),
    UltraMemConfig: (
        ({"n_experts": 1000}, "n_experts=1000 must be a perfect square"),
        ({"n_experts": 256}, "top_k=32 must be at most 16, the sub-keys of a half of n_experts=25"),
        ({"d_key": 7}, "d_key=7 must be even"),
        ({"d_key": 2}, "d_key=2 with key_norm=layer leaves sub-keys of one number"),
        ({"key_norm": "batch"}, "key_norm='batch' is not one of none, layer, rms"),
        ({"key_norm": "rms"}, "query_norm='layer' with key_norm=rms, .*set query_norm=n"),
        ({"n_heads": 3, "heads_per_query": 2}, "n_heads=3 must be a multiple of heads_per_query=2"),
        ({"core_start": "zero"}, "core_start='zero' is not one of diagonal, uniform"),
        ({"value_factor": 0.0}, "value_factor=0 must be above 0"),
        ({"score": "max"}, "score='max' is not one of"),
        ({"core_margin": -0.1}, "core_margin=-0.1 must be at least 0"),
        ({"core_loss_rate": -1.0}, "core_loss_rate=-1 must be at least 0"),
        ({"table_dtype": "int8"}, "table_dtype='int8' is not one of"),
    ),
    SgatlinConfig: (
        ({"n_experts": 1000}, "n_experts=1000 must be 16 times a perfect square; nearest: 784, "),
        ({"n_experts": 9}, "n_experts=9 must be 16 times a perfect square; nearest: 16$"),
        ({"n_experts": 256, "n_first_keys": 5}, "a multiple of 16 times n_first_keys=5"),
        ({"n_experts": 64}, "top_k=8 must be at most n_experts=64, 4 for each of 16"),
        ({"activation": "tanh"}, "activation='tanh' is not one of gelu"),
        ({"n_channels": 0}, "n_channels=0 must be at least 1"),
        ({"d_key": 0}, "d_key=0 must be at least 1"),
        ({"value_init": "one"}, "value_init='one' is not one of normal, zero"),
        ({"table_dtype": "int8"}, "table_dtype='int8' is not one of float32, bfloat16"),
    ),
    OmniConfig: (
        ({"n_experts": 10}, "n_experts=10 must be a perfect square; nearest: 9, 16"),
        ({"n_experts": 16, "top_k": 17}, "top_k=17 must be at most n_experts=16"),
        ({"router_norm": "layer"}, "router_norm='layer' is not one of none, batch, b"),
    ),
    MoEConfig: (
        ({**TOKEN_CHOICE, "n_experts": 4, "top_k": 5}, "top_k=5 must be at most"),
        ({"top_k": 2}, "expert_choice is balanced by construction"),
        ({"balance": "loss", "balance_rate": 0.1}, "expert_choice is balanced by construction"),
        ({**TOKEN_CHOICE, "balance": "bias"}, "give a rate above 0"),
        ({"routing": "tokens"}, "routing='tokens' is not one of"),
        ({"n_experts": 4, "capacity_factor": 5.0}, "capacity_factor=5.0 must be at most"),
        ({"n_shared_experts": -1}, "n_shared_experts=-1 must be at least 0"),
    ),
    StemConfig: (
        ({"vocab_size": 0}, "vocab_size=0 must be at least 1"),
        ({"vocab_size": 9, "width_factor": 0.0}, "width_factor=0 must be above 0"),
        ({"vocab_size": 9, "activation": "tanh"}, "activation='tanh' is not one of"),
        ({"vocab_size": 9, "value_init": "ones"}, "value_init='ones' is not one of"),
        ({"vocab_size": 9, "table_dtype": "int8"}, "table_dtype='int8' is not one of"),
    ),
    EngramConfig: (
        ({"n_experts": 61, "n_hashes": 2}, "=61 must be a multiple of the 4 tables .*: 60, 64"),
        ({"n_experts": 8 * (2**31 - 1)}, "a hash has 2147483647 values; lower n_experts"),
        ({"max_order": 1}, "max_order=1 must be at least 2"),
        ({"n_hashes": 0}, "n_hashes=0 must be at least 1"),
        ({"d_row": 0}, "d_row=0 must be at least 1"),
        ({"kernel_size": 0}, "kernel_size=0 must be at least 1"),
        ({"dilation": 0}, "dilation=0 must be at least 1"),
        ({"value_init": "ones"}, "value_init='ones' is not one of"),
        ({"table_dtype": "int8"}, "table_dtype='int8' is not one of"),
    ),
}


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [(config, *row) for config, rows in REFUSED.items() for row in rows],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_a_layer_refuses_what_it_cannot_be(config, options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        config(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("stem", "model.vocab_size=200", "model.vocab_size=200, a row for each id, and the"),
        ("stem", "trainer.trunk=fused", "Stem has no fused form"),
        ("stem", "n_experts=64", "n_experts=64"),
        ("engram", "n_experts=1001", "must be a multiple of the 4 tables"),
        ("engram", "n_experts=64 trainer.trunk=fused", "Engram has no fused form"),
        ("engram", "n_experts=64 model.max_order=1", "model.max_order=1 must be at least 2"),
        ("sgatlin", "n_experts=1000", "=1000 must be 4 times a perfect square; nearest: 900, 1024"),
        ("sgatlin", "n_experts=64 model.top_k=100", "model.top_k=100 must be at most n_experts=64"),
        ("sgatlin", "model.activation=tanh", "model.activation='tanh' is not one of gelu, gelu_t"),
        ("sgatlin", "model.n_channels=0", "model.n_channels=0 must be at least 1"),
        ("sgatlin", "trainer.trunk=fused", "Sgatlin: channels share a query, and gates are inside"),
    ],
)
def test_a_run_refuses_what_it_cannot_be(compose_raw, model, words, message):
    few = (f"model={model}", "size=2", "budget=2e9", *TINY, *words.split())
    with pytest.raises(ValueError, match=message) as refusal:
        make_point(compose_raw(*few))
    assert "\n" not in str(refusal.value)
