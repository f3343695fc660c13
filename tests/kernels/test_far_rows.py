"""Rows whose places pass 2**31 entries, in files that are sparse: read, summed and stepped."""

import pytest
import torch

from experiments.gpu.adamw_checks import make_step
from experiments.kernels.torch_kernels import TorchKernel
from tests.kernels.implementations import KERNELS, assert_close, triton

N, D = 2**21 + 64, 1024  # N * D is above 2**31
FAR = [0, 1, 2**21 - 1, 2**21, 2**21 + 63]  # rows on both sides of it


@pytest.fixture(params=[*KERNELS, pytest.param(None, id="triton")])
def kernel(request):
    return request.param or triton()


@pytest.fixture
def large(tmp_path):
    """large(name): an (N, D) of zeros that takes no room where nothing is written."""

    def make(name):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(2 * N * D)
        flat = torch.from_file(str(path), shared=True, size=N * D, dtype=torch.bfloat16)
        return flat.view(N, D)

    return make


def _state(large, rows, name):
    """A table and its moments, of which these rows alone are anything but zero."""
    torch.manual_seed(1)
    state = [large(f"{name}{i}") for i in range(3)]
    for tensor in state:
        tensor[rows] = torch.rand(len(rows), D).bfloat16()
    return state


def test_far_rows_are_read_and_summed(kernel, large):
    rows = torch.tensor(FAR)
    table = large("table")
    table[rows] = torch.randn(len(rows), D).bfloat16()
    place = torch.randint(len(rows), (3, 8))
    idx, x, weights = rows[place], torch.randn(3, D), torch.rand(3, 8)
    read = table[rows].double()[place]
    dot = torch.einsum("td,tjd->tj", x.double(), read)
    weighted = torch.einsum("tj,tjd->td", weights.double(), read)
    results = [kernel.dot(x, table, idx), kernel.weighted_sum(table, idx, weights)]
    assert_close(results, [dot, weighted], 1e-5)
    segments = kernel.sort(idx, N)
    sums = torch.zeros(len(rows), D, dtype=torch.float64)
    pairs = (weights.double().unsqueeze(-1) * x.double().unsqueeze(1)).flatten(0, 1)
    sums.index_add_(0, place.flatten(), pairs)
    retrieved = place.unique()
    assert segments.rows.tolist() == rows[retrieved].tolist()
    found = kernel.row_sums(x, segments, weights, torch.float32)
    assert_close([found], [sums[retrieved]], 1e-5)


def test_far_rows_of_a_gradient_are_written(large):
    kernel, out = triton(), large("gradient")
    from experiments.kernels import triton_sums

    idx, x = torch.tensor([FAR]), torch.randn(1, D).bfloat16().float()  # exact in a bfloat16
    segments = kernel.sort(idx, N)
    triton_sums.sums_into(out, x, segments, torch.ones(1, len(FAR)), by_row=True)
    assert torch.equal(out[FAR], x.bfloat16().expand(len(FAR), D))
    near = torch.arange(2, 66)  # where a place modulo 2**31 would be
    assert not out[near].any()


def test_far_rows_step_as_near_ones(kernel, large):
    """By torch's own operations, to the bit of their rounding but where arithmetic is at a tie."""
    rows, gradient = torch.tensor(FAR), torch.randn(len(FAR), D)
    fast, slow = _state(large, rows, "fast"), _state(large, rows, "slow")
    kernel.row_adamw(fast[0], tuple(fast[1:]), rows, gradient, make_step())
    TorchKernel().row_adamw(slow[0], tuple(slow[1:]), rows, gradient, make_step())
    for a, b in zip(fast, slow, strict=True):
        assert (a[rows] == b[rows]).double().mean() > 0.99
        torch.testing.assert_close(a[rows], b[rows], rtol=2**-7, atol=0)
        assert not a[2:66].any()
