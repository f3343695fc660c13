"""Layers of product keys with more experts: the same function, and new experts that are let in."""

from dataclasses import replace

import pytest
import torch

from experiments.init import grow
from experiments.init.growth.product_keys import GROWER
from experiments.models.ffn._base import Late
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.ffn.sgatlin import SgatlinConfig
from experiments.models.ffn.ultramem import UltraMemConfig
from experiments.models.roles import find_tables

D = 16
KEYS = {"n_experts": 64, "n_heads": 4, "top_k": 3, "d_key": 8}
OPTIONS = {
    "d_query_rank": 5, "share_experts": False, "output_gate": True, "shared_width_factor": 1.5,
}  # fmt: skip
SGATLIN = SgatlinConfig(n_experts=64, n_channels=4, top_k=3, d_key=6)
LAYERS = {
    **{name: PEERConfig(**KEYS, **{name: value}) for name, value in OPTIONS.items()},
    "all of them": PEERConfig(**KEYS, **OPTIONS),
    "pkm": PKMConfig(**KEYS),
    "memory_plus": MemoryPlusConfig(**KEYS),
    "peer_narrow": PeerNarrowConfig(**KEYS, d_value=5),
    "sgatlin": SGATLIN,
    "sgatlin of gelu": replace(SGATLIN, activation="gelu"),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    return LAYERS[request.param].build(D).eval()


@pytest.mark.parametrize(("how", "bound"), [("bias", 0), ("copies", 2e-6), ("beside", 0)])
def test_it_grows_to_the_same_function(layer, how, bound):
    """Allowance for copies: sums of float32 in another order."""
    grown, x = grow(layer, 64 * 4, how=how), torch.randn(2, 16, D)
    with torch.no_grad():
        off = (grown(x) - layer(x)).norm() / layer(x).norm()
    assert float(off) <= bound


def test_a_grown_layer_keeps_numbers_and_maps_and_lets_new_experts_in(layer):
    grown, x = grow(layer, 64 * 4), torch.randn(50, D)
    assert grown.config.key_sets == (4 * layer.config.key_sets[0], layer.config.key_sets[1])
    tables = find_tables(layer)
    for name, old in layer.named_parameters():
        if name != "sub_keys":
            new = grown.get_parameter(name)
            assert torch.equal(new[:64] if name in tables else new, old), name
    for rows in grown.output_weights():
        assert len(rows) != 256 or not rows[64:].any()
    if "w_down" in tables:
        assert grown.w_down[64:].norm(dim=1).min() > 0.1
    assert torch.equal(grown.route(x)[0], layer.route(x)[0])
    depth = GROWER.late_depth(grown, x)
    for bias, has_new in ((-depth - 1e-4, False), (-depth + 1e-2, True)):
        grown.late = Late(n_old=layer.config.key_sets[0], bias=torch.tensor(bias))
        assert (grown.route(x)[0] >= 64).any() == has_new
        assert has_new or torch.equal(grown.route(x)[0], layer.route(x)[0])
    grown.late = None
    assert (grown.route(x)[0] >= 64).any()


@pytest.mark.parametrize(
    ("config", "n_experts", "how", "why"),
    [
        (SGATLIN, 100, "bias", "n_experts=100 must be a multiple of 16, the experts of a sub-key"),
        (SGATLIN, 100, "copies", "n_experts=100 must be a multiple of 64"),
        (replace(SGATLIN, top_k=5), 80, "beside", "leaves 16 .*top_k=5; give n_experts=96"),
        (MemoryPlusConfig(**KEYS), 73, "bias", "must be a multiple of"),
        (PeerNarrowConfig(**KEYS), 73, "bias", "must be a multiple of"),
        (PEERConfig(**KEYS, blocks_share_keys=True), 256, "bias", "a layer whose keys others read"),
        (MemoryPlusConfig(**KEYS, share_values=True), 128, "bias", "a layer whose values others"),
        (UltraMemConfig(**KEYS), 256, "bias", "is no way in which UltraMem.*how=beside"),
        (UltraMemConfig(**KEYS), 256, "copies", "is no way in which UltraMem.*how=beside"),
        (UltraMemConfig(**KEYS), 80, "beside", "top_k=3 must be at most 2, the sub-keys of a half"),
    ],
)
def test_ways_that_it_can_not_grow_are_refused(config, n_experts, how, why):
    with pytest.raises(ValueError, match=why):
        grow(config.build(D), n_experts, how=how)
