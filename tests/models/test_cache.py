"""A model that keeps keys and values gives the logits that it gives without."""

import pytest
import torch

from experiments.models.attention.gqa import GQAConfig
from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.engram import Engram, EngramConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.positions.alibi import ALiBi
from experiments.models.positions.nope import NoPE
from experiments.models.positions.rope import RoPE
from experiments.models.transformer import TransformerConfig
from tests.rounding import assert_rounding

KEYS = {"n_experts": 64, "n_heads": 2, "top_k": 4, "d_key": 8}
LAYERS = {
    "dense": DenseConfig(),
    "none": NoneConfig(),
    "moe_fine": MoEConfig(n_experts=8, routing="token_choice", top_k=2, granularity=4),
    "pkm": PKMConfig(**KEYS),
    "peer": PEERConfig(**KEYS),
    "beside": BesideConfig(frozen=DenseConfig(glu=True), trained=PEERConfig(**KEYS)),
    "stem": StemConfig(vocab_size=11),
    "engram": EngramConfig(n_experts=60, n_hashes=2, d_row=8, max_order=4),
    "engram, beside": BesideConfig(
        frozen=EngramConfig(n_experts=8, n_hashes=1, d_row=8),
        trained=EngramConfig(n_experts=60, n_hashes=2, d_row=8, kernel_size=3, dilation=4),
    ),
    "stem, beside": BesideConfig(frozen=DenseConfig(), trained=StemConfig(vocab_size=11)),
}
END = 3


def build(name, dtype=torch.float64, **options):
    sizes = {"d_model": 32, "d_head": 8, "vocab_size": 11, "seq_len": 24, "tie_head": False}
    config = TransformerConfig(**sizes, ffns=(LAYERS[name], DenseConfig()), **options)
    model = config.build().to(dtype).eval()
    for layer in model.ffn_layers():
        if isinstance(layer, Engram):  # whose convolution starts at zero
            torch.nn.init.normal_(layer.convolution)
    return model


def in_parts(model, tokens, sizes):
    """Logits of (batch, seq) tokens that are read in parts of these sizes."""
    cache = model.new_cache()
    parts = [model(part, cache) for part in tokens.split(sizes, dim=1)]
    assert cache.length == tokens.shape[1]
    return torch.cat(parts, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("end", [None, END])
def test_the_logits_are_those_without_a_cache(name, end):
    model = build(name, document_end=end)
    tokens = torch.randint(0, 11, (3, 24))  # a document of 11 tokens in the mean
    whole = model(tokens)
    for sizes in ([24], [1] * 24, [7, 1, 1, 5, 10], [2, 22]):
        torch.testing.assert_close(in_parts(model, tokens, sizes), whole, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"attention": GQAConfig(n_kv_heads=2)},
        {"attention": GQAConfig(n_kv_heads=1), "positions": RoPE(base=1e5)},
        {"attention": GQAConfig(n_kv_heads=2), "positions": ALiBi()},
        {"positions": NoPE()},
    ],
)
def test_grouped_heads_and_float32(options):
    model = build("peer", torch.float32, document_end=END, **options)
    tokens = torch.randint(0, 11, (2, 24))
    whole = model(tokens)
    for sizes in ([1] * 24, [5, 1, 18]):
        assert_rounding(in_parts(model, tokens, sizes), whole, n_blocks=2)


@torch.no_grad()
def test_masks_matter():
    """The test above would pass on masks that are never needed."""
    masked, free = build("dense", document_end=END), build("dense")
    free.load_state_dict(masked.state_dict())
    tokens = torch.tensor([[1, 2, END, 4, 5]])
    one_by_one = [1] * 5
    with_mask, without = (in_parts(m, tokens, one_by_one) for m in (masked, free))
    torch.testing.assert_close(with_mask[:, :3], without[:, :3])
    assert (with_mask[:, 3:] - without[:, 3:]).abs().max() > 1e-3
    # the second document alone: positions are relative
    assert_rounding(with_mask[:, 3:], masked(tokens[:, 3:]), n_blocks=2, each=8)


def test_what_is_not_causal_has_no_cache():
    config = TransformerConfig(
        d_model=16, d_head=8, vocab_size=11, seq_len=8, tie_head=False,
        ffns=(DenseConfig(), MoEConfig(n_experts=4)),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"compares a token with later ones.*token choice"):
        config.build().eval().new_cache()
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        build("dense").train().new_cache()
