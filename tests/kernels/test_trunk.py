"""Fused halves of the trunk and its head: values and every gradient, at each level."""

import pytest
import torch

from experiments.kernels import trunk, trunk_passes
from experiments.kernels.build import load
from experiments.kernels.trunk_passes import TrunkKernel
from tests.kernels.trunk_formulas import (
    ACTIVATIONS,
    EPS,
    Rounded,
    attention_case,
    head_case,
    mlp_case,
    off,
    trunk_levels,
)

FLOAT32 = 1e-5  # of the norm of what is compared
# An intermediate result that is 4e-7 off, as float32 has it, is rounded to the other neighbour one
# time in 10,000; that is 2^-8 of an operand, and in the norm of all of them 2^-8 / 100.
ROUNDED = 2e-4
LEVELS = trunk_levels()

pytestmark = pytest.mark.skipif(not LEVELS, reason="no C++ compiler")

MLP = [(1, 16, 16), (97, 64, 171), (200, 48, 192), (5, 96, 256), (48, 32, 1)]
HEAD = [(1, 16, 16), (50, 64, 2048), (97, 48, 1001), (100, 96, 50), (49, 16, 3001)]
ATTENTION = [  # batch, seq, heads, heads of keys and values, their width, documents
    (1, 1, 1, 1, 16, False),
    (2, 7, 3, 1, 16, False),
    (2, 64, 4, 4, 16, False),
    (3, 100, 4, 2, 16, True),
    (1, 49, 2, 2, 48, True),
    (2, 97, 1, 1, 64, False),
    (1, 130, 1, 1, 128, True),
    (1, 257, 1, 1, 96, False),
]


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    """Operators run at this level."""
    return _at(request.param, monkeypatch)


def _at(level, monkeypatch):
    kernel = TrunkKernel(load(), level)
    monkeypatch.setattr(trunk_passes, "load_trunk", lambda: kernel)
    return level


def _cases():
    """A few that have tiles in part, gates, documents and shared keys."""
    return [
        mlp_case(97, 64, 171, "gelu", gated=False),
        mlp_case(200, 48, 192, "silu", gated=True),
        mlp_case(97, 272, 16, "gelu", gated=False),  # where rows take more room than hidden units
        head_case(97, 48, 1001),
        attention_case(3, 100, 4, 2, 16, documents=True),
        attention_case(1, 130, 1, 1, 128),
    ]


@pytest.mark.parametrize("shape", MLP)
def test_mlp_half_is_its_formula(level, shape):
    for activation, gated in (("gelu", False), ("silu", True)):
        case = mlp_case(*shape, activation, gated)
        assert off(case.results(), case.results(double=True)) < FLOAT32


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(level, activation, gated):
    case = mlp_case(30, 32, 100, activation, gated)
    assert off(case.results(), case.results(double=True)) < FLOAT32


@pytest.mark.parametrize("shape", HEAD)
def test_head_is_its_formula(level, shape):
    case = head_case(*shape)
    assert off(case.results(), case.results(double=True)) < FLOAT32


@pytest.mark.parametrize("shape", ATTENTION)
def test_attention_half_is_its_formula(level, shape):
    case = attention_case(*shape)
    assert off(case.results(), case.results(double=True)) < FLOAT32


@pytest.mark.parametrize("i", range(6))
def test_bfloat16_operands_are_rounded_and_nothing_else_is(level, i):
    """As the formula with its products' operands rounded.

    But for attention: its weights are rounded before they are divided by their sum, and the mean of
    a row's gradients is taken from its output. These are the same numbers otherwise rounded.
    """
    case = _cases()[i]
    with torch.autocast("cpu", torch.bfloat16):
        found = case.results()
    assert all(t.dtype == torch.float32 for t in found)
    wanted = case.results(double=True, product=Rounded.apply)
    assert off(found, wanted) < (2**-8 if i > 3 else ROUNDED)
    # An operand is 0.4 * 2^-9 off in the root mean square, and so is a sum of products of it,
    # however long. Eight products follow each other at most, of two operands each: 1.6 * 2^-9;
    # twice that for slopes that amplify it.
    assert 2**-12 < off(found[1:], case.results(double=True)[1:]) < 2**-7


@pytest.mark.parametrize("i", range(6))
def test_levels_agree_on_rounded_operands(i, monkeypatch):
    """Those that multiply bfloat16, and those that round and multiply floats."""
    case, found = _cases()[i], []
    for level in LEVELS:
        _at(level, monkeypatch)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(case.results())
    assert all(off(other, [t.double() for t in found[0]]) < ROUNDED for other in found)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_no_tokens(n_threads):
    torch.set_num_threads(n_threads)
    for case in (mlp_case(0, 32, 64, "gelu", gated=True), attention_case(0, 8, 2, 1, 16)):
        _, *gradients = case.results()
        assert all(not t.any() for t in gradients)
    assert head_case(0, 32, 50).results()[0].isnan()


def test_all_targets_ignored_is_as_torch_has_it():
    x, norm, weight = torch.randn(5, 32), torch.ones(32), torch.randn(50, 32, requires_grad=True)
    targets = torch.full((5,), -100)
    loss, each = trunk.head_losses(x, norm, weight, targets, EPS, 1.0)
    loss.backward()
    assert loss.isnan()
    assert not each.any()
    assert not weight.grad.any()


def test_losses_of_the_head_are_each_targets():
    x, norm, weight = torch.randn(60, 32), torch.rand(32), torch.randn(70, 32)
    targets = torch.randint(0, 70, (60,))
    targets[5] = -100
    loss, each = trunk.head_losses(x, norm, weight, targets, EPS, 2.0)
    logits = 2 * torch.nn.functional.rms_norm(x, (32,), norm, EPS) @ weight.T
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(each, wanted)
    torch.testing.assert_close(loss, wanted.sum() / 59)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bf16", [False, True])
def test_not_a_number_in_weights_is_seen(level, activation, bf16):
    """A run that has diverged must not look well."""
    case = mlp_case(3, 32, 64, activation, gated=False)
    case.inputs[2][5, 7] = torch.nan
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y, _, _, _, w_out = case.results()
    assert y.isnan().all()
    assert w_out[:, 5].isnan().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_does_not_become_so(level, bad):
    for case in (attention_case(1, 20, 2, 2, 16), head_case(20, 32, 50)):
        case.inputs[0].view(-1, 32)[3, 4] = bad
        assert not case.results()[0].isfinite().all()


def test_large_numbers_stay_finite():
    """Sums of squares, e^score and logits of a trunk that is about to diverge."""
    for case in (attention_case(1, 20, 2, 2, 16), head_case(20, 32, 50)):
        for i in (0, -1):
            case.inputs[i].mul_(1e4)
        assert all(t.isfinite().all() for t in case.results())
