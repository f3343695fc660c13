"""Retrieval by halves equals a scan over all N product keys."""

import functools
import itertools

import pytest
import torch

from experiments.kernels.ops import product_key_topk
from experiments.kernels.product_keys import candidate_pairs
from experiments.kernels.reference import product_key_topk as scan
from experiments.kernels.torch_kernels import top_of_rows
from tests.kernels.implementations import KERNELS, Given, assert_close

SIZES = [  # n_sub, top_k, d_key
    (8, 1, 10), (8, 4, 10), (16, 16, 32), (7, 5, 10), (3, 8, 6), (2, 4, 4), (1, 1, 2),
    (32, 20, 16), (128, 16, 16), (300, 20, 32), (520, 16, 66), (200, 32, 128), (300, 70, 8),
    (300, 1, 64), (300, 280, 8),
]  # fmt: skip


@pytest.fixture(params=KERNELS)
def execution(request):
    return Given(given=request.param)


def _random(n_sub, d_key, per_head, n_tokens=50, n_heads=3):
    shape = (2, n_sub, d_key // 2)
    keys = torch.randn((n_heads, *shape) if per_head else shape)
    return torch.randn(n_tokens, n_heads, d_key), keys


SCANNED = [0, 1, 46, 47, 48, 49]  # tokens at both sides of a tile, where all would take long


@functools.cache
def _scanned(n_sub, top_k, d_key, per_head):
    """Random queries and sub-keys; tokens, and their scan in float64: the same for all kernels."""
    torch.manual_seed(0)
    queries, sub_keys = _random(n_sub, d_key, per_head)
    tokens = list(range(50)) if n_sub <= 128 else SCANNED
    return queries, sub_keys, tokens, *scan(queries[tokens].double(), sub_keys.double(), top_k)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize(("n_sub", "top_k", "d_key"), SIZES)
def test_equals_a_scan_for_random_scores(execution, n_sub, top_k, d_key, per_head):
    queries, sub_keys, tokens, best, where = _scanned(n_sub, top_k, d_key, per_head)
    scores, indices = product_key_topk(queries, sub_keys, top_k, execution)
    assert (indices.sort(-1).values.diff(dim=-1) != 0).all(), "an expert twice for one head"
    scores, indices = scores[tokens], indices[tokens]
    assert_close([scores], [best], 1e-5)
    # float32 may order what differs by less than its rounding otherwise than float64
    gap = 1e-5 * best.abs().max()
    differs = indices != where
    assert ((best - scores).abs()[differs] < gap).all()
    assert differs.double().mean() < 0.001


def test_sub_keys_of_16_bits_are_read_as_what_they_are(execution):
    """Of a model that was made bfloat16 as a whole; the kernels take queries and keys alike."""
    queries, sub_keys = (t.bfloat16() for t in _random(16, 32, per_head=False))
    sub_keys.requires_grad_()
    scores, _ = product_key_topk(queries, sub_keys, 8, execution)
    scores.sum().backward()
    slow = sub_keys.detach().double().requires_grad_()
    best, _ = scan(queries.double(), slow, 8)
    best.sum().backward()
    assert_close([scores.detach()], [best.detach()], 1e-5)
    assert sub_keys.grad.dtype == torch.bfloat16
    assert_close([sub_keys.grad], [slow.grad], 2**-8)  # rounded to 8 bits


@functools.cache
def _tied(n_sub, top_k):
    """Queries and sub-keys of small whole numbers, and the best scores."""
    torch.manual_seed(0)
    queries = torch.randint(-1, 2, (50, 2, 4)).float()
    sub_keys = torch.randint(-1, 2, (2, n_sub, 2)).float()
    return queries, sub_keys, scan(queries, sub_keys, top_k)[0]


@pytest.mark.parametrize("top_k", [1, 4, 9, 25])
@pytest.mark.parametrize("n_sub", [5, 64, 300])
def test_equals_a_scan_for_tied_scores(execution, top_k, n_sub):
    """Small whole numbers tie everywhere: the scores must agree, and each index have its own."""
    queries, sub_keys, best = _tied(n_sub, top_k)
    scores, indices = product_key_topk(queries, sub_keys, top_k, execution)
    assert torch.equal(scores, best)
    first, second = indices // n_sub, indices % n_sub
    keys = torch.cat([sub_keys[0][first], sub_keys[1][second]], dim=-1)
    assert torch.equal((queries.unsqueeze(2) * keys).sum(-1), scores)
    assert (indices.sort(dim=-1).values.diff(dim=-1) != 0).all(), "an expert twice for one head"


@functools.cache
def _near_ties():
    """Sub-keys that differ by 2**-12 of themselves, queries, and the best scores in float64."""
    torch.manual_seed(0)
    n_sub, d_key = 512, 32
    base = torch.randn(d_key // 2)
    sub_keys = base * (1 + torch.rand(2, n_sub, 1) * 2**-12)
    queries = torch.randn(50, 2, d_key)
    return queries, sub_keys, scan(queries.double(), sub_keys.double(), 16)[0]


@pytest.mark.levels
def test_scores_that_bfloat16_can_not_tell_apart(execution):
    """What is screened in 8 bits is decided in 24. Errors are of the size of a sum's addends, which
    that of the largest score is, and not that of one in which they cancel.
    """
    queries, sub_keys, best = _near_ties()
    scores, _ = product_key_topk(queries, sub_keys, 16, execution)
    assert_close([scores], [best], 1e-6)


def test_every_expert_can_be_reached(execution):
    """One query a pair, pointing at its two sub-keys, finds exactly that expert."""
    n_sub = 12
    sub_keys = torch.eye(n_sub).expand(2, n_sub, n_sub)
    expert = torch.arange(n_sub**2)
    queries = torch.cat([torch.eye(n_sub)[expert // n_sub], torch.eye(n_sub)[expert % n_sub]], -1)
    _, indices = product_key_topk(queries.unsqueeze(1), sub_keys, 1, execution)
    assert torch.equal(indices.flatten(), expert)


@pytest.mark.parametrize("per_head", [False, True])
def test_sub_keys_and_queries_get_the_gradients_of_the_scan(execution, per_head):
    queries, sub_keys = _random(40, 32, per_head)
    leaves = []
    for search, kind in (
        (lambda *a: product_key_topk(*a, execution), torch.float32),
        (scan, torch.float64),
    ):
        q, k = (t.detach().to(kind, copy=True).requires_grad_() for t in (queries, sub_keys))
        scores, _ = search(q, k, 5)
        scores.softmax(-1).square().sum().backward()
        leaves.append([q.grad, k.grad])
    assert_close(*leaves, 1e-5)
    assert all(g.abs().sum() > 0 for g in leaves[0])


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize(
    ("n_first", "n_second", "top_k"),
    [(40, 8, 16), (3, 50, 20), (1, 9, 4), (9, 1, 9), (520, 32, 16), (300, 70, 33), (1, 1500, 1400)],
)
def test_two_sets_of_their_own_sizes_and_a_bias(execution, n_first, n_second, top_k, per_head):
    queries, heads = torch.randn(50, 3, 24), 3 if per_head else 1
    keys, bias = torch.randn(heads, n_first + n_second, 12), 2 * torch.randn(n_first)
    inputs = queries, keys if per_head else keys[0]
    q, k = (t.clone().requires_grad_() for t in inputs)
    scores, indices = product_key_topk(q, k, top_k, execution, n_first=n_first, bias=bias)
    scores.softmax(-1).square().sum().backward()

    slow_q, slow_k = (t.double().requires_grad_() for t in inputs)
    by_head = slow_k.expand(3, -1, -1)
    first = torch.einsum("thd,hsd->ths", slow_q[..., :12], by_head[:, :n_first]) + bias
    second = torch.einsum("thd,hsd->ths", slow_q[..., 12:], by_head[:, n_first:])
    every = (first.unsqueeze(-1) + second.unsqueeze(-2)).flatten(-2)
    best = every.topk(top_k).values
    best.softmax(-1).square().sum().backward()
    assert_close([scores.detach(), q.grad, k.grad], [best.detach(), slow_q.grad, slow_k.grad], 1e-5)
    assert_close([every.detach().gather(-1, indices)], [best.detach()], 1e-5)
    assert (indices.sort(-1).values.diff(dim=-1) != 0).all(), "an expert twice for one head"


def test_no_tokens(execution):
    queries, sub_keys = _random(9, 8, True, n_tokens=0)
    queries.requires_grad_()
    sub_keys.requires_grad_()
    scores, indices = product_key_topk(queries, sub_keys, 4, execution)
    assert scores.shape == indices.shape == (0, 3, 4)
    scores.sum().backward()
    assert sub_keys.grad.abs().sum() == 0


@pytest.mark.parametrize("n_sub", [40, 600])
def test_a_diverged_run_has_indices_within_the_table(execution, n_sub):
    queries, sub_keys = _random(n_sub, 16, False)
    queries[3] = torch.nan
    queries[4] = torch.inf
    _, indices = product_key_topk(queries, sub_keys, 7, execution)
    assert ((indices >= 0) & (indices < n_sub**2)).all()


@pytest.mark.parametrize("n_sub", [40, 100, 600])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_query_that_is_no_number_leaves_the_others_alone(execution, n_sub, value):
    queries, sub_keys = _random(n_sub, 16, True)
    clean = product_key_topk(queries, sub_keys, 7, execution)
    spoilt = queries.clone()
    spoilt[5::7, :, ::9] = value
    for before, after in zip(clean, product_key_topk(spoilt, sub_keys, 7, execution), strict=True):
        kept = torch.ones(len(queries), dtype=torch.bool)
        kept[5::7] = False
        assert torch.equal(before[kept], after[kept])


@pytest.mark.parametrize("kernel", [p for p in KERNELS if p.id != "torch"])
@pytest.mark.parametrize(
    ("n_tokens", "n_sub", "d_key", "per_head"),
    [(333, 256, 64, True), (50, 40, 64, False), (5, 100, 256, False), (48, 1024, 66, False)],
)
def test_the_same_for_any_number_of_threads(kernel, n_tokens, n_sub, d_key, per_head):
    """To the bit; with kernel=torch products are the BLAS's affair."""
    queries, sub_keys = _random(n_sub, d_key, per_head, n_tokens)
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2, 3, 8):
            torch.set_num_threads(n_threads)
            found.append(product_key_topk(queries, sub_keys, 16, Given(given=kernel)))
    finally:
        torch.set_num_threads(before)
    for scores, indices in found[1:]:
        assert torch.equal(scores, found[0][0])
        assert torch.equal(indices, found[0][1])


@pytest.mark.parametrize("per_head", [False, True])
def test_a_hundred_heads_of_their_own_keys(execution, per_head):
    queries, sub_keys = _random(20, 8, per_head, n_tokens=3, n_heads=100)
    scores, _ = product_key_topk(queries, sub_keys, 5, execution)
    assert_close([scores], [scan(queries.double(), sub_keys.double(), 5)[0]], 1e-5)


@pytest.mark.parametrize("of_query", [1.0, 1e-6, 1e20])
@pytest.mark.parametrize("of_keys", [1e-20, 1e-26, 1e-33, 1e-37])
def test_tiny_keys(execution, of_keys, of_query):
    """Keys whose squares are no floats, and products that a bfloat16 product takes for zero."""
    queries, sub_keys, _ = _near_ties()
    queries, sub_keys = queries[:10] * of_query, sub_keys * of_keys
    scores, _ = product_key_topk(queries, sub_keys, 16, execution)
    best, _ = scan(queries.double(), sub_keys.double(), 16)
    smallest = 2.0**-149  # products below FLT_MIN have fewer bits
    atol = 3e-6 * float(best.abs().max()) + 32 * smallest
    torch.testing.assert_close(scores.double(), best, rtol=0, atol=atol)


def test_the_best_of_groups_are_the_best_of_all():
    scores = torch.randint(0, 50, (300, 1024)).float()
    values, where = top_of_rows(scores, 16)
    assert torch.equal(values, scores.topk(16).values)
    assert torch.equal(scores.gather(-1, where), values)
    assert (where.sort(-1).values.diff(dim=-1) != 0).all()


def test_candidates_are_few_and_enough():
    left, right = candidate_pairs(16, 1024, 1024)
    assert len(left) == 50
    assert all((i + 1) * (j + 1) <= 16 for i, j in zip(left, right, strict=True))
    for n_first, n_second in itertools.product(range(1, 9), repeat=2):
        for top_k in range(1, n_first * n_second + 1):
            assert len(candidate_pairs(top_k, n_first, n_second)[0]) >= top_k
