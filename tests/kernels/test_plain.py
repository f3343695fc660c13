"""Kernels that exports have, held to the obvious forms: values and gradients."""

import pytest
import torch

from experiments.kernels import plain, reference
from experiments.kernels.grouped import grouped_matmul
from tests.kernels.implementations import assert_close, gradients


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("block", [2**24, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gathers(dtype, block, monkeypatch):
    monkeypatch.setattr(plain, "_BLOCK", block)  # the second: of one or two tokens
    table, idx = torch.randn(11, 6, dtype=dtype), torch.randint(11, (5, 3))
    wide = torch.promote_types(dtype, torch.float32)
    x, weights = torch.randn(5, 6, dtype=wide), torch.randn(5, 3, dtype=wide)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6  # that of the table's gradient
    fast = gradients(plain.gather_dot, x, table, idx)
    slow = gradients(lambda x, t, i: reference.gather_dot(x, t.to(wide), i), x, table, idx)
    assert_close(fast, slow, tolerance)
    fast = gradients(plain.gather_sum, table, idx, weights)
    slow = gradients(lambda t, i, w: reference.gather_sum(t.to(wide), i, w), table, idx, weights)
    assert_close(fast, slow, tolerance)


@pytest.mark.parametrize("sets", [(2, 7), (3, 2, 7), (11,), (3, 11)])
def test_search(sets):
    queries, sub_keys = torch.randn(5, 3, 8), torch.randn(*sets, 4)
    n_first = 4 if sets[-1] == 11 else None
    searches = [
        lambda q, k, s=search: s(q, k, 6, n_first=n_first)
        for search in (plain.product_key_topk, reference.product_key_topk)
    ]
    (_, own), (_, obvious) = (search(queries, sub_keys) for search in searches)
    assert torch.equal(own, obvious)
    fast, slow = (gradients(lambda q, k, s=s: s(q, k)[0], queries, sub_keys) for s in searches)
    assert_close(fast, slow, 1e-6)


def test_experts_matrices():
    x, weights, ends = torch.randn(9, 4), torch.randn(3, 4, 5), torch.tensor([4, 4, 9])
    fast = gradients(lambda a, b: plain.grouped_matmul(a, b, ends), x, weights)
    assert_close(fast, gradients(lambda a, b: grouped_matmul(a, b, ends), x, weights), 1e-6)


def test_nothing_to_gather():
    table, none = torch.randn(4, 3), torch.zeros(0, 2, dtype=torch.int64)
    assert plain.gather_dot(torch.zeros(0, 3), table, none).shape == (0, 2)
    assert plain.gather_sum(table, none, torch.zeros(0, 2)).shape == (0, 3)
