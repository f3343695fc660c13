"""Muon against its definition in float64, torch's own; its groups and rates."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from experiments.benchmarks.core.loop import OPTIM
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.parametrization import Base
from experiments.models.transformer import TransformerConfig
from experiments.optim.groups import parameter_groups
from experiments.optim.muon import MOMENTUM, MuonConfig, adjusted, carried, orthogonal
from experiments.optim.optimizer import GroupedOptimizer

MUON = MuonConfig(**asdict(OPTIM))
FINE = MoEConfig(n_experts=4, routing="token_choice", top_k=2, n_shared_experts=1, granularity=4)
PEER = PEERConfig(n_experts=16, n_heads=2, top_k=2, d_key=4)
# bfloat16 has 8 bits: a relative error of 2**-8 at each of some fifteen products, most of which the
# iteration takes back, for singular values near 1 are drawn to 1
ROUNDED = 0.05


def reference(x, n_steps):
    """Polynomial of the singular values, in float64: what the iteration is meant to compute."""
    u, s, vt = torch.linalg.svd(x.double(), full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    for _ in range(n_steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ (s.unsqueeze(-1) * vt)


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12), (3, 6, 10), (3, 10, 6)])
def test_singular_values_become_those_of_the_polynomial(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = reference(x, 5)
    assert torch.allclose(orthogonal(x, 5, torch.float64), expected, atol=1e-12)
    rounded = orthogonal(x, 5).double()
    assert (rounded - expected).norm() < ROUNDED * expected.norm()
    values = torch.linalg.svdvals(rounded)
    assert values.min() > 0.6
    assert values.max() < 1.3


def optimizer_of(parameter, **changed):
    group = {"by": MUON, "params": [parameter], "lr": 0.02, "weight_decay": 0.1, "adjust": 1.0}
    return GroupedOptimizer([{**group, **changed}])


@pytest.mark.parametrize("shape", [(12, 5), (3, 10, 6)])
def test_steps_are_those_written_out_in_float64(shape):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    parameter = nn.Parameter(start.clone())
    optimizer = optimizer_of(parameter, adjust=0.7)
    weight, momentum = start.double(), torch.zeros(shape, dtype=torch.float64)
    for _ in range(3):
        gradient = torch.randn(shape, generator=generator)
        parameter.grad = gradient.clone()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient.double()
        update = reference(0.05 * gradient.double() + 0.95 * momentum, 5)
        weight = (1 - 0.02 * 0.1) * weight - 0.02 * 0.7 * update
    moved = (weight - start).norm()
    assert (parameter.detach() - weight).norm() < ROUNDED * moved
    assert torch.allclose(optimizer.state[parameter][MOMENTUM].double(), momentum, atol=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e-8, 0.0])  # the second below the least norm, 1e-7
@pytest.mark.parametrize("how", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (3, 10, 6), (2, 3, 6, 10)])
def test_each_matrix_of_a_stack_steps_as_by_torch_s_own(shape, how, size):
    """To the bit; matrices of a batch may be added up in another order than one alone."""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    ours = nn.Parameter(start.clone())
    theirs = [nn.Parameter(one.clone()) for one in start.reshape(-1, *shape[-2:])]
    own = optimizer_of(ours, adjust=adjusted(how, *shape[-2:]))
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn=how)
    for step in range(3):
        ours.grad = size * torch.randn(shape, generator=torch.Generator().manual_seed(step))
        for one, gradient in zip(theirs, ours.grad.reshape(-1, *shape[-2:]), strict=True):
            one.grad = gradient.clone()
        own.step()
        other.step()
    stepped = torch.stack([one.detach() for one in theirs]).reshape(shape)
    if len(shape) == 2:
        assert torch.equal(ours, stepped)
    assert (ours - stepped).norm() <= ROUNDED * (stepped - start).norm()
    momenta = torch.stack([other.state[one]["momentum_buffer"] for one in theirs])
    assert torch.equal(own.state[ours][MOMENTUM], momenta.reshape(shape))


def model_of(*ffns, d_model=16, base=None):
    return TransformerConfig(
        d_model=d_model, d_head=8, vocab_size=20, seq_len=8, tie_head=False, ffns=ffns, base=base
    ).build()  # fmt: skip


def test_maps_of_the_backbone_are_muons_and_all_else_is_adamws():
    model = model_of(DenseConfig(), FINE, PEER)
    groups = {g["name"]: g for g in parameter_groups(model, 0.01, MUON) if g["by"] is not MUON}
    names = {id(p): n for n, p in model.named_parameters()}
    matrices = {
        names[id(p)]: g["adjust"]
        for g in parameter_groups(model, 0.01, MUON)
        if g["by"] is MUON
        for p in g["params"]
    }
    assert [names[id(p)] for p in groups["backbone"]["params"]] == [
        "embedding.weight", "head.weight",
    ]  # fmt: skip
    assert set(groups) == {"backbone", "vectors", "table", "key"}
    assert matrices["blocks.0.ffn.w_in.weight"] == 0.2 * 64**0.5
    assert matrices["blocks.1.ffn.w_in"] == matrices["blocks.1.ffn.w_out"] == 0.2 * 16**0.5
    assert {n.split(".", 2)[2] for n in matrices} == {
        "attention.qkv.weight", "attention.out.weight",
        "ffn.w_in.weight", "ffn.w_out.weight",
        "ffn.router.weight", "ffn.w_in", "ffn.w_out",
        "ffn.shared_in.weight", "ffn.shared_out.weight",
    }  # fmt: skip


def test_the_longer_side_is_known_from_the_role():
    """A stack is (n, fan-in, fan-out), a linear map (fan-out, fan-in)."""
    wide = replace(MUON, muon_adjust_lr_fn="original")
    model = model_of(MoEConfig(n_experts=2, routing="token_choice", width_factor=4.0))
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, 0.01, wide)
    adjust = {names[id(p)]: g.get("adjust") for g in groups for p in g["params"]}
    assert adjust["blocks.0.ffn.w_in"] == 2  # 16 to 64
    assert adjust["blocks.0.ffn.w_out"] == 1
    assert adjust["blocks.0.attention.qkv.weight"] == 3**0.5


@pytest.mark.parametrize("how", ["match_rms_adamw", "original"])
def test_carried_rates_keep_the_spectral_condition(how):
    """rate * factor goes as sqrt(fan_out / fan_in), from 16 to 64 inputs, and outputs or not."""
    for by_out in (1.0, 4.0):
        after, before = (8 * by_out, 64.0), (8.0, 16.0)
        size = carried(how, after, (by_out, 4.0)) * adjusted(how, *after) / adjusted(how, *before)
        assert size == pytest.approx((by_out / 4) ** 0.5)
    model = model_of(DenseConfig(), d_model=32, base=Base(d_model=16, d_head=8))
    muon = replace(MUON, muon_adjust_lr_fn=how)
    groups = parameter_groups(model, 0.01, muon)
    halved = 2**0.5 if how == "match_rms_adamw" else 1  # its steps grow with the longer side
    for group in groups:
        if group["by"] is muon:
            found = group["lr"], group["weight_decay"]
            assert found == pytest.approx((0.01 / halved, 0.1 * halved))
