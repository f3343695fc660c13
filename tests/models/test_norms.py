"""Every conf/norm/*.yaml: a new norm is checked without a new test. And each by itself."""

import numpy as np
import pytest
import torch
from torch import nn

from experiments.config.hydra_hints import choice_names
from experiments.config.nodes import make_node
from experiments.init.exported import exported_shape, exported_state
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.fused import Fused
from experiments.models.norms.layer import LayerNormConfig
from experiments.models.norms.rms import RMSNormConfig
from experiments.models.transformer import TransformerConfig
from experiments.points.planning import make_point
from tests.conftest import TINY
from tests.extending import follow
from tests.init.trunks import trunk_config
from tests.interchange.models import VOCABULARY, exported, vocabulary_in
from tests.rounding import assert_rounding

NAMES = [name for name in choice_names("norm") if name != "weights"]


@pytest.fixture
def norm(compose_raw):
    def make(name):
        raw = compose_raw("size=2", "budget=1e9", *TINY, f"norm={name}")
        return make_point(raw).config.trunk.norm

    return make


def model(norm):
    torch.manual_seed(3)
    peer = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)
    config = TransformerConfig(
        d_model=48, d_head=16, vocab_size=VOCABULARY, seq_len=24, tie_head=False,
        ffns=(DenseConfig(), peer), norm=norm,
    )  # fmt: skip
    made = config.build()
    for module in made.modules():  # nothing is left at a value that it starts with
        if isinstance(module, nn.RMSNorm | nn.LayerNorm):
            nn.init.normal_(module.weight, mean=1, std=0.1)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_its_parameters_are_those_that_are_counted(norm, name):
    made = model(norm(name))
    assert made.config.cost().n_params == sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_fused_trunk_computes_it_or_names_it(norm, name):
    made, tokens = model(norm(name)), torch.randint(0, 50, (2, 24))
    fused = Fused(made)
    known = isinstance(norm(name), RMSNormConfig)
    assert set(fused.eager) == (set() if known else {
        "attention 0", "ffn 0", "attention 1", "ffn 1", "head"})  # fmt: skip
    exact = model(norm(name)).double()
    assert_rounding(fused.logits(tokens).double(), exact(tokens), n_blocks=2)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_says_the_same_and_is_read_back(norm, name, tmp_path):
    """Writing one loads it by transformers, by the source of its own, and compares the logits."""
    made = model(norm(name)).eval()
    exported(made, tmp_path / "hf", vocabulary_in(tmp_path / "cache"))
    shape = exported_shape(tmp_path / "hf")
    assert shape.norm == make_node(norm(name))
    again = trunk_config(shape, 24).build()
    again.load_state_dict(exported_state(tmp_path / "hf", shape))
    tokens = torch.randint(0, 50, (1, 24))
    assert torch.equal(again.eval()(tokens), made(tokens))


@pytest.mark.parametrize("config", [RMSNormConfig(eps=0.01), LayerNormConfig(eps=0.01)])
def test_norms_by_their_equations_in_float64(config):
    made = config.build(7).double()
    nn.init.normal_(made.weight)
    x, weight = torch.randn(3, 7, dtype=torch.float64), made.weight.detach().numpy()
    for row, found in zip(x.numpy(), made(x).detach().numpy(), strict=True):
        centred = row - (row.mean() if isinstance(config, LayerNormConfig) else 0)
        expected = centred / np.sqrt((centred**2).mean() + 0.01) * weight
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("config", [RMSNormConfig(), LayerNormConfig()])
def test_rows_of_bfloat16_are_normed_in_float32(config):
    made, x = config.build(64).bfloat16(), torch.randn(5, 64).bfloat16()
    assert torch.equal(made(x), config.build(64)(x.float()).bfloat16())


@pytest.mark.night
def test_the_how_to_is_followed(tmp_path):
    follow("A norm", tmp_path)
