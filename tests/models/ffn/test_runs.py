"""Tiny runs of each layer: they learn, go on as text, leave, grow, start beside, are broken off."""

import pytest
import torch

from experiments.config.hydra_hints import choice_names
from experiments.init.growth import can_grow, find_grower
from experiments.points.memory import trained_shapes
from experiments.points.planning import make_point
from tests.models.ffn.lives import (
    assert_a_broken_run_goes_on_to_the_bit,
    assert_text_goes_on_as_without_a_cache,
    by_the_command,
    child_of,
    exported_as_it_is,
)
from tests.training.test_table_gradient import FUSED, WAYS

KEYS = ("n_experts=64", "model.top_k=4", "model.d_key=8")
BY_LAYER = (*KEYS, "model.query_norm=layer")
# beside the ladder's own numbers of the layer, which a new one has
WORDS = {
    "engram": ("n_experts=512", "model.d_row=8", "data.mask_documents=true"),
    "memory_plus": BY_LAYER,
    "omni": ("n_experts=64", "model.top_k=4"),
    "peer": (
        "n_experts=128", *BY_LAYER[1:], "model.n_heads=2", "model.share_experts=false",
        "model.output_gate=true", "model.d_query_rank=6", "model.shared_width_factor=1",
    ),
    "peer_narrow": (*BY_LAYER, "model.d_value=8"),
    "sgatlin": ("n_experts=64", "model.top_k=4"),
    "stem": ("data.mask_documents=true",),
    "ultramem": KEYS,
}  # fmt: skip
STEPS = {"peer": WAYS["rows"], "ultramem": WAYS["rows"]}
ELSEWHERE = ("dense", "moe", "moe_fine", "none", "pkm")  # tests/init and tests/training
NAMES = [name for name in choice_names("model") if name not in ("weights", *ELSEWHERE)]
LEAVING = ("sgatlin", "stem")


def words(name):
    return (f"model={name}", *WORDS.get(name, ()))


@pytest.mark.usefixtures("hub_modules")
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_goes_on_as_text_leaves_grows_and_starts_beside_another(
    run, compose_raw, tmp_path, monkeypatch, name
):
    run_dir, before = by_the_command(run, tmp_path, *words(name), *STEPS.get(name, ()))
    point = make_point(before.config)
    experts = any(layer.n_experts for layer in trained_shapes(point.transformer).ffn_layers())
    assert (0 < before.usage <= 1) if experts else before.usage is None
    assert before.causal_eval
    assert_text_goes_on_as_without_a_cache(run_dir)

    if name in LEAVING:
        theirs = exported_as_it_is(run_dir, tmp_path, monkeypatch)
        assert type(theirs.blocks[0].ffn).__module__.endswith(f".{name}")
        how = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        start = torch.arange(4, 24)[None]
        cached, plain = (theirs.generate(start, use_cache=use, **how) for use in (True, False))
        assert torch.equal(cached, plain)

    config = point.config.model
    if can_grow(config) and "bias" in find_grower(config).ways:
        more = ("init.how=bias", "init.train=all", f"n_experts={8 * before.n_experts}")
        grown = child_of(compose_raw, run_dir, *more)
        assert (grown.n_experts, grown.init["moments"]) == (8 * before.n_experts, True)
        assert grown.before["validation"]["loss"] == before.val_loss

    way = ("trunk.ffn_blocks=[1]", "init.how=beside")
    tables = any(term.n_tables for term in config.cost(point.config.d_model).terms)
    trained = "tables" if tables and name != "peer" else "layer"
    beside = child_of(compose_raw, run_dir, *words(name), *way, f"init.train={trained}")
    assert beside.init["exact"] is True
    assert beside.before["validation"]["loss"] == before.val_loss
    assert beside.val_loss < before.val_loss


SHARED = ("model=memory_plus", *BY_LAYER, "model.share_values=true", "trunk.ffn_blocks=all")


@pytest.mark.parametrize(
    ("layer", "way"),
    [
        pytest.param(words("engram"), (), marks=pytest.mark.night),
        (words("engram"), FUSED),
        (words("stem"), WAYS["rows"]),
        *((words("sgatlin"), way) for way in WAYS.values()),
        (SHARED, WAYS["rows"]),
    ],
    ids=lambda words: "-".join(words),
)
def test_a_broken_run_goes_on_to_the_bit(compose_raw, tmp_path, layer, way):
    whole = assert_a_broken_run_goes_on_to_the_bit(compose_raw, tmp_path, *layer, *way)
    if layer == SHARED:  # one table has one pair of moments
        (moments,) = torch.load(whole.run_dir / "last.ckpt")["optimizer_states"]
        assert len(moments["state"]) == len(list(whole.transformer.build().parameters()))


@pytest.mark.parametrize(
    ("layer", "word", "tensor", "way"),
    [
        ("memory_plus", "model.share_values=true", "ffn.values", WAYS["rows"]),
        ("peer", "model.blocks_share_keys=true", "ffn.sub_keys", FUSED),
    ],
)
def test_a_tensor_that_blocks_share_is_one_in_the_run_s_file(
    run, compose_raw, tmp_path, layer, word, tensor, way
):
    few = (f"model={layer}", *BY_LAYER, word, "trunk.ffn_blocks=all")
    run_dir, _ = by_the_command(run, tmp_path, *few, *way)
    assert_text_goes_on_as_without_a_cache(run_dir)
    state = torch.load(run_dir / "last.ckpt")["state_dict"]
    first, last = (t for name, t in state.items() if name.endswith(tensor))
    assert first.data_ptr() == last.data_ptr()
    with pytest.raises(ValueError, match=f"{word} with weights to start from, which are given bl"):
        child_of(compose_raw, run_dir, "init.how=keep", "init.train=all")
