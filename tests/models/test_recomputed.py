"""A model whose halves of blocks are recomputed, against the same model as it is written."""

import pytest
import torch
import torch.nn.functional as F

from experiments.models.attention.gqa import GQA, GQAConfig
from experiments.models.ffn._base import FFN
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.recomputed import Recomputed
from experiments.models.transformer import TransformerConfig, get_block

PEER = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)  # batch norm of its queries
LAYERS = {
    "dense": (DenseConfig(), DenseConfig(glu=True)),
    "peer": (DenseConfig(), PEER, PKMConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)),
    "moe": (
        MoEConfig(n_experts=4, routing="token_choice", top_k=2, balance="loss", balance_rate=0.01),
        DenseConfig(),
    ),
}


class _Heard:
    """Each retrieval that a layer has told of."""

    def __init__(self):
        self.heard = []

    def add(self, indices, gates):
        self.heard.append((indices.clone(), gates.detach().clone()))


def _trained(ffns, recomputed, calls, monkeypatch, **options):
    """Loss, gradients, buffers and retrievals of two passes; calls counts forward passes."""
    torch.manual_seed(0)
    config = TransformerConfig(
        d_model=32, d_head=16, vocab_size=40, seq_len=12, tie_head=True, ffns=ffns, **options
    )
    model, heard = config.build().double(), _Heard()
    for layer in model.ffn_layers():
        layer.meter = heard
    for kind in {GQA, *(type(layer) for layer in model.ffn_layers())}:

        def counted(self, *arguments, own=kind.forward, name=kind.__name__):
            calls[name] = calls.get(name, 0) + 1
            return own(self, *arguments)

        monkeypatch.setattr(kind, "forward", counted)
    forward = Recomputed(model).logits if recomputed else model
    for tokens in torch.randint(40, (2, 3, 13)):
        loss = F.cross_entropy(forward(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        for layer in model.ffn_layers():
            extra = layer.auxiliary_loss()
            loss = loss if extra is None else loss + extra
        loss.backward()
    for layer in model.ffn_layers():
        layer.after_step()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return loss.detach(), gradients, dict(model.named_buffers()), heard.heard


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "options", [{}, {"document_end": 3, "attention": GQAConfig(n_kv_heads=1)}], ids=["", "more"]
)
def test_everything_is_that_of_the_model_as_it_is_written(name, options, monkeypatch):
    """To the bit; and what counts, counts once."""
    calls, again = {}, {}
    with monkeypatch.context() as patched:
        loss, gradients, buffers, heard = _trained(LAYERS[name], False, calls, patched, **options)
    with monkeypatch.context() as patched:
        other = _trained(LAYERS[name], True, again, patched, **options)
    assert torch.equal(loss, other[0])
    for found, wanted in ((other[1], gradients), (other[2], buffers)):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], value) for key, value in wanted.items())
    assert len(heard) == len(other[3])
    for mine, its in zip(heard, other[3], strict=True):
        assert all(map(torch.equal, mine, its))
    twice = {"GQA", "Dense"}
    assert again == {kind: (2 if kind in twice else 1) * n for kind, n in calls.items()}


HOOKED = {
    "block": lambda block: block,
    "attention's norm": lambda block: block.attention_norm,
    "a map of attention": lambda block: next(block.attention.children()),
    "the layer's norm": lambda block: block.ffn_norm,
    "a map of the layer": lambda block: next(block.ffn.children()),
}


@pytest.mark.parametrize("where", HOOKED)
def test_what_a_hook_hears_of_runs_once_and_as_it_is_written(where):
    """Masks and tokens reach a whole block too: documents end, and the layer reads ids."""
    torch.manual_seed(0)
    config = TransformerConfig(
        d_model=32, d_head=16, vocab_size=40, seq_len=12, tie_head=True, document_end=3,
        ffns=(DenseConfig(), StemConfig(vocab_size=40), DenseConfig()),
    )  # fmt: skip
    model, heard = config.build().double(), []
    tokens = torch.randint(40, (2, 12))
    tokens[:, 5] = 3
    plain = model(tokens)
    for i in range(len(model.blocks)):
        hooked = HOOKED[where](get_block(model, i))
        hooked.register_forward_hook(lambda *_, i=i: heard.append(i))
    logits = Recomputed(model).logits(tokens)
    assert torch.equal(logits, plain)
    logits.sum().backward()
    assert heard == [0, 1, 2]


def test_a_layer_that_says_nothing_runs_once():
    assert "recomputes" not in vars(type(PEER.build(32)))
    assert not FFN.recomputes
