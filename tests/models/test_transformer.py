import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.config.reading import build
from experiments.models.blocks import assign_ffns
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.positions.positions import rotate
from experiments.models.positions.rope import RoPE
from experiments.models.transformer import TransformerConfig
from tests.rounding import assert_rounding

SMALL_PEER = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)


def config(ffn=SMALL_PEER, blocks="middle", n_layers=3, **options):
    defaults = {"d_model": 32, "d_head": 16, "vocab_size": 50, "seq_len": 16, "tie_head": False}
    ffns = assign_ffns(ffn, DenseConfig(), blocks, n_layers)
    return TransformerConfig(**{**defaults, **options, "ffns": ffns})


@pytest.mark.parametrize("name", ["dense", "moe", "moe_fine", "none", "peer", "pkm"])
@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize("blocks", ["middle", "all", [0, 2]])
def test_parameters_are_counted_exactly(name, tie_head, blocks, compose_raw):
    ffn = build(compose_raw(f"model={name}")["model"], "model")
    cfg = config(ffn, blocks, tie_head=tie_head)
    model, cost = cfg.build(), cfg.cost()
    assert cost.n_params == sum(p.numel() for p in model.parameters())
    vocabulary = (1 if tie_head else 2) * 50 * 32
    assert cost.n_non_embedding_params == cost.n_params - vocabulary


def test_flops_are_those_that_torch_counts():
    """With attention in plain products, torch counts all seq_len positions; we, the causal half."""
    cfg = config(DenseConfig())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        cfg.build()(torch.randint(0, 50, (2, 16)))
    seen = sum(t.flops for t in cfg.cost().terms if t.seen_by_torch)
    whole_context = 3 * 4 * 32 * 16
    assert counter.get_total_flops() == 2 * 16 * (seen + whole_context)
    causal = next(t.flops for t in cfg.cost().terms if t.name == "attention.context")
    assert causal == whole_context * (16 + 1) / 2 / 16


@pytest.mark.parametrize("ffn", [DenseConfig(), NoneConfig(), SMALL_PEER])
def test_no_gradient_from_the_future(ffn):
    model = config(ffn).build().eval()
    tokens = torch.randint(0, 50, (1, 16))
    x = model.embedding(tokens).detach().requires_grad_()
    y = x
    for block in model.blocks:
        y = block(y, model.seen(tokens))
    y[:, :8].square().sum().backward()
    assert x.grad[:, 8:].abs().max() == 0
    assert x.grad[:, 7].abs().max() > 0


def test_middle_is_the_papers_block():
    """He 2024 §3.1: of 12 blocks the sixth, index 5."""
    ffns = assign_ffns(SMALL_PEER, DenseConfig(), "middle", 12)
    assert [i for i, ffn in enumerate(ffns) if ffn == SMALL_PEER] == [5]
    assert assign_ffns(SMALL_PEER, DenseConfig(), "middle", 1) == (SMALL_PEER,)


def test_placements():
    assert assign_ffns(SMALL_PEER, NoneConfig(), "all", 2) == (SMALL_PEER,) * 2
    assert assign_ffns(SMALL_PEER, NoneConfig(), [1], 2) == (NoneConfig(), SMALL_PEER)
    for bad in ("top", [2], [-1], []):
        with pytest.raises(ValueError, match=r"trunk\.ffn_blocks="):
            assign_ffns(SMALL_PEER, NoneConfig(), bad, 2)


def test_rotary_scores_depend_on_the_distance_alone():
    angles = RoPE().angles(torch.arange(10), 8)
    cos, sin = angles.cos(), angles.sin()
    q, k = torch.randn(8), torch.randn(8)
    at = lambda v, i: rotate(v, cos[i], sin[i])  # noqa: E731
    torch.testing.assert_close(at(q, 5) @ at(k, 3), at(q, 9) @ at(k, 7))
    assert not torch.allclose(at(q, 5) @ at(k, 3), at(q, 5) @ at(k, 4))


def test_a_tied_head_is_the_embedding():
    model = config(tie_head=True).build()
    assert model.head.weight is model.embedding.weight


def test_a_peer_model_overfits_one_batch():
    model = config(blocks="all", n_layers=2).build()
    tokens = torch.randint(0, 50, (4, 17))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_refuses_widths_that_heads_do_not_divide():
    with pytest.raises(ValueError, match="d_model=40 must be a multiple of d_head=16"):
        config(d_model=40)
    with pytest.raises(ValueError, match="d_head=5 must be even"):
        config(d_head=5, d_model=40)


def test_masked_documents_see_nothing_of_each_other():
    """By gradient: a logit depends on the positions of its own document up to itself, and on no
    other; the end-of-text id belongs to the document that it ends.
    """
    model = config(document_end=0).build().double().eval()
    tokens = torch.tensor([[5, 6, 0, 7, 0, 0, 8, 9, 10]])
    documents = [0, 0, 0, 1, 1, 2, 3, 3, 3]
    for i in range(9):
        embedded = model.embedding(tokens).detach().requires_grad_()
        x = embedded
        for block in model.blocks:
            x = block(x, model.seen(tokens))
        model.head(model.norm(x))[0, i].sum().backward()
        seen = [bool(g.abs().max() > 0) for g in embedded.grad[0]]
        assert seen == [j <= i and documents[j] == documents[i] for j in range(9)]


def test_masking_is_the_same_as_reading_each_document_alone():
    torch.manual_seed(0)
    masked = config(document_end=0).build().double().eval()
    plain = config().build().double().eval()
    plain.load_state_dict(masked.state_dict())
    first, second = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[8, 9, 10, 11, 0]])
    together = masked(torch.cat([first, second], dim=1))
    apart = torch.cat([plain(first), plain(second)], dim=1)
    # rotary angles are float32, and those of the second document start elsewhere
    assert_rounding(together, apart, n_blocks=2, each=8)
