"""A gated memory written out; against PKM of PyPI between its maps; and tiny runs."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from experiments.kernels.ops import Execution
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.folded import folded
from experiments.models.parametrization import Base
from experiments.models.transformer import TransformerConfig
from experiments.points.planning import check_effects, make_point, read_point
from tests.conftest import TINY

D, SMALL = 12, {"n_experts": 36, "n_heads": 3, "top_k": 5, "d_key": 8}


def test_costs_by_hand():
    """d=1024: N=1024², four heads of 32, d_key=256."""
    d, h, k, q, n = 1024, 4, 32, 256, 1024**2
    cost = MemoryPlusConfig().cost(d)
    routing = d * h * q + 1024 * q + 2 * h * q
    assert cost.n_params == routing + n * d + 2 * d**2
    assert cost.n_active_params == routing + h * k * d + 2 * d**2
    of_router = 2 * d * h * q + 2 * h * 1024 * q + h * k**2
    assert cost.forward_flops == of_router + 2 * h * k * d + 4 * d**2


SHARED = MemoryPlusConfig(**{**SMALL, "n_experts": 64}, share_values=True)
OWN = replace(SHARED, share_values=False)


def trunk(config, **options):
    """A model of three blocks, the layer in the first and the last."""
    sizes = {"d_model": 16, "d_head": 8, "vocab_size": 32, "seq_len": 16, "tie_head": True}
    ffns = (config, DenseConfig(), config)
    return TransformerConfig(**{**sizes, "ffns": ffns, **options})


def loss_of(model, seed=1):
    tokens = torch.randint(0, 32, (2, 17), generator=torch.Generator().manual_seed(seed))
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def test_shared_values_are_one_table_counted_once_and_used_twice(tmp_path):
    shared, own = trunk(SHARED), trunk(OWN)
    model, apart = shared.build(), own.build()
    first, last = model.blocks[0].ffn, model.blocks[2].ffn
    assert first.values is last.values
    assert first.sub_keys is not last.sub_keys
    one, two = shared.cost(), own.cost()
    assert one.n_params == sum(p.numel() for p in model.parameters()) == two.n_params - 64 * 16
    assert one.forward_flops == two.forward_flops
    assert one.n_active_params == two.n_active_params  # 2 * 15 rows of 64 are read
    blocks = shared.block_costs()
    values = [[t.n_params for t in block.terms if t.n_tables] for block in blocks]
    assert values == [[0], [], [64 * 16]]
    many = trunk(replace(SHARED, top_k=20)).cost()  # 2 * 60 rows of 64
    assert {t.name: t for t in many.terms}["ffn.values"].n_active == 64 * 16
    sizes = []
    for which in (model, apart):
        torch.save(which.state_dict(), tmp_path / "state")
        sizes.append((tmp_path / "state").stat().st_size)
    assert sizes[1] - sizes[0] > 0.9 * 4 * 64 * 16
    # once scaled down with depth, though two blocks write by it
    size = first.values.detach().std() * 16**0.5 * 6**0.5
    assert float(size) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("gradient", ["dense", "rows"])
def test_gradients_of_shared_values_are_the_sums_of_both_uses(gradient):
    model = trunk(SHARED).build().double()
    apart = trunk(OWN).build().double()
    apart.load_state_dict(model.state_dict())
    model.set_execution(Execution(gradient=gradient))
    for which in (model, apart):
        loss_of(which).backward()
    found, parts = (
        model.blocks[0].ffn.values.grad,
        [apart.blocks[i].ffn.values.grad for i in (0, 2)],
    )
    assert all(part.abs().sum() > 0 for part in parts)
    torch.testing.assert_close(found.to_dense(), sum(parts), rtol=1e-9, atol=1e-12)
    for name, parameter in apart.named_parameters():
        if not name.endswith("values"):
            torch.testing.assert_close(parameter.grad, model.get_parameter(name).grad)


def test_a_folded_model_of_shared_values_shares_them_too():
    base = Base(d_model=16, d_head=8, n_layers=1)
    model = trunk(SHARED, base=base, d_model=32).build().eval()
    plain = folded(model)
    assert plain.blocks[0].ffn.values is plain.blocks[2].ffn.values
    tokens = torch.randint(0, 32, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens), model(tokens), rtol=1e-5, atol=1e-5)
    assert copy.deepcopy(model).blocks[0].ffn.values is not model.blocks[0].ffn.values


def test_shared_values_are_planned_once_and_refused_where_they_cannot_be(compose_raw):
    few = ("model=memory_plus", "n_experts=64", "model.top_k=4", "model.share_values=true")
    few += ("size=2", "budget=2e9", *TINY)

    def point(*words):
        return make_point(compose_raw(*few, "trunk.ffn_blocks=all", *words))

    model = point().transformer.build()
    assert point().plan.memory.weights == 4 * sum(p.numel() for p in model.parameters())
    for way in ((), ("optim.table_gradient=rows",), ("trunk.beside=true",)):
        assert point(*way).plan.memory.total > 0
    with pytest.raises(
        ValueError, match=r"fused with model\.share_values=true: the table would step"
    ):
        point("optim.table_gradient=fused", "optim.grad_clip=null")
    with pytest.raises(ValueError, match="has no effect with one block of it"):
        check_effects(read_point(compose_raw(*few)))
