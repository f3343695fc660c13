"""What every conf/model/*.yaml owes; a new one is tested without a new test."""

import dataclasses
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from experiments.config.hydra_hints import choice_names
from experiments.config.reading import build
from experiments.kernels.ops import Execution
from experiments.models.ffn.engram import EngramConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.omni import OmniConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.models.ffn.sgatlin import SgatlinConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.ffn.ultramem import UltraMemConfig
from tests.models.ffn.reference import assert_as_by_reference, with_tokens

NAMES = [name for name in choice_names("model") if name != "weights"]
D_MODEL, SEQ = 32, 64
KEYS = tuple(
    (name, option)
    for name in ("pkm", "peer")
    for option in (
        {"query_norm": "none"},
        {"query_norm": "layer"},
        {"share_keys": False},
        {"top_k": 3},
    )
)
VARIANTS = (
    *((name, {}) for name in NAMES),
    *KEYS,
    ("peer", {"glu": True}),
    ("peer", {"d_query_rank": 6}),
    ("peer", {"share_experts": False, "n_experts": 512}),
    ("peer", {"output_gate": True}),
    ("peer", {"shared_width_factor": 1.5}),
    ("peer", {"blocks_share_keys": True}),
    ("sgatlin", {"activation": "gelu"}),
    ("sgatlin", {"n_first_keys": 16, "top_k": 3}),
    ("ultramem", {"key_norm": "none", "share_keys": False, "score": "softmax"}),
    ("ultramem", {"n_first_keys": 128, "top_k": 3}),
    ("ultramem", {"key_norm": "layer", "query_norm": "batch", "score": "relu"}),
    ("ultramem", {"heads_per_query": 1, "share_keys": True, "value_factor": None}),
    ("omni", {"router_norm": "batch"}),
    ("engram", {"gate_root": False, "dilation": 1}),
    ("dense", {"glu": True}),
    ("moe", {"n_experts": 4, "capacity_factor": 2.0, "n_shared_experts": 1}),
    ("moe", {"n_experts": 4, "routing": "token_choice", "top_k": 2}),
    ("moe", {"n_experts": 4, "capacity_factor": 2.0, "n_shared_experts": 1, "glu": True}),
    ("moe", {"n_experts": 4, "routing": "token_choice", "top_k": 2, "glu": True}),
)


D = 96
# by layer and parameter: a normal law's deviation, or (-a, a) of a uniform one
STARTS = {
    EngramConfig(n_experts=3000, max_order=2, n_hashes=2, d_row=24): {
        "values": 24**-0.5, "w_key.weight": 48**-0.5, "w_value.weight": 48**-0.5,
    },
    StemConfig(vocab_size=500, width_factor=1.5): {
        "w_gate.weight": D**-0.5, "w_out.weight": 144**-0.5, "values": 144**-0.5,
    },
    OmniConfig(n_experts=1024, top_k=4): {
        "router": (-((3 / D) ** 0.5), (3 / D) ** 0.5), "w_down": D**-0.5, "w_up": D**-0.5,
    },
    UltraMemConfig(n_experts=1024, d_key=32, value_factor=0.5): {
        "query.weight": D**-0.5, "sub_keys": (-0.25, 0.25),
        "values": 48**-0.5, "w_out.weight": 48**-0.5,
    },
    PeerNarrowConfig(n_experts=1024, d_value=48, d_key=16): {
        "w_in.weight": D**-0.5, "w_out.weight": 48**-0.5, "w_up": 48**-0.5,
    },
    SgatlinConfig(n_experts=1024, n_channels=4, top_k=2, d_key=16): {
        "query.weight": D**-0.5, "sub_keys": (-0.25, 0.25),
        "w_down": D**-0.5, "w_up": (8 * D) ** -0.5,
    },
}  # fmt: skip


@pytest.mark.parametrize("config", STARTS, ids=lambda c: type(c).__name__)
def test_parameters_start_by_the_laws_that_are_written(config):
    layer = config.build(D)
    for name, law in STARTS[config].items():
        weights = layer.get_parameter(name).detach()
        low, high = law if isinstance(law, tuple) else (-torch.inf, torch.inf)
        std = high / 3**0.5 if isinstance(law, tuple) else law
        assert float(weights.std()) == pytest.approx(std, rel=0.05), name
        assert abs(float(weights.mean())) < 0.07 * std, name
        assert low <= weights.min() <= weights.max() <= high, name


def variant_id(variant):
    return " ".join([variant[0], *map(str, variant[1].items())])


@pytest.fixture(params=VARIANTS, ids=variant_id)
def variant(request):
    return request.param


@pytest.fixture
def config(variant, compose_raw):
    name, options = variant
    return build({**compose_raw(f"model={name}")["model"], **options}, "model")


def built(config):
    layer = with_tokens(config.build(D_MODEL))
    with torch.no_grad():
        zeros = (p for p in layer.parameters() if not p.any())
        for weight in (*layer.output_weights(), *zeros):  # what is zero would hide every leak
            weight.normal_(std=D_MODEL**-0.5)
    return layer


@pytest.fixture
def layer(config):
    return built(config)


def test_keeps_the_shape(layer):
    assert layer(torch.randn(2, SEQ, D_MODEL)).shape == (2, SEQ, D_MODEL)


only_layers_with_weights = pytest.mark.parametrize(
    "variant", [v for v in VARIANTS if v[0] != "none"], ids=variant_id
)


@only_layers_with_weights
def test_every_parameter_gets_a_finite_gradient(layer):
    layer(torch.randn(2, SEQ, D_MODEL)).square().sum().backward()
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@only_layers_with_weights
@pytest.mark.parametrize("gradient", ["dense", "rows"])
@pytest.mark.parametrize("kernel", ["torch", "auto"])
def test_kernels_and_gradients_of_rows_are_the_references(config, kernel, gradient):
    """Tables of 16 bits too: their rows are read as they are, and summed in float32."""
    dtypes = ("float32", "bfloat16") if hasattr(config, "table_dtype") else (None,)
    for dtype in dtypes:
        layer = built(replace(config, table_dtype=dtype) if dtype else config)
        how = Execution(kernel=kernel, gradient=gradient)
        assert_as_by_reference(layer, how, torch.randn(2, 9, D_MODEL))


def test_parameters_are_counted_exactly(config, layer):
    cost = config.cost(D_MODEL)
    assert cost.n_params == sum(p.numel() for p in layer.parameters())
    assert cost.n_active_params <= cost.n_params


def test_flops_are_those_that_torch_counts_and_the_stated_rest(config, layer):
    """torch's counter sees matrix products; gathers, pair sums and grouped_mm are the gaps."""
    layer.execution = Execution(kernel="torch")  # those of C++ and Triton are out of its sight
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.randn(2, SEQ, D_MODEL))
    loops = isinstance(config, MoEConfig) and not hasattr(F, "grouped_mm")  # torch 2.9
    terms = config.cost(D_MODEL).terms
    seen = sum(t.flops for t in terms if t.seen_by_torch or (loops and t.name == "experts"))
    assert counter.get_total_flops() == seen * 2 * SEQ


def test_configs_are_frozen(config):
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, None)


@only_layers_with_weights
def test_no_gradient_from_the_future(layer):
    x = torch.randn(1, SEQ, D_MODEL, requires_grad=True)
    layer.eval()
    half = SEQ // 2
    layer(x)[:, :half].square().sum().backward()
    assert x.grad[:, half:].abs().max() == 0
    assert x.grad[:, :half].abs().max() > 0


@pytest.mark.parametrize("training", [False, True])
def test_causal_and_mixes_say_whether_the_future_changes_the_past(layer, config, training):
    """Expert choice leaks through which tokens are chosen, which has no gradient: so perturb."""
    x = torch.randn(1, SEQ, D_MODEL)
    changed = x.clone()
    changed[:, SEQ // 2 :] = 3 * torch.randn(1, SEQ // 2, D_MODEL)
    layer.train(training)
    with torch.no_grad():
        before, after = layer(x)[:, : SEQ // 2], layer(changed)[:, : SEQ // 2]
    mixed = training and getattr(config, "mixes", None) is not None
    assert torch.allclose(before, after, atol=1e-6) == (layer.causal and not mixed)


def test_bfloat16_activations_pass_through(layer):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        y = layer(torch.randn(2, SEQ, D_MODEL).to(torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()
