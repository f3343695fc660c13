"""STEM against its equation written out, and through the commands."""

import pytest
import torch
import torch.nn.functional as F

from experiments.kernels.ops import Execution
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.transformer import TransformerConfig
from experiments.points.planning import make_point
from tests.conftest import TINY
from tests.models.ffn.lives import (
    assert_a_broken_run_goes_on_to_the_bit,
    assert_text_goes_on_as_without_a_cache,
    by_the_command,
    child_of,
    exported_as_it_is,
)
from tests.models.ffn.reference import assert_as_by_reference, assert_same, tokens_of

D, VOCABULARY = 12, 9


def made(**options):
    return StemConfig(**{"vocab_size": VOCABULARY, "width_factor": 1.5, **options}).build(D)


def written_out(layer, x, ids):
    """arXiv:2601.10639: y = W_down (silu(W_gate x) * E[token]), a token at a time."""
    act = {"silu": lambda z: z / (1 + (-z).exp()), "relu": lambda z: z.clamp(min=0)}
    out = []
    for token, i in zip(x.flatten(0, 1), ids.flatten().tolist(), strict=True):
        gate = act[layer.config.activation](layer.w_gate.weight @ token)
        out.append(layer.w_out.weight @ (gate * layer.values[i]))
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"width_factor": 4.0}])
def test_output_and_gradients_are_those_written_out(options):
    layer, x = made(**options).double(), torch.randn(2, 5, D, dtype=torch.float64)
    ids = torch.randint(0, VOCABULARY, (2, 5))

    class Told(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return layer(x, tokens_of(ids))

    assert_same(Told(), lambda x: written_out(layer, x, ids), x)


@pytest.mark.parametrize("gradient", ["dense", "rows"])
@pytest.mark.parametrize("kernel", ["torch", "auto"])
def test_kernels_and_gradients_of_rows_are_the_references(kernel, gradient):
    ids = tokens_of(torch.randint(0, VOCABULARY, (2, 9)))
    for dtype in ("float32", "bfloat16"):
        layer, x = made(table_dtype=dtype), torch.randn(2, 9, D)
        how = Execution(kernel=kernel, gradient=gradient)
        assert_as_by_reference(layer, how, x, ids)


def test_rows_start_by_xaviers_rule():
    """As torch's xavier_normal_ of (vocabulary, d_ff), which counts both."""
    layer = StemConfig(vocab_size=3000, width_factor=8 / 3, value_init="xavier").build(30)
    assert layer.values.shape == (3000, 80)
    assert float(layer.values.detach().std()) == pytest.approx((2 / 3080) ** 0.5, rel=0.01)


def test_costs_by_hand():
    """d=1024, 4096 hidden units, 32,000 ids."""
    cost = StemConfig(vocab_size=32_000).cost(1024)
    assert cost.n_params == 2 * 1024 * 4096 + 32_000 * 4096
    assert cost.n_active_params == 2 * 1024 * 4096 + 4096
    assert cost.forward_flops == 4 * 1024 * 4096 + 2 * 4096
    assert [made(width_factor=2.6667).config.d_ff(d) for d in (1024, 1023)] == [2731, 2728]


@torch.no_grad()
def test_a_token_reads_its_own_row_alone():
    layer, x = made(), torch.randn(1, 4, D)
    y = layer(x, tokens_of(torch.tensor([[1, 2, 1, 3]])))
    layer.values[1] += 1
    changed = layer(x, tokens_of(torch.tensor([[1, 2, 1, 3]]))) != y
    assert changed.any(-1).tolist() == [[True, False, True, False]]


def test_it_learns_what_follows_a_token_by_its_row_alone():
    """Each token says the next one; rows are trained, and all else is as it was."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_head": 8, "vocab_size": 16, "seq_len": 32, "tie_head": False}
    model = TransformerConfig(**sizes, ffns=(StemConfig(vocab_size=16), DenseConfig())).build()
    model.requires_grad_(False)
    values = model.blocks[0].ffn.values.requires_grad_()
    optimizer = torch.optim.Adam([values], lr=0.1)
    tokens, losses = torch.arange(16)[:, None], []
    follows = torch.randperm(16)
    for _ in range(60):
        loss = F.cross_entropy(model(tokens)[:, 0], follows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be at least 1"),
        ({"width_factor": 0.0}, "width_factor=0 must be above 0"),
        ({"activation": "tanh"}, "activation='tanh' is not one of"),
        ({"value_init": "ones"}, "value_init='ones' is not one of"),
        ({"table_dtype": "int8"}, "table_dtype='int8' is not one of"),
    ],
)
def test_refuses_what_it_cannot_be(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        made(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("model.vocab_size=200",),
            "model.vocab_size=200, a row for each id, and the",
        ),
        (("trainer.trunk=fused",), "Stem has no fused form"),
        (("n_experts=64",), "n_experts=64"),
    ],
)
def test_a_run_that_can_not_be_is_one_line_before_compute(compose_raw, words, line):
    with pytest.raises(ValueError, match=line) as refusal:
        make_point(compose_raw("model=stem", "budget=2e9", "size=2", *TINY, *words))
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("hub_modules")
def test_a_run_learns_goes_on_leaves_and_starts_beside_another(
    run, compose_raw, tmp_path, monkeypatch
):
    layer = ("model=stem", "data.mask_documents=true")
    run_dir, before = by_the_command(run, tmp_path, *layer)
    assert 0 < before.usage <= 1  # of the rows, in the validation's text
    assert_text_goes_on_as_without_a_cache(run_dir)

    theirs = exported_as_it_is(run_dir, tmp_path, monkeypatch)
    tokens = torch.arange(4, 24)[None]
    how = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached, plain = (theirs.generate(tokens, use_cache=use, **how) for use in (True, False))
    assert torch.equal(cached, plain)

    way = ("trunk.ffn_blocks=[1]", "init.how=beside", "init.train=tables")
    beside = child_of(compose_raw, run_dir, *layer, *way)
    assert beside.init["exact"] is True
    assert beside.before["validation"]["loss"] == before.val_loss
    assert beside.val_loss < before.val_loss


def test_a_broken_run_goes_on_to_the_bit(compose_raw, tmp_path):
    fixed = ("budget=1e9", "model=stem", "data.mask_documents=true", "optim.table_gradient=rows")
    assert_a_broken_run_goes_on_to_the_bit(compose_raw, tmp_path, *fixed)
