"""Triton kernels against the obvious forms: on a GPU if there is one, else interpreted."""

import functools

import pytest
import torch

from experiments.gpu.adamw_checks import make_state, make_step, rounded_by_noise
from experiments.gpu.check import FLOAT32
from experiments.gpu.kernel_checks import STATES, gradients, small
from experiments.kernels import ops, reference
from experiments.kernels.torch_kernels import TorchKernel, round_to
from tests.kernels.implementations import triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRITON = ops.Execution(kernel="triton")


@pytest.fixture
def kernel():
    return triton(DEVICE)


@pytest.fixture
def short_chunks(monkeypatch, kernel):
    _shorten_chunks(monkeypatch)


def _shorten_chunks(monkeypatch):
    """So few pairs a chunk that rows of the small shapes are summed in chunks."""
    from experiments.kernels import triton_adamw, triton_sums

    for module in (triton_adamw, triton_sums):
        monkeypatch.setattr(module, "CHUNK", 4)


def _inputs(shape, dtype=torch.float32):
    n_tokens, n_columns, width, n = shape
    x = torch.randn(n_tokens, width, device=DEVICE)
    table = torch.randn(n, width, device=DEVICE).to(dtype)
    idx = torch.randint(0, n, (n_tokens, n_columns), device=DEVICE)
    weights = torch.randn(n_tokens, n_columns, device=DEVICE)
    return x, table, idx, weights


CHECKS = list(small())


def _named(check):
    return f"{check.kernel}, {check.case}"


@pytest.mark.parametrize("check", CHECKS, ids=_named)
def test_values_are_those_of_float64(kernel, monkeypatch, check):
    from experiments.kernels import triton_search

    if check.kernel in ("gather_dot", "row AdamW of sums"):
        _shorten_chunks(monkeypatch)
    inputs = check.inputs(DEVICE)
    is_search = check.kernel == "product-key search"
    if is_search:  # blocks of 3 tokens, and of 1
        n_heads, n_sub = inputs[0].shape[1], inputs[1].shape[-2]
        monkeypatch.setattr(triton_search, "_SCORES", 2 * n_heads * n_sub * 3)
    results = check.run(*inputs)
    for deviation in check.deviations(results, *inputs):
        assert deviation.within, deviation
    if is_search:  # where no two scores are so near that rounding may swap them
        top_k = results[1].shape[-1]
        _, where = reference.product_key_topk(*(t.double() for t in inputs), top_k)
        assert torch.equal(results[1], where)


# those after the trivial ones, and quick
ONE_EACH = {check.kernel: check for check in reversed(CHECKS[4:])}.values()


@functools.cache
def _ran(check):
    """Its inputs, and what the kernel made of them."""
    inputs = check.inputs(DEVICE)
    return inputs, check.run(*inputs)


@pytest.mark.parametrize("check", ONE_EACH, ids=_named)
def test_the_same_inputs_give_the_same_bits(kernel, check):
    inputs, results = _ran(check)
    for a, b in zip(results, check.run(*inputs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("check", ONE_EACH, ids=_named)
def test_a_wrong_value_is_seen(kernel, check):
    """In each result in turn: an entry that is off by a fifth of the largest, and a NaN."""
    inputs, results = _ran(check)
    for i, result in enumerate(results):
        for wrong in _spoilt(result):
            spoilt = [*results[:i], wrong, *results[i + 1 :]]
            assert not all(d.within for d in check.deviations(spoilt, *inputs)), f"result {i}"


def _spoilt(result):
    flat = result.flatten()
    if not result.is_floating_point():  # another expert than the best
        yield torch.cat([flat[:1].bitwise_xor(1), flat[1:]]).view_as(result)
        return
    for wrong in (flat[-1] + 0.2 * result.abs().max() + 0.1, torch.nan):
        changed = flat.clone()
        changed[-1] = wrong
        yield changed.view_as(result)


def test_a_hot_expert_s_pairs_are_in_several_chunks(kernel):
    from experiments.kernels.triton_sums import CHUNK

    (hot,) = (check for check in CHECKS if check.kernel == "row sums")
    assert (hot.inputs(DEVICE)[1] == 3).sum() > 2 * CHUNK


@pytest.mark.parametrize("count", [3, 4, 5, 8, 9, 17])
def test_rows_at_the_edges_of_chunks(kernel, short_chunks, count):
    """One row of that many pairs between two of one pair, in chunks of 4."""
    idx = torch.tensor([[0], *[[2]] * count, [3]], device=DEVICE)
    values = 2.0 ** torch.arange(count + 2, device=DEVICE).unsqueeze(1)  # sums are exact
    segments = kernel.sort(idx, 4)
    sums = kernel.row_sums(values, segments, torch.ones_like(idx).float(), torch.float32)
    assert sums.flatten().tolist() == [1, 2 ** (count + 1) - 2, 2 ** (count + 1)]


def test_rows_hold_what_a_dense_gradient_does(kernel, short_chunks):
    x, table, idx, _ = _inputs((4, 12, 17, 9))  # five pairs a row
    gradients = []
    for form in ("dense", "rows"):
        leaf = table.clone().requires_grad_()
        execution = ops.Execution(kernel="triton", gradient=form)
        ops.gather_dot(x, leaf, idx, execution).sin().sum().backward()
        gradients.append(leaf.grad)
    dense, rows = gradients
    assert rows.is_sparse
    assert torch.equal(rows.to_dense(), dense)


def test_no_tokens(kernel):
    x, table, idx, weights = _inputs((0, 4, 8, 16))
    for gradient in gradients(lambda *t: ops.gather_dot(*t, TRITON), x, table, idx):
        assert not gradient.any()
    assert ops.gather_dot(x, table, idx, TRITON).shape == (0, 4)
    assert ops.gather_sum(table, idx, weights, TRITON).shape == (0, 8)
    queries, sub_keys = torch.ones(0, 2, 8, device=DEVICE), torch.ones(2, 5, 4, device=DEVICE)
    scores, indices = ops.product_key_topk(queries, sub_keys, 3, TRITON)
    assert scores.shape == indices.shape == (0, 2, 3)
    moments = (torch.zeros_like(table), torch.zeros_like(table))
    before = table.clone()
    kernel.row_adamw_of_sums(table, moments, x, kernel.sort(idx, 16), weights, make_step())
    assert torch.equal(table, before)


@pytest.mark.parametrize("top_k", [1, 4, 9, 25])
def test_search_among_tied_scores(kernel, top_k):
    """Small whole numbers tie everywhere: the scores must agree, and each index have its own."""
    n_sub = 5
    queries = torch.randint(-1, 2, (4, 2, 4), device=DEVICE).float()
    sub_keys = torch.randint(-1, 2, (2, n_sub, 2), device=DEVICE).float()
    scores, indices = ops.product_key_topk(queries, sub_keys, top_k, TRITON)
    best, _ = reference.product_key_topk(queries, sub_keys, top_k)
    assert torch.equal(scores, best)
    keys = torch.cat([sub_keys[0][indices // n_sub], sub_keys[1][indices % n_sub]], dim=-1)
    assert torch.equal((queries.unsqueeze(2) * keys).sum(-1), scores)
    ordered = indices.sort(dim=-1).values
    assert (ordered.diff(dim=-1) != 0).all(), "an expert was taken twice by one head"


@pytest.mark.parametrize(("n_first", "launches"), [(5, 2), (6, 3)])
def test_halves_of_one_size_are_searched_together(kernel, monkeypatch, n_first, launches):
    from experiments.kernels import triton_search

    started, launch = [], triton_search.launch

    def noted(kernel, *arguments, **options):
        started.append(kernel)
        launch(kernel, *arguments, **options)

    monkeypatch.setattr(triton_search, "launch", noted)
    queries, keys = torch.randn(3, 2, 2, 4, device=DEVICE), torch.randn(1, 10, 4, device=DEVICE)
    kernel.search(queries, keys, n_first, 2, None)
    assert len(started) == launches


def test_search_stays_in_range_with_nans(kernel):
    queries = torch.randn(6, 2, 8, device=DEVICE)
    queries[::2] = torch.nan
    sub_keys = torch.randn(2, 5, 4, device=DEVICE)
    sub_keys[0, 2] = torch.nan
    _, indices = ops.product_key_topk(queries, sub_keys, 7, TRITON)
    assert indices.min() >= 0
    assert indices.max() < 25
    assert (indices.sort(dim=-1).values.diff(dim=-1) != 0).all()


def _assert_same_steps(fast, slow):
    """Float32 to its arithmetic. In bfloat16 a last bit there may decide between neighbours, 2**-7
    apart at most, but seldom: with other noise half of the entries would differ.
    """
    for a, b in zip(fast, slow, strict=True):
        if a.dtype == torch.bfloat16:
            torch.testing.assert_close(a, b, rtol=2**-7, atol=0)
            assert (a == b).double().mean() > 0.99
        else:
            torch.testing.assert_close(a, b, rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize("types", STATES)
@pytest.mark.parametrize("width", [17, 1030])
def test_row_adamw_is_the_torch_kernel_s(kernel, types, width):
    fast = make_state(9, width, types, DEVICE)
    slow = [t.clone() for t in fast]
    rows = torch.tensor([0, 2, 3, 8], device=DEVICE)
    gradient = torch.randn(4, width, device=DEVICE)
    kernel.row_adamw(fast[0], tuple(fast[1:]), rows, gradient, make_step())
    TorchKernel().row_adamw(slow[0], tuple(slow[1:]), rows, gradient, make_step())
    _assert_same_steps(fast, slow)


@pytest.mark.parametrize("types", STATES)
def test_row_adamw_of_sums_is_row_adamw_by_row_sums(kernel, short_chunks, types):
    x, _, idx, weights = _inputs((5, 8, 17, 8))  # five pairs a row
    fused = make_state(8, 17, types, DEVICE)
    apart = [t.clone() for t in fused]
    segments = kernel.sort(idx, 8)
    kernel.row_adamw_of_sums(fused[0], tuple(fused[1:]), x, segments, weights, make_step())
    sums = kernel.row_sums(x, segments, weights, torch.float32)
    kernel.row_adamw(apart[0], tuple(apart[1:]), segments.rows, sums, make_step())
    _assert_same_steps(fused, apart)


@pytest.mark.parametrize("n", [3, 40])  # rows: all retrieved, and most not
def test_all_rows_for_the_distinct_ones_give_the_same_bits(kernel, short_chunks, n):
    """As where the host is not to wait: those without a pair have sums of zero and take no step."""
    x, _, idx, weights = _inputs((5, 8, 17, n))
    some, every = kernel.sort(idx, n), kernel.sort(idx, n, False)
    assert every.rows.tolist() == list(range(n))
    assert torch.equal(some.order, every.order)
    sums = [kernel.table_sums(x, s, weights, torch.float32) for s in (some, every)]
    assert torch.equal(*sums)
    states = [make_state(n, 17, STATES[0], DEVICE)]
    states.append([t.clone() for t in states[0]])
    for state, segments in zip(states, (some, every), strict=True):
        kernel.row_adamw_of_sums(state[0], tuple(state[1:]), x, segments, weights, make_step())
    for a, b in zip(*states, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("step", [1, 2, 16, 123_457])
def test_stores_are_rounded_by_the_same_noise(kernel, step):
    """With betas of 0 the moments are g and g * g; the weight of a power of two is -lr or lr."""
    rows = torch.tensor([1, 2, 70], device=DEVICE)
    powers = 2.0 ** torch.randint(-3, 4, (3, 40), device=DEVICE)
    signs = torch.randint(0, 2, (3, 40), device=DEVICE) * 2.0 - 1
    plain = make_step(lr=1 / 3, beta1=0.0, beta2=0.0, eps=1e-30, weight_decay=0.0, step=step)
    for g in (powers * signs, torch.randn(3, 40, device=DEVICE)):
        state = [torch.zeros(71, 40, device=DEVICE, dtype=torch.bfloat16) for _ in range(3)]
        kernel.row_adamw(state[0], (state[1], state[2]), rows, g, plain)
        exact = [g.sign() * torch.tensor(-1 / 3), g, g * g]
        for salt, (stored, wanted) in enumerate(zip(state, exact, strict=True)):
            if salt or torch.equal(g.abs(), powers):
                rounded = round_to(wanted, torch.bfloat16, rows, step, salt)
                assert torch.equal(stored[rows], rounded)
                assert torch.equal(rounded_by_noise(wanted, rows, step, salt), rounded)


def test_columns_of_a_table_are_rounded_as_they_are_in_the_whole(kernel):
    whole = make_state(8, 48, (torch.bfloat16, torch.bfloat16), DEVICE)
    part = [t[:, 16:32].contiguous() for t in whole]
    rows, gradient = torch.tensor([0, 3, 7], device=DEVICE), torch.randn(3, 48, device=DEVICE)
    kernel.row_adamw(whole[0], (whole[1], whole[2]), rows, gradient, make_step())
    own = make_step(first_column=16, width=48)
    kernel.row_adamw(part[0], (part[1], part[2]), rows, gradient[:, 16:32].contiguous(), own)
    for w, p in zip(whole, part, strict=True):
        assert torch.equal(w[:, 16:32], p)


def test_a_nan_stays_one(kernel):
    """Noise on bits that are all ones, a GPU's own NaN, would make a zero of them."""
    g = torch.full((1, 64), 0x7FFFFFFF, dtype=torch.int32, device=DEVICE).view(torch.float32)
    state = [torch.zeros(1, 64, device=DEVICE, dtype=torch.bfloat16) for _ in range(3)]
    row = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    kernel.row_adamw(state[0], (state[1], state[2]), row, g, make_step())
    for stored in state:
        assert stored.isnan().all()


def test_it_says_that_triton_is_not_installed(kernel, monkeypatch):
    from experiments.kernels import triton_kernel

    monkeypatch.setattr(triton_kernel, "_INSTALLED", False)
    assert triton_kernel.why_not("cuda") == "triton is not installed"
