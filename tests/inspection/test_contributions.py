"""Parts of experts in a logit: against the logits themselves, and sums of all parts of a stream."""

import pytest
import torch

from experiments.inspection.contributions import contributions, directions
from experiments.inspection.editing.applying import removed
from experiments.inspection.interface import inspected_layers
from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.engram import EngramConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.parametrization import Base
from experiments.models.tokens import Tokens
from experiments.models.transformer import TransformerConfig

KEYED = {"n_experts": 64, "n_heads": 2, "top_k": 3, "d_key": 8, "query_norm": "layer"}
PEER = PEERConfig(**KEYED, glu=True)
FINE = MoEConfig(n_experts=5, routing="token_choice", top_k=2, granularity=4, n_shared_experts=1)
STEM, ENGRAM = StemConfig(vocab_size=50), EngramConfig(n_experts=48, n_hashes=2, d_row=6)
LAYERS = (
    PEER, FINE, DenseConfig(), BesideConfig(frozen=DenseConfig(), trained=PKMConfig(**KEYED)),
    STEM, ENGRAM,
)  # fmt: skip


def model_of(*ffns, **settings):
    made = TransformerConfig(
        d_model=16, d_head=8, vocab_size=50, seq_len=24, tie_head=False, ffns=ffns, **settings
    ).build()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.double().eval()


@pytest.fixture(params=["standard", "completep"])
def model(request):
    base = Base(d_model=8, d_head=8, n_layers=2) if request.param == "completep" else None
    return model_of(*LAYERS, base=base)


@pytest.fixture
def ids():
    return torch.randint(0, 50, (20,))


@torch.no_grad()
def test_parts_of_slots_add_up_to_the_layers(model, ids):
    layers = inspected_layers(model)
    assert [layer.name for layer in layers] == [
        "blocks.0.ffn", "blocks.1.ffn", "blocks.2.ffn", "blocks.3.ffn.ffn", "blocks.3.ffn.layer",
        "blocks.4.ffn", "blocks.5.ffn",
    ]  # fmt: skip
    logits = model(ids.unsqueeze(0))[0]
    for found in contributions(model, layers, ids):
        total = found.of_slots.sum(1) + found.beside
        torch.testing.assert_close(total, found.layer, rtol=0, atol=1e-10)
        assert found.targets.tolist() == [*ids[1:].tolist(), int(logits[-1].argmax())]
        expected = logits[range(20), found.targets]
        torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_all_that_is_written_adds_up_to_the_logits(model, ids):
    """Embedding, each attention and each layer of experts, times the same directions."""
    layers = inspected_layers(model)
    found = contributions(model, layers, ids)
    x = model.embedding(ids.unsqueeze(0))
    attention, tokens = [], Tokens(ids.unsqueeze(0), torch.arange(20).unsqueeze(0))
    for block in model.blocks:
        after = block.residual.attention_half(block, x, model.seen(ids.unsqueeze(0)), None)
        attention.append((after - x)[0])
        x = block.residual.ffn_half(block, x, after, tokens)
    towards = directions(model, x[0], found[0].targets)
    total = (model.embedding(ids) * towards).sum(-1)
    total += sum((written * towards).sum(-1) for written in attention)
    total += sum(one.layer for one in found)
    torch.testing.assert_close(total, found[0].logits, rtol=0, atol=1e-10)


@torch.no_grad()
def test_in_float32_they_add_up_to_1e_5(ids):
    model = model_of(*LAYERS).float()
    for found in contributions(model, inspected_layers(model), ids):
        total = found.of_slots.sum(1) + found.beside
        torch.testing.assert_close(total, found.layer, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_last_blocks_part_is_what_the_logit_loses_without_it_at_the_same_scale(ids):
    """Removed rows of the last block change the stream there alone: so the logit changes by the
    part of their slots, but for the norm's scale, which is put back here.
    """
    model = model_of(DenseConfig(), PEER)
    (_, layer) = inspected_layers(model)
    (found,) = contributions(model, [layer], ids)
    gone = found.slots.experts[:, :2].unique()
    seen = []
    handle = model.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    model(ids.unsqueeze(0))
    with removed(layer, gone.tolist()):
        model(ids.unsqueeze(0))
    handle.remove()
    whole, without = seen
    towards = directions(model, whole, found.targets)
    part = (found.of_slots * torch.isin(found.slots.experts, gone)).sum(1)
    change = ((whole - without) * towards).sum(-1)
    torch.testing.assert_close(change, part, rtol=0, atol=1e-10)
    assert part.abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    "ffn", [PEER, PKMConfig(**KEYED), MemoryPlusConfig(**KEYED), DenseConfig(), STEM, ENGRAM]
)
def test_without_all_experts_it_is_the_layer_none_to_the_bit_and_back(ffn, ids):
    model = model_of(DenseConfig(), ffn, DenseConfig())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, layer, _ = inspected_layers(model)
    whole = model(ids.unsqueeze(0))
    with removed(layer, range(layer.n_experts)):
        ablated = model(ids.unsqueeze(0))
    none = model_of(DenseConfig(), NoneConfig(), DenseConfig())
    none.load_state_dict({n: t for n, t in before.items() if not n.startswith("blocks.1.ffn.")})
    assert torch.equal(ablated, none(ids.unsqueeze(0)))
    assert torch.equal(model(ids.unsqueeze(0)), whole)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_indices_and_layers_that_are_none_are_refused(ids):
    model = model_of(DenseConfig(), PEER, NoneConfig(), MoEConfig(n_experts=4))
    _, layer = inspected_layers(model)
    for expert in (-1, 64):
        refused = rf"expert {expert} is not of blocks.1.ffn, which has 0 to 63"
        with pytest.raises(ValueError, match=refused), removed(layer, [3, expert]):
            pass
    with pytest.raises(ValueError, match=r"blocks.2.ffn can't be inspected: NoFFN does not say"):
        inspected_layers(model, ["blocks.2.ffn"])
    with pytest.raises(ValueError, match=r"blocks.3.ffn can't be inspected: experts choose tokens"):
        inspected_layers(model, ["blocks.3.ffn"])
    with pytest.raises(ValueError, match=r"blocks.9.ffn is no layer .* it has blocks.0.ffn, "):
        inspected_layers(model, ["blocks.9.ffn"])
    with pytest.raises(ValueError, match=r"no layer of this model can be inspected \(blocks.0"):
        inspected_layers(model_of(NoneConfig()))
