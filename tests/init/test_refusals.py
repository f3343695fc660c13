"""Starts that no run can have, and settings without effect on what it trains, are refused."""

import re

import pytest

from experiments.sweep.planning import plan_points

PEER = "model=peer n_experts=64 model.n_heads=2 model.top_k=4 model.d_key=8"
LAYER, PKM = (f"{PEER.replace('peer', name)} model.query_norm=layer" for name in ("peer", "pkm"))
KEEP, BIAS, COPIES, REPLACE, UPCYCLE = (
    f"init.how={how}" for how in ("keep", "bias", "copies", "replace", "upcycle")
)
REFUSED = [
    ("dense", "size=3", "size=3, and the weights of init have 2; leave size out"),
    ("dense", "ladder=cpu", "ladder.d_head=32, and the weights of init have 16"),
    ("dense", "positions=alibi", "trunk.positions=ALiBi(), and the weights of init have RoPE"),
    (
        "dense",
        "residual=parallel",
        "trunk.residual=Parallel(), and the weights of init have PreNorm",
    ),
    ("dense", "tokenizer=gpt2", "data.tokenizer has 50257 entries"),
    ("dense", f"{PEER} model.query_norm=batch", "model.query_norm=batch with init"),
    ("dense", "model=dense trunk.ffn_blocks=[2]", "blocks of size=2 are 0 to 1"),
    ("dense", "init.how=beside init.train=lora", "set init.how=keep"),
    ("dense", f"{PKM} {COPIES}", "only PEER's experts are single neurons"),
    ("peer", f"{REPLACE} {LAYER}", "block 0 of the weights holds PEER"),
    ("dense", f"{LAYER} {UPCYCLE}", "the experts of model=moe"),
    ("dense", f"{LAYER} model.glu=true {COPIES}", "model.glu=true, but the FFN"),
    ("dense", f"{LAYER} {REPLACE}", "model.n_experts=64 is too few"),
    ("peer", f"trunk.ffn_blocks=all {KEEP}", "these blocks hold different layers"),
    ("peer", f"{KEEP} model=dense", "model=dense with init.how=keep: the blocks hold the weights"),
    ("dense", f"{KEEP} {LAYER}", "own layer, which is Dense; leave model and n_experts"),
    ("peer", f"{KEEP} +model.top_k=3", "model.top_k=3 with init.how=keep: the blocks hold"),
    ("peer", f"{KEEP} n_experts=4096", "n_experts=4096 with init.how=keep"),
    ("peer", f"{KEEP} +model.typo=1", "own layer, which has none"),
    ("dense", "", "init.how=beside puts another layer into the chosen blocks, and model=weights"),
    ("dense", "+model.width_factor=2", "give model=NAME, as model=peer"),
    ("dense", "model=none", "init.train=layer with None, which has no parameters"),
    ("dense", f"{LAYER} {COPIES} init.noise=-1", "init.noise=-1 must be"),
    ("dense", f"{LAYER} {UPCYCLE} init.reinit=1.5", "init.reinit=1.5 must"),
    ("dense", "init.how=maybe", "init.how='maybe' is not one of beside, bias, copies, keep"),
    ("dense", f"{KEEP} tokenizer=bpe", "leave tokenizer out, and it is theirs, or set ladder"),
    ("dense", f"{KEEP} init.sha256=abc", "init.sha256='abc', and the weights of init have"),
    ("dense", f"{KEEP} init.path=''", "init.path='' must be a path, and not empty"),
    ("dense", f"{KEEP} init.path=null", "init.path is not set; give init.path=..., the folder"),
    ("dense", f"{KEEP} ++continual.l2=1", "continual.l2=1 with continual=none, which has no such"),
    # growth
    ("peer", f"n_experts=64 {BIAS}", "n_experts=64 is not more than the 64"),
    ("peer", f"n_experts=100 {BIAS}", "must be a multiple of 8"),
    ("peer", BIAS, "init.how=bias wants to know how many experts"),
    ("dense", f"n_experts=64 {BIAS}", "Dense has no experts"),
    ("moe", f"n_experts=16 {BIAS}", "how='bias' is no way in which MoE grows"),
    ("moe", f"n_experts=12 {COPIES}", "n_experts=12 must be a multiple of 8"),
    ("peer", f"n_experts=128 {BIAS} init.anneal=1.5", "init.anneal=1.5"),
    ("peer", f"n_experts=128 {BIAS} +model.top_k=3", "model.top_k=3 with init.how"),
    ("peer", f"n_experts=128 {COPIES} +model.n_heads=3", "model.n_heads=3 with"),
    ("peer", f"n_experts=128 {BIAS} model=pkm", "model=pkm with init.how=bias"),
    ("peer", f"n_experts=128 {BIAS} +model.n_experts=256", "n_experts=256 with"),
    ("peer", f"n_experts=1e3 {BIAS}", "n_experts=1000 must be of type int"),
    ("peer", f"n_experts=0 {BIAS}", "n_experts=0 must be at least 1"),
]
TABLES = f"{KEEP} init.train=tables"
WITHOUT_EFFECT = [
    ("peer", f"{KEEP} init.train=all init.lora_rank=4", "lora_rank=4 has no effect with init"),
    ("peer", f"{KEEP} init.noise=.5", "with init.how=keep; set init.how=copies or bias"),
    ("peer", f"{KEEP} init.anneal=.5", "with init.how=keep; set init.how=bias"),
    ("peer", f"{KEEP} init.reinit=.5", "with init.how=keep; set init.how=upcycle"),
    ("peer", f"{KEEP} init.distil_tokens=9", "with init.how=keep; set init.how=replace"),
    ("peer", f"{KEEP} init.train=lora optim.table_lr=3", "that is trained is a table"),
    ("peer", f"{TABLES} optim.key_lr=3", "trained is a query or a key"),
    ("peer", f"{TABLES} optim.weight_decay=1", "is a matrix of the backbone"),
    ("peer", f"{TABLES} optim=muon", "optim=muon has no effect on model="),
    ("peer", f"{KEEP} continual=keep continual.background_steps=3", "top_rows=null; raise"),
]


@pytest.mark.parametrize(("parent_name", "overrides", "words"), REFUSED)
def test_what_can_not_start_is_refused_in_one_line(child, parent_name, overrides, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        child(parent_name, *overrides.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("parent_name", "overrides", "words"), WITHOUT_EFFECT)
def test_a_setting_without_effect_on_what_is_trained_is_refused(
    child, parent_name, overrides, words
):
    with pytest.raises(ValueError, match=re.escape(words)):
        plan_points([child(parent_name, *overrides.split()).raw])
