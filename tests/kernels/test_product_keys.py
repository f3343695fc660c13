"""Retrieval by halves equals a scan over all N product keys."""

import pytest
import torch

from experiments.kernels.product_keys import candidate_pairs, product_key_topk
from experiments.kernels.reference import product_key_topk as scan


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize(
    ("n_sub", "top_k"), [(8, 1), (8, 4), (16, 16), (7, 5), (3, 8), (2, 4), (1, 1), (32, 20)]
)
def test_equals_a_scan_for_random_scores(n_sub, top_k, per_head):
    n_heads, d_key = 3, 10
    queries = torch.randn(50, n_heads, d_key, dtype=torch.float64)
    shape = (2, n_sub, d_key // 2)
    sub_keys = torch.randn((n_heads, *shape) if per_head else shape, dtype=torch.float64)
    scores, indices = product_key_topk(queries, sub_keys, top_k)
    best, where = scan(queries, sub_keys, top_k)
    torch.testing.assert_close(scores, best)
    assert torch.equal(indices, where)


@pytest.mark.parametrize("top_k", [1, 4, 9, 25])
def test_equals_a_scan_for_tied_scores(top_k):
    """Small whole numbers tie everywhere: the scores must agree, and each index have its own."""
    n_sub, d_key = 5, 4
    queries = torch.randint(-1, 2, (100, 2, d_key)).double()
    sub_keys = torch.randint(-1, 2, (2, n_sub, d_key // 2)).double()
    scores, indices = product_key_topk(queries, sub_keys, top_k)
    best, _ = scan(queries, sub_keys, top_k)
    assert torch.equal(scores, best)
    first, second = indices // n_sub, indices % n_sub
    keys = torch.cat([sub_keys[0][first], sub_keys[1][second]], dim=-1)
    assert torch.equal((queries.unsqueeze(2) * keys).sum(-1), scores)
    ordered = indices.sort(dim=-1).values
    assert (ordered.diff(dim=-1) != 0).all(), "an expert was taken twice by one head"


def test_every_expert_can_be_reached():
    """One query a pair, pointing at its two sub-keys, finds exactly that expert."""
    n_sub = 12
    sub_keys = torch.eye(n_sub).expand(2, n_sub, n_sub)
    expert = torch.arange(n_sub**2)
    queries = torch.cat([torch.eye(n_sub)[expert // n_sub], torch.eye(n_sub)[expert % n_sub]], -1)
    _, indices = product_key_topk(queries.unsqueeze(1), sub_keys, 1)
    assert torch.equal(indices.flatten(), expert)


def test_sub_keys_and_queries_get_the_gradients_of_the_scan():
    leaves = []
    for search in (product_key_topk, scan):
        torch.manual_seed(1)
        queries = torch.randn(20, 2, 8, dtype=torch.float64, requires_grad=True)
        sub_keys = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
        scores, _ = search(queries, sub_keys, 5)
        scores.softmax(-1).square().sum().backward()
        leaves.append((queries.grad, sub_keys.grad))
    for fast, slow in zip(*leaves, strict=True):
        torch.testing.assert_close(fast, slow)
        assert fast.abs().sum() > 0


def test_candidates_are_few_and_enough():
    left, right = candidate_pairs(16, 1024)
    assert len(left) == 50
    assert all((i + 1) * (j + 1) <= 16 for i, j in zip(left, right, strict=True))
    for n_sub in range(1, 9):
        for top_k in range(1, n_sub**2 + 1):
            assert len(candidate_pairs(top_k, n_sub)[0]) >= top_k
