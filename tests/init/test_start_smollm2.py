"""Exact start on a real pretrained model: SmolLM2 with a layer of 65,536 experts beside one."""

import copy

import pytest
import torch

from experiments.init.place import bases
from experiments.init.start import start
from experiments.models.blocks import chosen_blocks
from experiments.points.planning import make_point

LAYERS = {
    "beside": ("model=peer", "n_experts=65536", "model.n_heads=4", "model.d_key=128"),
    "copies": (
        *("model=peer", "n_experts=65536", "model.n_heads=4", "model.d_key=128"),
        *("init.how=copies", "model.glu=true", "model.activation=silu"),
    ),
}


@pytest.fixture(scope="module")
def base(compose_raw, cache):
    """SmolLM2 in our trunk, its weights, and a text's tokens."""
    point = make_point(
        compose_raw("init=smollm2", "init.how=keep", "budget=1e14", f"paths.cache={cache}")
    )
    state = point.config.init.weights.state(point.cache)
    model = point.transformer.build().eval()
    begin(point, model, state)
    torch.manual_seed(1)
    return model, state, torch.randint(0, 49_152, (2, 64))


def begin(point, model, state):
    blocks = chosen_blocks(point.config.trunk.ffn_blocks, point.config.size)
    text = iter([torch.randint(0, 49_152, (1, 32))])
    start(model, point.config.init, state, bases(point.config), blocks, text, seed=0)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.night)], ids=str
)
@pytest.mark.parametrize("how", LAYERS)
def test_the_function_is_unchanged_to_the_bit(how, dtype, base, compose_raw, cache):
    model, state, tokens = base
    point = make_point(
        compose_raw("init=smollm2", *LAYERS[how], "budget=1e14", f"paths.cache={cache}")
    )
    child = point.transformer.build()
    begin(point, child, state)
    assert sum(p.numel() for p in child.parameters() if p.requires_grad) > 75e6
    with torch.no_grad():
        expected = copy.deepcopy(model).to(dtype)(tokens)
        for mode in (False, True):
            assert torch.equal(child.to(dtype).train(mode)(tokens), expected)
