"""Layers that look at ids: they are handed them by a trunk, and refuse a call without."""

import pytest
import torch
from torch import nn

from experiments.budget.costs import Cost, Term
from experiments.models.cache import Cache
from experiments.models.documents import seen_before
from experiments.models.ffn._base import FFN
from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.fused import Fused
from experiments.models.tokens import check_vocabulary, given
from experiments.models.transformer import TransformerConfig
from tests.models.ffn.reference import tokens_of

END = 3
SIZES = {"d_model": 32, "d_head": 16, "vocab_size": 11, "seq_len": 24, "tie_head": False}


class Listening(FFN):
    """y = 0 x; notes what it is handed: ids, numbers before, and the ids of three tokens before."""

    reads_tokens = True

    def __init__(self, d_model):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(d_model))
        self.seen = []

    def forward(self, x, tokens=None):
        tokens = given(tokens, self)
        looked = tokens.after(tokens.ids[..., None], 3)[..., 0]
        self.seen.append((tokens.ids, tokens.n_before, looked))
        return x * self.scale


class ListeningConfig:
    def cost(self, d_model):
        return Cost((Term(name="listening", n_params=d_model),))

    def build(self, d_model):
        return Listening(d_model)


def trunk(*ffns, **options):
    return TransformerConfig(**SIZES, ffns=ffns, **options).build()


def before_by_hand(ids, end):
    """How many tokens of its own document are before each, one at a time."""
    found = torch.zeros_like(ids)
    for text, numbers in zip(ids, found, strict=True):
        n = 0
        for i, token in enumerate(text.tolist()):
            numbers[i] = n
            n = 0 if token == end else n + 1
    return found


@pytest.mark.parametrize("end", [None, END])
def test_tokens_before_are_counted_in_a_token_s_own_document(end):
    ids = torch.randint(0, 6, (5, 40))
    whole = before_by_hand(ids, end)
    assert torch.equal(seen_before(ids, end), whole)
    for sizes in ([1] * 40, [7, 1, 20, 12]):
        cache = Cache(1)
        parts = [cache.tokens(part, end).n_before for part in ids.split(sizes, dim=1)]
        assert torch.equal(torch.cat(parts, dim=1), whole)


@torch.no_grad()
@pytest.mark.parametrize("how", ["model", "fused", "beside"])
def test_every_way_through_a_trunk_hands_the_tokens_on(how):
    config = ListeningConfig()
    if how == "beside":
        config = BesideConfig(frozen=DenseConfig(), trained=config)
    model = trunk(config, DenseConfig(), document_end=END)
    ids = torch.randint(0, 11, (2, 24))
    (model if how == "model" else Fused(model).logits)(ids)
    listening = list(model.blocks[0].ffn.layers())[-1]
    (seen,) = listening.seen
    assert torch.equal(seen[0], ids)
    assert torch.equal(seen[1], before_by_hand(ids, END))
    assert torch.equal(seen[2], torch.cat([torch.zeros(2, 3).long(), ids], dim=1))


@torch.no_grad()
def test_a_text_read_in_parts_finds_what_was_before_of_each_layer():
    model = trunk(ListeningConfig(), ListeningConfig()).eval()
    ids, cache = torch.randint(0, 11, (2, 24)), model.new_cache()
    for part in ids.split([1, 1, 5, 1, 16], dim=1):
        model(part, cache)
    padded = torch.cat([torch.zeros(2, 3).long(), ids], dim=1)
    for block in model.blocks:
        start = 0
        for own, _, looked in block.ffn.seen:
            end = start + own.shape[1]
            assert torch.equal(looked, padded[:, start : end + 3])
            start = end


def test_layers_that_do_not_declare_it_are_called_as_ever():
    model = trunk(DenseConfig(), DenseConfig())
    calls = []
    model.blocks[0].ffn.register_forward_pre_hook(lambda _, args: calls.append(len(args)))
    ids = torch.randint(0, 11, (1, 4))
    model(ids)
    assert calls == [1]
    assert model.handed(ids) is None


def test_a_layer_without_its_tokens_says_which_it_is_and_how_to_call_it():
    x = torch.zeros(1, 4, 32)
    beside = BesideConfig(frozen=DenseConfig(), trained=StemConfig(vocab_size=11))
    for layer in (StemConfig(vocab_size=11).build(32), beside.build(32)):
        line = (
            r"^Stem looks at the ids of its tokens, and was called without them; call it as layer"
        )
        with pytest.raises(ValueError, match=line):
            layer(x)
        assert layer(x, tokens_of(torch.zeros(1, 4).long())).shape == x.shape


def test_rows_for_other_ids_than_the_model_has_are_refused():
    stem = StemConfig(vocab_size=10)
    line = "model.vocab_size=10, a row for each id, and the tokenizer of the model has 11 entries"
    for config in (stem, BesideConfig(frozen=DenseConfig(), trained=stem)):
        with pytest.raises(ValueError, match=line):
            trunk(config)
    check_vocabulary([StemConfig(vocab_size=12)], 11, exactly=False)
    with pytest.raises(ValueError, match=r"set model\.vocab_size=11"):
        check_vocabulary([StemConfig(vocab_size=12)], 11, exactly=True)
