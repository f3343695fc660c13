"""A tensor that blocks share: one of the model, counted once, with the gradient of all its uses."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from experiments.kernels.ops import Execution
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.folded import folded
from experiments.models.parametrization import Base
from experiments.models.transformer import TransformerConfig
from experiments.points.planning import check_effects, make_point, read_point
from tests.conftest import TINY

KEYS = {"n_experts": 64, "n_heads": 3, "top_k": 5, "d_key": 8}
VALUES = MemoryPlusConfig(**KEYS, share_values=True)
SHARED = {
    "values": (VALUES, replace(VALUES, share_values=False)),
    "sub_keys": (PEERConfig(**KEYS, blocks_share_keys=True), PEERConfig(**KEYS)),
}
WORDS = {
    "values": ("model=memory_plus", "model.share_values=true"),
    "sub_keys": ("model=peer", "model.blocks_share_keys=true"),
}
FUSED = ("optim.table_gradient=fused", "optim.grad_clip=null")


def trunk(config, **options):
    """A model of three blocks, the layer in the first and the last."""
    sizes = {"d_model": 16, "d_head": 8, "vocab_size": 32, "seq_len": 16, "tie_head": True}
    ffns = (config, DenseConfig(), config)
    return TransformerConfig(**{**sizes, "ffns": ffns, **options})


@pytest.mark.parametrize("gradient", ["dense", "rows"])
@pytest.mark.parametrize("tensor", SHARED)
def test_it_is_one_counted_once_and_used_twice(tensor, gradient, tmp_path):
    shared, apart = map(trunk, SHARED[tensor])
    model, other = shared.build().double(), apart.build().double()
    first, last = (dict(model.blocks[i].ffn.named_parameters()) for i in (0, 2))
    assert [name for name in first if first[name] is last[name]] == [tensor]
    n, one, two = first[tensor].numel(), shared.cost(), apart.cost()
    assert one.n_params == sum(p.numel() for p in model.parameters()) == two.n_params - n
    assert one.forward_flops == two.forward_flops
    all_read = tensor == "sub_keys"  # and of 64 rows of values 2 * 15 at most
    assert one.n_active_params == two.n_active_params - n * all_read

    other.load_state_dict(model.state_dict())
    model.set_execution(Execution(gradient=gradient))
    tokens, sizes = torch.randint(0, 32, (2, 17)), []
    for which in (model, other):
        logits = which(tokens[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        torch.save(which.state_dict(), tmp_path / "state")
        sizes.append((tmp_path / "state").stat().st_size)
    assert sizes[1] - sizes[0] > 0.9 * 8 * n
    parts = [other.blocks[i].ffn.get_parameter(tensor).grad for i in (0, 2)]
    assert all(part.any() for part in parts)
    found = first[tensor].grad.to_dense()
    torch.testing.assert_close(found, sum(parts), rtol=1e-9, atol=1e-12)
    for name, parameter in other.named_parameters():
        if not name.endswith(tensor):
            mine = model.get_parameter(name).grad.to_dense()
            torch.testing.assert_close(mine, parameter.grad)


def test_shared_values_are_counted_in_the_last_block_and_as_many_as_are_read():
    values = [
        [t.n_params for t in block.terms if t.n_tables] for block in trunk(VALUES).block_costs()
    ]
    assert values == [[0], [], [64 * 16]]
    many = trunk(replace(VALUES, top_k=20)).cost()  # 2 * 60 rows of 64
    assert {t.name: t for t in many.terms}["ffn.values"].n_active == 64 * 16
    # once scaled down with depth, though two blocks write by it
    size = trunk(VALUES).build().blocks[0].ffn.values.detach().std() * 16**0.5 * 6**0.5
    assert float(size) == pytest.approx(1, rel=0.1)


def test_a_folded_model_of_shared_values_shares_them_too():
    base = Base(d_model=16, d_head=8, n_layers=1)
    model = trunk(VALUES, base=base, d_model=32).build().eval()
    plain = folded(model)
    assert plain.blocks[0].ffn.values is plain.blocks[2].ffn.values
    tokens = torch.randint(0, 32, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(plain(tokens), model(tokens), rtol=1e-5, atol=1e-5)
    assert copy.deepcopy(model).blocks[0].ffn.values is not model.blocks[0].ffn.values


@pytest.mark.parametrize("tensor", WORDS)
def test_it_is_planned_once_and_refused_where_it_can_not_be(compose_raw, tensor):
    few = (*WORDS[tensor], "n_experts=64", "model.top_k=4", "size=2", "budget=2e9", *TINY)

    def point(*words):
        return make_point(compose_raw(*few, "trunk.ffn_blocks=all", *words))

    held = sum(p.numel() for p in point().transformer.build().parameters())
    assert point().plan.memory.weights == 4 * held
    for way in (("optim.table_gradient=rows",), ("trunk.beside=true",)):
        assert point(*way).plan.memory.total > 0
    if tensor == "sub_keys":
        assert point(*FUSED).plan.memory.total > 0
    else:
        with pytest.raises(ValueError, match=r"model\.share_values=true: the table would step"):
            point(*FUSED)
    with pytest.raises(ValueError, match="has no effect with one block of it"):
        check_effects(read_point(compose_raw(*few)))
