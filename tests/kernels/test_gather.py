"""gather_dot and gather_sum against the obvious forms: values and every gradient."""

import pytest
import torch

from experiments.kernels import reference
from experiments.kernels.ops import Execution, gather_dot, gather_sum
from experiments.kernels.torch_kernels import TorchKernel
from tests.kernels.implementations import KERNELS, Given, assert_close, gradients

SHAPES = {  # T, J, D, N
    "small": (5, 3, 8, 16),
    "one of everything": (1, 1, 1, 1),
    "ragged": (33, 24, 17, 50),
    "every row many times": (7, 16, 4, 2),
    "most rows never": (64, 8, 32, 1000),
    "whole vectors": (20, 5, 256, 300),
    "vectors and a rest": (20, 5, 331, 300),
    "hot experts": (1500, 4, 24, 3),  # more pairs than a chunk
    "no tokens": (0, 4, 8, 16),
}
# relative to the largest entry; float32 sums of up to 2,000 addends. A bfloat16 table's values
# are exact in float32, its gradient is rounded to 8 bits, 2**-9 of itself at most.
FLOAT32, BFLOAT16 = 1e-5, 2**-8


def _inputs(name: str, dtype: torch.dtype):
    n_tokens, n_columns, width, n = SHAPES[name]
    x = torch.randn(n_tokens, width)
    table = torch.randn(n, width).to(dtype)
    idx = torch.randint(0, n, (n_tokens, n_columns))
    return x, table, idx, torch.randn(n_tokens, n_columns)


@pytest.fixture(params=KERNELS)
def kernel(request):
    return request.param


@pytest.fixture(params=["dense", "rows"])
def execution(kernel, request):
    return Given(given=kernel, gradient=request.param)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gather_dot(execution, shape, dtype):
    x, table, idx, _ = _inputs(shape, dtype)
    fast = gradients(lambda x, t: gather_dot(x, t, idx, execution), x, table)
    slow = gradients(lambda x, t: reference.gather_dot(x, t, idx), x.double(), table.double())
    assert fast[0].dtype == torch.float32
    assert fast[2].dtype == dtype
    assert_close(fast[:2], slow[:2], FLOAT32)
    assert_close(fast[2:], slow[2:], FLOAT32 if dtype == torch.float32 else BFLOAT16)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gather_sum(execution, shape, dtype):
    _, table, idx, weights = _inputs(shape, dtype)
    fast = gradients(lambda t, w: gather_sum(t, idx, w, execution), table, weights)
    slow = gradients(lambda t, w: reference.gather_sum(t, idx, w), table.double(), weights.double())
    assert_close([fast[0], fast[2]], [slow[0], slow[2]], FLOAT32)
    assert_close([fast[1]], [slow[1]], FLOAT32 if dtype == torch.float32 else BFLOAT16)


@pytest.mark.parametrize("shape", SHAPES)
def test_float64_is_the_torch_kernel_exact_to_rounding(shape):
    x, table, idx, weights = (
        t.double() if t.is_floating_point() else t for t in _inputs(shape, torch.float32)
    )
    execution = Execution(kernel="cpp")
    fast = gradients(lambda x, t: gather_dot(x, t, idx, execution), x, table)
    assert_close(fast, gradients(lambda x, t: reference.gather_dot(x, t, idx), x, table), 1e-13)
    fast = gradients(lambda t, w: gather_sum(t, idx, w, execution), table, weights)
    slow = gradients(lambda t, w: reference.gather_sum(t, idx, w), table, weights)
    assert_close(fast, slow, 1e-13)


def test_bfloat16_activations_are_computed_with_in_float32(kernel):
    x, table, idx, _ = _inputs("ragged", torch.float32)
    y = gather_dot(x.bfloat16(), table, idx, Given(given=kernel))
    assert_close([y], [reference.gather_dot(x.bfloat16().double(), table.double(), idx)], FLOAT32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_reach_into_the_kernels(kernel, dtype):
    x, table, idx, weights = _inputs("ragged", dtype)
    how = Given(given=kernel)

    def run():
        return [
            *gradients(lambda x, t: gather_dot(x, t, idx, how), x, table),
            *gradients(lambda t, w: gather_sum(t, idx, w, how), table, weights),
        ]

    plain = run()
    with torch.autocast("cpu", torch.bfloat16):
        cast = run()
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_rows_are_the_retrieved_ones_each_once_ascending(kernel):
    x, table, idx, _ = _inputs("most rows never", torch.float32)
    table.requires_grad_()
    gather_dot(x, table, idx, Given(given=kernel, gradient="rows")).sum().backward()
    assert torch.equal(table.grad._indices()[0], idx.unique())


def test_segments_are_those_of_a_stable_sort(kernel):
    for n_rows in (1, 7, 50, 70_000):
        idx = torch.randint(0, n_rows, (500, 3))
        segments = kernel.sort(idx, n_rows)
        rows, counts = idx.unique(return_counts=True)
        assert torch.equal(segments.rows, rows)
        assert torch.equal(segments.offsets.diff().long(), counts)
        assert torch.equal(segments.order.long(), torch.argsort(idx.flatten(), stable=True))


def test_the_form_without_the_private_operator_is_the_same(monkeypatch):
    x, table, idx, _ = _inputs("ragged", torch.float32)
    execution = Given(given=TorchKernel())
    with_operator = gather_dot(x, table, idx, execution)
    monkeypatch.setattr(
        torch.ops.aten, "_embedding_bag_per_sample_weights_backward", None, raising=False
    )
    torch.testing.assert_close(gather_dot(x, table, idx, execution), with_operator)


@pytest.mark.parametrize("shape", ["hot experts", "most rows never", "vectors and a rest"])
def test_repeatable_to_the_bit_and_for_any_number_of_threads(execution, shape):
    x, table, idx, weights = _inputs(shape, torch.float32)

    def run():
        return [
            *gradients(lambda x, t: gather_dot(x, t, idx, execution), x, table),
            *gradients(lambda t, w: gather_sum(t, idx, w, execution), table, weights),
        ]

    before = torch.get_num_threads()
    try:
        results = []
        for n_threads in (1, 2, 2, 3):
            torch.set_num_threads(n_threads)
            results.append(run())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_second_derivative_is_refused(kernel):
    x, table, idx, w = _inputs("small", torch.float32)
    leaves, execution = (table.requires_grad_(), w.requires_grad_()), Given(given=kernel)
    y = gather_sum(table, idx, w, execution) * gather_dot(x, table, idx, execution).sum()
    with pytest.raises(RuntimeError, match="unlike kernel=reference, has no second derivative"):
        torch.autograd.grad(y.sum(), leaves, create_graph=True)
