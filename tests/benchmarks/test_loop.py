"""Loop that benchmarks and the check of a GPU share: a step is that of a run, written out."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from experiments.benchmarks.core.loop import Loop, Sizes
from experiments.kernels.ops import Execution
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.fused import why_not_fused

SIZES = Sizes(d_model=16, d_head=8, n_layers=2, vocab_size=32, seq_len=8, sequences=4)
BALANCED = MoEConfig(n_experts=4, routing="token_choice", top_k=2, balance="loss", balance_rate=0.1)


def loop_on(ffn, n_micro=1, lr=0.1):
    """A loop of plain SGD on fixed random tokens, whose model is that of a seed."""
    torch.manual_seed(0)
    model = SIZES.model(ffn, "all").build()
    torch.manual_seed(1)
    ((batch,),) = SIZES.batches(1)
    parts = [(t, n.flatten()) for t, n in zip(*(x.view(4, -1).chunk(n_micro) for x in batch))]
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    return Loop(model, [parts], sgd, grad_clip=None), batch


@pytest.mark.parametrize("ffn", [DenseConfig(), BALANCED], ids=["dense", "with a loss of its own"])
def test_a_step_follows_the_gradient_of_all_losses(ffn):
    loop, (tokens, targets) = loop_on(ffn)
    reference, _ = loop_on(ffn)
    model = reference.model
    loss = F.cross_entropy(model(tokens).flatten(0, 1), targets)
    extra = [a for layer in model.ffn_layers() if (a := layer.auxiliary_loss()) is not None]
    assert len(extra) == (2 if ffn is BALANCED else 0)
    sum(extra, loss).backward()
    reference.optimizers[0].step()
    assert float(loop.step()) == pytest.approx(loss.item())
    for ours, slow in zip(loop.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, slow)


def test_micro_batches_make_the_step_of_their_mean():
    whole, _ = loop_on(DenseConfig())
    parts, _ = loop_on(DenseConfig(), n_micro=2)
    assert float(whole.step()) == pytest.approx(float(parts.step()))
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(why_not_fused() is not None, reason="no C++ compiler")
def test_a_fused_step_is_the_same_step():
    sizes = replace(SIZES, d_head=16)
    loops = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = sizes.model(DenseConfig()).build()
        loop = Loop(
            model, sizes.batches(1), torch.optim.SGD(model.parameters(), lr=0.1), grad_clip=1.0
        )
        if fused:
            assert not loop.fuse().eager
        loops.append(loop)
    eager, fused = (float(loop.step()) for loop in loops)
    assert fused == pytest.approx(eager)
    for a, b in zip(*(loop.model.parameters() for loop in loops), strict=True):
        torch.testing.assert_close(a, b)


def test_loops_that_share_a_model_set_how_its_tables_are_read():
    peer = PEERConfig(n_experts=16, n_heads=1, top_k=2, d_key=4)
    first, batch = loop_on(peer)
    model, ways = first.model, [Execution(kernel="torch", gradient=g) for g in ("rows", "dense")]
    none = torch.optim.SGD(model.parameters(), lr=0.0)
    loops = [Loop(model, [[batch]], none, grad_clip=None, execution=how) for how in ways]
    for loop, how in zip(loops, ways, strict=True):
        loop.step()
        assert all(layer.execution == how for layer in model.ffn_layers())


def test_spread_adds_the_same_noise_to_layers_of_keys_alone():
    sizes = replace(SIZES, sequences=2)
    model = sizes.model(PEERConfig(n_experts=16, n_heads=1, top_k=2, d_key=4), (1,)).build()
    x = torch.randn(2, 8, 16)
    before = [block.ffn(x) for block in model.blocks]
    sizes.spread(model)
    (dense, peer), again = (block.ffn(x) for block in model.blocks), model.blocks[1].ffn(x)
    assert torch.equal(dense, before[0])
    assert not torch.equal(peer, before[1])
    assert torch.equal(peer, again)
