"""The fast forms against the obvious ones, in float64 and float32."""

import pytest
import torch

from experiments.kernels import gather, reference

SHAPES = [  # T, J, D, N
    (5, 3, 8, 16),
    (1, 1, 1, 1),
    (33, 24, 17, 50),  # ragged
    (7, 16, 4, 2),  # every row many times
    (64, 8, 32, 1000),  # most rows never
]


def _inputs(shape, dtype):
    n_tokens, n_rows, width, n = shape
    x = torch.randn(n_tokens, width, dtype=dtype)
    table = torch.randn(n, width, dtype=dtype)
    idx = torch.randint(0, n, (n_tokens, n_rows))
    weights = torch.randn(n_tokens, n_rows, dtype=dtype)
    return x, table, idx, weights


def _gradients(function, *inputs):
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
    out = function(*leaves)
    out.backward(torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view_as(out))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.requires_grad)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gather_dot(shape, dtype, tolerance):
    x, table, idx, _ = _inputs(shape, dtype)
    fast = _gradients(gather.gather_dot, x, table, idx)
    slow = _gradients(reference.gather_dot, x.double(), table.double(), idx)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gather_sum(shape, dtype, tolerance):
    _, table, idx, weights = _inputs(shape, dtype)
    fast = _gradients(gather.gather_sum, table, idx, weights)
    slow = _gradients(reference.gather_sum, table.double(), idx, weights.double())
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * 10)


def test_the_form_without_the_private_operator_is_the_same(monkeypatch):
    x, table, idx, _ = _inputs((33, 24, 17, 50), torch.float64)
    with_operator = gather.gather_dot(x, table, idx)
    monkeypatch.setattr(
        torch.ops.aten, "_embedding_bag_per_sample_weights_backward", None, raising=False
    )
    torch.testing.assert_close(gather.gather_dot(x, table, idx), with_operator)


def test_experts_are_sorted_stably_by_either_sort():
    flat = torch.randint(0, 70_000, (5000,))
    expected = torch.argsort(flat, stable=True)
    assert torch.equal(gather._stable_order(flat, 70_000), expected)
    small = flat % 50
    assert torch.equal(gather._stable_order(small, 50), torch.argsort(small, stable=True))


def test_no_tokens():
    x, table, idx, weights = _inputs((0, 4, 8, 16), torch.float32)
    assert gather.gather_dot(x, table, idx).shape == (0, 4)
    assert gather.gather_sum(table, idx, weights).shape == (0, 8)


def test_gradients_are_repeatable_to_the_bit():
    x, table, idx, _ = _inputs((256, 32, 16, 10), torch.float32)
    first = _gradients(gather.gather_dot, x, table, idx)
    for _ in range(3):
        for a, b in zip(first, _gradients(gather.gather_dot, x, table, idx), strict=True):
            assert torch.equal(a, b)
