"""Operators that compiled graphs call: against the obvious forms, and against torch's rules."""

from itertools import pairwise

import pytest
import torch
import torch._dynamo.testing

from experiments.kernels import reference
from experiments.kernels.grouped import grouped_matmul_loop
from experiments.kernels.operators import operators
from experiments.kernels.ops import Execution, gather_dot, gather_sum, product_key_topk
from tests.kernels.implementations import assert_close, gradients, triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT32 = 1e-5  # of the largest entry: float32 sums of at most 50 addends, as in test_gather
T, J, D, N = 3, 4, 8, 7


@pytest.fixture(params=["torch", "cpp", "triton"])
def kernel(request):
    if request.param == "triton":
        triton(DEVICE)
    if request.param == "cpp" and DEVICE == "cuda":
        pytest.skip("for CPUs")
    return request.param


@pytest.fixture
def inputs():
    """x, table, idx, weights."""
    idx = torch.randint(0, N, (T, J), device=DEVICE)
    x, table, weights = (torch.randn(*s, device=DEVICE) for s in ((T, D), (N, D), (T, J)))
    return x, table, idx, weights


def test_wrong_arguments_are_refused(kernel, inputs):
    x, table, idx, weights = inputs
    with pytest.raises(TypeError, match=r"idx is torch.int32"):
        operators.dot(x, table, idx.int(), kernel)
    with pytest.raises(ValueError, match="weights is"):
        operators.weighted_sum(table, idx, weights[:, 1:], kernel)
    with pytest.raises(ValueError, match="top_k=26 must be a number from 1 to 25"):
        operators.search(torch.randn(4, 2, 2, 3), torch.randn(1, 10, 3), 5, 26, None, kernel)


@pytest.mark.parametrize("n_groups", [1, 2])
def test_search_is_a_scan_over_all_keys_and_so_are_its_gradients(kernel, n_groups):
    halves = torch.randn(T, 2, 2, 4, device=DEVICE)
    keys, bias = torch.randn(n_groups, 5 + 3, 4, device=DEVICE), torch.randn(5, device=DEVICE)

    def scan(halves, keys):
        by_head = keys if n_groups == 2 else keys[0]
        return reference.product_key_topk(halves.flatten(2), by_head, 3, 5, bias.to(keys))[0]

    fast = gradients(lambda h, k: operators.search(h, k, 5, 3, bias, kernel)[0], halves, keys)
    assert_close(fast, gradients(scan, halves.double(), keys.double()), FLOAT32)


def test_grouped_product_is_the_loop_and_so_are_its_gradients(kernel):
    ends = torch.tensor([3, 3, 5, 12])  # the second expert has no row
    for width, dtype in ((8, torch.float32), (3, torch.float32), (8, torch.float64)):
        x, weights = torch.randn(12, 8, dtype=dtype), torch.randn(4, 8, width, dtype=dtype)

        def slow(x, w):
            bounds = pairwise([0, *ends.tolist()])
            return torch.cat([x[a:b] @ w[e] for e, (a, b) in enumerate(bounds)])

        fast = gradients(lambda x, w: operators.grouped_product(x, w, ends, kernel), x, weights)
        tolerance = FLOAT32 if dtype == torch.float32 else 1e-13
        assert_close(fast, gradients(slow, x.double(), weights.double()), tolerance)
        if width == 3 and kernel != "triton":  # 12 bytes: none of grouped_mm's
            assert torch.equal(fast[0], grouped_matmul_loop(x, weights, ends))


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        ("torch", torch.float32),
        ("torch", torch.float64),
        ("cpp", torch.bfloat16),
        pytest.param("triton", torch.float32, marks=pytest.mark.long),
        ("triton", torch.bfloat16),
    ],
    indirect=["kernel"],
)
def test_torchs_own_check_of_each_operator(kernel, inputs, dtype):
    """Schema, fake results, registration of gradients, and tracing with fixed and free shapes."""
    x, table, idx, weights = inputs
    x, weights = (t.double() if dtype == torch.float64 else t for t in (x, weights))
    x, weights, table = (t.requires_grad_() for t in (x, weights, table.to(dtype).detach()))
    check = torch.library.opcheck
    check(operators.dot.default, (x, table, idx, kernel))
    check(operators.weighted_sum.default, (table, idx, weights, kernel))
    segments = operators.sort(idx, N, dtype, kernel)
    check(operators.sort.default, (idx, N, dtype, kernel))
    with torch.no_grad():
        check(
            operators.table_sums.default,
            (x.detach(), *segments, weights.detach(), N, dtype, kernel),
        )
    if dtype != torch.bfloat16:  # keys are not tables
        halves = torch.randn(T, 2, 2, 4, dtype=dtype, device=DEVICE, requires_grad=True)
        keys = torch.randn(1, 5 + 3, 4, dtype=dtype, device=DEVICE, requires_grad=True)
        check(operators.search.default, (halves, keys, 5, 3, None, kernel))
        bias = torch.randn(5, dtype=dtype, device=DEVICE)
        check(operators.search.default, (halves, keys, 5, 3, bias, kernel))


def test_torchs_own_check_of_the_grouped_product(kernel):
    x, weights = torch.randn(12, 8, requires_grad=True), torch.randn(4, 8, 3, requires_grad=True)
    ends = torch.tensor([3, 3, 5, 12])
    torch.library.opcheck(operators.grouped_product.default, (x, weights, ends, kernel))


def test_autocast_does_not_reach_into_the_operators(kernel, inputs):
    x, table, idx, weights = inputs

    def run():
        return [
            *gradients(lambda x, t: operators.dot(x, t, idx, kernel), x, table),
            *gradients(lambda t, w: operators.weighted_sum(t, idx, w, kernel), table, weights),
        ]

    plain = run()
    with torch.autocast(DEVICE, torch.bfloat16):
        cast = run()
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [("torch", torch.float64), ("cpp", torch.float32), ("triton", torch.float32)],
    indirect=["kernel"],
)
def test_a_compiled_graph_is_eager_to_the_bit(kernel, inputs, dtype):
    """Same kernels in the same order: aot_eager leaves all other arithmetic as it is."""
    x, table, idx, weights = (t.to(dtype) if t.is_floating_point() else t for t in inputs)
    how = Execution(kernel=kernel)
    queries = torch.randn(T, 2, 8, dtype=dtype, device=DEVICE)
    keys = torch.randn(2, 5, 4, dtype=dtype, device=DEVICE)

    def layer(x, table, weights, queries, keys):
        rows = how.retrieved(idx, table)
        y = gather_sum(table, rows, weights * gather_dot(x, table, rows, how), how)
        scores, _ = product_key_topk(queries, keys, 3, how)
        return torch.cat([y.flatten(), scores.flatten()])

    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=False)
    leaves = (x, table, weights, queries, keys)
    eager, graph = gradients(layer, *leaves), gradients(compiled, *leaves)
    assert all(torch.equal(a, b) for a, b in zip(eager, graph, strict=True))


def test_a_backward_graph_sorts_the_indices_of_two_tables_once(inputs):
    """As eager code does by sharing a Retrieved; here the compiler merges the two calls."""
    x, table, idx, weights = inputs
    other = table.clone()
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    how = Execution()

    def layer(x, table, other, weights):
        rows = how.retrieved(idx, table)
        return gather_sum(other, rows, weights * gather_dot(x, table, rows, how), how)

    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import min_cut_rematerialization_partition

    backend = aot_autograd(
        fw_compiler=lambda g, _: make_boxed_func(g.forward),
        bw_compiler=lambda g, _: make_boxed_func(keep(g, _).forward),
        partition_fn=min_cut_rematerialization_partition,
    )
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=backend, fullgraph=True, dynamic=False)
    gradients(compiled, x, table, other, weights)
    (graph,) = graphs
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("experiments.table_sums.default") == 2
    assert targets.count("experiments.sort.default") == 1
