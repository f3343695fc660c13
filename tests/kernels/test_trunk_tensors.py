"""Tensors that the trunk's operators take, refuse and keep."""

import pytest
import torch

from experiments.kernels import trunk
from experiments.kernels.trunk_passes import TrunkKernel, load_trunk
from tests.kernels.trunk_formulas import (
    EPS,
    Norm,
    attention_case,
    gradient_of,
    head_case,
    mlp_case,
    trunk_levels,
)

pytestmark = pytest.mark.skipif(not trunk_levels(), reason="no C++ compiler")

CASES = [
    lambda: mlp_case(20, 32, 40, "gelu", gated=True),
    lambda: attention_case(2, 10, 2, 1, 16),
    lambda: head_case(20, 32, 50),
]


def _views(tensor):
    """Same numbers in other places: transposed, every second, of one row."""
    yield tensor.mT.contiguous().mT
    yield torch.stack([tensor, tensor], -1)[..., 0]
    wide = torch.cat([tensor, tensor], -1)
    yield wide[..., : tensor.shape[-1]]


@pytest.mark.parametrize("make", CASES)
def test_any_strides_are_right(make):
    case = make()
    wanted = case.results()
    for i, tensor in enumerate(case.inputs):
        if tensor is None or tensor.dim() < 2:
            continue
        for view in _views(tensor):
            inputs = case.leaves()
            leaf = inputs[i] = view.detach().requires_grad_()
            y = case.fused(*inputs)
            y.backward(gradient_of(y))
            assert torch.equal(y, wanted[0])
            assert torch.equal(leaf.grad, wanted[1 + i])


@pytest.mark.parametrize("make", CASES)
def test_gradients_that_are_not_asked_for_are_not_made(make):
    """And those that are do not depend on it."""
    case = make()
    wanted = case.results()[1:]
    names = [i for i, t in enumerate(case.inputs) if t is not None]
    for alone in names:
        leaves = case.leaves({*names} - {alone})
        y = case.fused(*leaves)
        y.backward(gradient_of(y))
        assert torch.equal(leaves[alone].grad, wanted[names.index(alone)])
        assert all(t is None or t.grad is None for i, t in enumerate(leaves) if i != alone)


def test_without_gradients_the_head_makes_none(monkeypatch):
    given = []
    call = TrunkKernel.call

    def spy(self, name, tensors, *rest):
        given.append(tensors)
        call(self, name, tensors, *rest)

    monkeypatch.setattr(TrunkKernel, "call", spy)
    case = head_case(20, 32, 50)
    leaves = case.leaves()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            loss = case.fused(*leaves)
        assert given[-1][6:] == (None, None, None)
        assert torch.equal(loss, case.results()[0])


@pytest.mark.parametrize("make", CASES)
def test_a_second_derivative_is_refused(make):
    case = make()
    leaves = case.leaves()
    y = case.fused(*leaves).sum()
    with pytest.raises(RuntimeError, match="has no second derivative"):
        torch.autograd.grad(y, leaves[0], create_graph=True)


def test_a_second_backward_pass():
    """A half-block adds up its gradients, as torch does; the head refuses, and says why."""
    case = mlp_case(20, 32, 40, "gelu", gated=True)
    leaves = case.leaves()
    y = case.fused(*leaves).sum()
    y.backward(retain_graph=True)
    once = [t.grad.clone() for t in leaves]
    y.backward()
    assert all(torch.equal(t.grad, 2 * g) for t, g in zip(leaves, once, strict=True))
    case = head_case(20, 32, 50)
    leaves = case.leaves()
    loss = case.fused(*leaves)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="serve one backward pass: compute the losses again"):
        loss.backward()


def test_a_weight_that_changed_before_the_backward_pass_is_refused():
    case = mlp_case(20, 32, 40, "gelu", gated=False)
    leaves = case.leaves()
    y = case.fused(*leaves).sum()
    with torch.no_grad():
        leaves[2].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_the_losses_gradient_is_scaled():
    case = head_case(20, 32, 50)
    found = []
    for times in (1.0, 0.25):
        leaves = case.leaves()
        (times * case.fused(*leaves)).backward()
        found.append([t.grad for t in leaves])
    assert all(torch.equal(0.25 * a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("target", [-1, 50, -(2**62)])
def test_a_target_outside_the_vocabulary_is_refused(target):
    x, norm, weight = torch.randn(5, 32), torch.ones(32), torch.randn(50, 32)
    targets = torch.tensor([0, 1, target, 49, -100])
    with pytest.raises(IndexError, match="outside the vocabulary of 50 entries"):
        trunk.head_losses(x, norm, weight, targets, EPS, 1.0)


X, NORM, WEIGHT = torch.randn(5, 32), torch.ones(32), torch.randn(50, 32)
TARGETS = torch.arange(5)


def head(x=X, norm=NORM, weight=WEIGHT, targets=TARGETS):
    trunk.head_losses(x, norm, weight, targets, EPS, 1.0)


def mlp(x=X, w_in=WEIGHT, w_gate=None, w_out=WEIGHT.mT):
    trunk.mlp_half(x, Norm(NORM), (w_in, w_gate, w_out), "gelu", 1.0)


def attention(first=None, seq=5, n_rows=96, **changed):
    shape = {"n_heads": 2, "n_kv_heads": 2, "d_head": 16, "eps": EPS, "scale": 1.0, "times": 1.0}
    tensors = (X[None], NORM, torch.randn(n_rows, 32), torch.randn(32, 32))
    angles = (torch.ones(seq, 8), torch.ones(seq, 8))
    how = trunk.AttentionShape(**{**shape, **changed})
    trunk.attention_half(*tensors, angles, first, how)


@pytest.mark.parametrize(
    ("operator", "wrong", "error", "words"),
    [
        (head, {"targets": TARGETS.int()}, TypeError, "targets is torch.int32 on cpu, not"),
        (head, {"targets": TARGETS[1:]}, ValueError, r"targets is \(4,\), not \(5,\)"),
        (head, {"x": X.bfloat16()}, TypeError, "x is torch.bfloat16"),
        (head, {"weight": WEIGHT.double()}, TypeError, "weight is torch.float64"),
        (head, {"norm": NORM[1:]}, ValueError, "norm is"),
        (head, {"x": X[:, :24]}, ValueError, "24 is no multiple of 16"),
        (head, {"x": X.to("meta")}, TypeError, "x is torch.float32 on meta"),
        (mlp, {"w_in": WEIGHT[:, :16]}, ValueError, r"w_in is \(50, 16\)"),
        (mlp, {"w_gate": WEIGHT[1:]}, ValueError, r"w_gate is \(49, 32\)"),
        (mlp, {"w_out": WEIGHT}, ValueError, r"w_out is \(50, 32\), not \(32, 50\)"),
        (attention, {"n_rows": 80}, ValueError, r"w_qkv is \(80, 32\)"),
        (attention, {"seq": 4}, ValueError, r"cos is \(4, 8\)"),
        (attention, {"n_heads": 4, "n_kv_heads": 1}, ValueError, r"5, 32\), not \(1, 5, 64\)"),
        (attention, {"d_head": 8, "n_heads": 4}, ValueError, "d_head is a multiple of 16"),
        (attention, {"n_kv_heads": 3}, ValueError, "kv heads divide heads"),
        (attention, {"first": torch.zeros(1, 5).long()}, TypeError, "first is torch.int64"),
    ],
)
def test_other_tensors_are_refused_by_name(operator, wrong, error, words):
    operator()
    with pytest.raises(error, match=words):
        operator(**wrong)


def test_first_positions_outside_a_sequence_are_those_nearest():
    """So that none of them reads what is another's."""
    case = attention_case(1, 60, 2, 1, 16)
    x, norm, w_qkv, w_out = case.inputs
    shape = trunk.AttentionShape(n_heads=2, n_kv_heads=1, d_head=16, eps=EPS, scale=0.25, times=1.0)
    angles = (torch.ones(60, 8), torch.zeros(60, 8))

    def run(first):
        return trunk.attention_half(x, norm, w_qkv, w_out, angles, first, shape)

    at = torch.arange(60, dtype=torch.int32)[None]
    assert torch.equal(run(torch.full_like(at, -(2**31))), run(None))
    assert torch.equal(run(torch.full_like(at, 2**31 - 1)), run(at))


def test_memory_of_a_large_vocabulary_is_that_of_its_weights():
    """50,257 entries: packed both ways, their gradient, and a few tiles; not (T, V) logits."""
    kernel = load_trunk()
    case = head_case(2000, 16, 50257)
    case.results()
    (n_bytes,) = {
        n for key, n in kernel._rooms.items() if key[0] == "head" and key[2] == (2000, 16, 50257)
    }
    tile = 48 * 50304 * 4
    weights = 50304 * 16 * 4
    assert n_bytes < 2 * weights + 2 * 3.1 * tile < 2000 * 50257 * 4 / 5
