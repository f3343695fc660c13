"""The Triton kernels against the obvious forms: on a GPU if there is one, else interpreted."""

import os
import subprocess
import sys

import pytest
import torch

from experiments.kernels import ops, reference
from experiments.kernels.interface import AdamWStep
from experiments.kernels.torch_kernels import TorchKernel, round_to

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":  # read when triton is imported, which neither torch nor the above do
    os.environ.setdefault("TRITON_INTERPRET", "1")

TRITON = ops.Execution(kernel="triton")
SHAPES = [  # T, J, D, N
    (1, 1, 1, 1),
    (11, 24, 17, 50),  # ragged
    (7, 16, 4, 2),  # every row many times
    (4, 12, 96, 1001),  # most rows never
    (3, 20, 1030, 7),  # more than one block of columns, and of rows
]
# of the largest entry: a result of float32 arithmetic; a gradient stored in bfloat16 loses besides
# at most the last of 8 bits (half of it on a GPU; the interpreter does not round but truncates)
FLOAT32, BFLOAT16 = 1e-5, 2**-7 + 1e-5


@pytest.fixture
def kernel():
    pytest.importorskip("triton")
    from experiments.kernels.triton_kernel import Triton, why_not

    reason = why_not(DEVICE)
    if reason is not None:
        pytest.skip(reason)
    return Triton()


@pytest.fixture
def short_chunks(monkeypatch, kernel):
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


def _gradients(function, *inputs):
    """The result and every gradient, in float64, by the type they had."""
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
    out = function(*leaves)
    out.backward(torch.sin(torch.arange(out.numel(), device=DEVICE)).view_as(out).to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.requires_grad)]


def _assert_near(fast, slow):
    for a, b in zip(fast, slow, strict=True):
        tolerance = BFLOAT16 if a.dtype == torch.bfloat16 else FLOAT32
        assert a.shape == b.shape
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gather_dot(kernel, short_chunks, shape, dtype):
    x, table, idx, _ = _inputs(shape, dtype)
    fast = _gradients(lambda *t: ops.gather_dot(*t, TRITON), x, table, idx)
    _assert_near(fast, _gradients(reference.gather_dot, x.double(), table.double(), idx))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gather_sum(kernel, shape, dtype):
    _, table, idx, weights = _inputs(shape, dtype)
    fast = _gradients(lambda *t: ops.gather_sum(*t, TRITON), table, idx, weights)
    _assert_near(fast, _gradients(reference.gather_sum, table.double(), idx, weights.double()))


def test_a_hot_expert_s_pairs_are_summed_in_chunks(kernel):
    from experiments.kernels.triton_sums import CHUNK

    x, _, idx, weights = _inputs((60, 40, 17, 50))
    idx[torch.rand(idx.shape, device=DEVICE) < 0.95] = 3
    assert (idx == 3).sum() > 2 * CHUNK, "more than two chunks"
    segments = kernel.sort(idx, 50)
    pairs = weights.double().unsqueeze(-1) * x.double().unsqueeze(1)
    sums = torch.zeros(50, 17, dtype=torch.float64, device=DEVICE)
    sums.index_add_(0, idx.flatten(), pairs.flatten(0, 1))
    fast = kernel.table_sums(x, segments, weights, torch.float32)
    _assert_near([fast], [sums])
    assert torch.equal(fast, kernel.table_sums(x, segments, weights, torch.float32))


@pytest.mark.parametrize("count", [3, 4, 5, 8, 9, 17])
def test_rows_at_the_edges_of_chunks(kernel, short_chunks, count):
    """One row of that many pairs between two of one pair, in chunks of 4."""
    idx = torch.tensor([[0], *[[2]] * count, [3]], device=DEVICE)
    values = 2.0 ** torch.arange(count + 2, device=DEVICE).unsqueeze(1)  # sums are exact
    segments = kernel.sort(idx, 4)
    sums = kernel.row_sums(values, segments, torch.ones_like(idx).float(), torch.float32)
    assert sums.flatten().tolist() == [1, 2 ** (count + 1) - 2, 2 ** (count + 1)]


def test_rows_hold_what_a_dense_gradient_does(kernel, short_chunks):
    x, table, idx, _ = _inputs((7, 24, 17, 20))
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
    for gradient in _gradients(lambda *t: ops.gather_dot(*t, TRITON), x, table, idx):
        assert not gradient.any()
    assert ops.gather_dot(x, table, idx, TRITON).shape == (0, 4)
    assert ops.gather_sum(table, idx, weights, TRITON).shape == (0, 8)
    queries, sub_keys = torch.ones(0, 2, 8, device=DEVICE), torch.ones(2, 5, 4, device=DEVICE)
    scores, indices = ops.product_key_topk(queries, sub_keys, 3, TRITON)
    assert scores.shape == indices.shape == (0, 2, 3)
    moments = (torch.zeros_like(table), torch.zeros_like(table))
    before = table.clone()
    kernel.row_adamw_of_sums(table, moments, x, kernel.sort(idx, 16), weights, _step())
    assert torch.equal(table, before)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize(
    ("n_sub", "top_k"), [(8, 1), (7, 5), (16, 16), (3, 8), (2, 4), (1, 1), (33, 20)]
)
def test_search_and_its_gradients(kernel, monkeypatch, n_sub, top_k, per_head):
    from experiments.kernels import triton_search

    monkeypatch.setattr(triton_search, "_SCORES", 2 * 2 * n_sub * 3)  # blocks of 3 tokens, and of 1
    queries = torch.randn(4, 2, 10, device=DEVICE)
    shape = (2, n_sub, 5)
    sub_keys = torch.randn((2, *shape) if per_head else shape, device=DEVICE)
    scores, indices = ops.product_key_topk(queries, sub_keys, top_k, TRITON)
    best, where = reference.product_key_topk(queries.double(), sub_keys.double(), top_k)
    assert torch.equal(indices, where)
    _assert_near([scores], [best])

    def loss(search, *inputs):
        return _gradients(lambda q, k: search(q, k, top_k)[0].softmax(-1).square().sum(-1), *inputs)

    fast = loss(lambda *given: ops.product_key_topk(*given, TRITON), queries, sub_keys)
    slow = loss(reference.product_key_topk, queries.double(), sub_keys.double())
    for a, b in zip(fast, slow, strict=True):  # a lone score's gradient is 0
        torch.testing.assert_close(a.double(), b, rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize("top_k", [1, 4, 9, 25])
def test_search_among_tied_scores(kernel, top_k):
    """Small whole numbers tie everywhere: the scores must agree, and each index have its own."""
    n_sub = 5
    queries = torch.randint(-1, 2, (10, 2, 4), device=DEVICE).float()
    sub_keys = torch.randint(-1, 2, (2, n_sub, 2), device=DEVICE).float()
    scores, indices = ops.product_key_topk(queries, sub_keys, top_k, TRITON)
    best, _ = reference.product_key_topk(queries, sub_keys, top_k)
    assert torch.equal(scores, best)
    keys = torch.cat([sub_keys[0][indices // n_sub], sub_keys[1][indices % n_sub]], dim=-1)
    assert torch.equal((queries.unsqueeze(2) * keys).sum(-1), scores)
    ordered = indices.sort(dim=-1).values
    assert (ordered.diff(dim=-1) != 0).all(), "an expert was taken twice by one head"


def test_search_stays_in_range_with_nans(kernel):
    queries = torch.randn(6, 2, 8, device=DEVICE)
    queries[::2] = torch.nan
    sub_keys = torch.randn(2, 5, 4, device=DEVICE)
    sub_keys[0, 2] = torch.nan
    _, indices = ops.product_key_topk(queries, sub_keys, 7, TRITON)
    assert indices.min() >= 0
    assert indices.max() < 25
    assert (indices.sort(dim=-1).values.diff(dim=-1) != 0).all()


def test_search_for_more_than_there_are_is_refused(kernel):
    queries, sub_keys = torch.ones(1, 1, 2, device=DEVICE), torch.ones(2, 2, 1, device=DEVICE)
    with pytest.raises(ValueError, match=r"top_k=5 is more than the 2\*\*2"):
        ops.product_key_topk(queries, sub_keys, 5, TRITON)


def _step(**changes):
    numbers = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "step": 3}
    return AdamWStep(**{**numbers, **changes})


def _state(n, width, table_type, moment_type):
    """A table and its moments."""
    made = torch.randn(n, width), torch.randn(n, width), torch.rand(n, width)
    types = table_type, moment_type, moment_type
    return [t.to(DEVICE, dtype) for t, dtype in zip(made, types, strict=True)]


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


TYPES = [
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
]


@pytest.mark.parametrize(("table_type", "moment_type"), TYPES)
@pytest.mark.parametrize("width", [17, 1030])
def test_row_adamw(kernel, table_type, moment_type, width):
    fast = _state(9, width, table_type, moment_type)
    slow, before = ([t.clone() for t in fast] for _ in "ab")
    rows = torch.tensor([0, 2, 3, 8], device=DEVICE)
    gradient = torch.randn(4, width, device=DEVICE)
    kernel.row_adamw(fast[0], tuple(fast[1:]), rows, gradient, _step())
    TorchKernel().row_adamw(slow[0], tuple(slow[1:]), rows, gradient, _step())
    _assert_same_steps(fast, slow)
    for now, then in zip(fast, before, strict=True):
        assert torch.equal(now[[1, 4, 5, 6, 7]], then[[1, 4, 5, 6, 7]]), "a row not given moved"


@pytest.mark.parametrize(("table_type", "moment_type"), TYPES)
def test_row_adamw_of_sums_is_row_adamw_by_row_sums(kernel, short_chunks, table_type, moment_type):
    x, _, idx, weights = _inputs((9, 8, 17, 12))
    fused = _state(12, 17, table_type, moment_type)
    apart = [t.clone() for t in fused]
    segments = kernel.sort(idx, 12)
    kernel.row_adamw_of_sums(fused[0], tuple(fused[1:]), x, segments, weights, _step())
    sums = kernel.row_sums(x, segments, weights, torch.float32)
    kernel.row_adamw(apart[0], tuple(apart[1:]), segments.rows, sums, _step())
    _assert_same_steps(fused, apart)


@pytest.mark.parametrize("step", [1, 2, 16, 123_457])
def test_stores_are_rounded_by_the_same_noise(kernel, step):
    """With betas of 0 the moments are g and g * g; the weight of a power of two is -lr or lr."""
    rows = torch.tensor([1, 2, 70], device=DEVICE)
    powers = 2.0 ** torch.randint(-3, 4, (3, 40), device=DEVICE)
    signs = torch.randint(0, 2, (3, 40), device=DEVICE) * 2.0 - 1
    plain = _step(lr=1 / 3, beta1=0.0, beta2=0.0, eps=1e-30, weight_decay=0.0, step=step)
    for g in (powers * signs, torch.randn(3, 40, device=DEVICE)):
        state = [torch.zeros(71, 40, device=DEVICE, dtype=torch.bfloat16) for _ in range(3)]
        kernel.row_adamw(state[0], (state[1], state[2]), rows, g, plain)
        exact = [g.sign() * torch.tensor(-1 / 3), g, g * g]
        for salt, (stored, wanted) in enumerate(zip(state, exact, strict=True)):
            if salt or torch.equal(g.abs(), powers):
                rounded = round_to(wanted, torch.bfloat16, rows, step, salt)
                assert torch.equal(stored[rows], rounded)


def test_a_nan_stays_one(kernel):
    """Noise on bits that are all ones, a GPU's own NaN, would make a zero of them."""
    g = torch.full((1, 64), 0x7FFFFFFF, dtype=torch.int32, device=DEVICE).view(torch.float32)
    state = [torch.zeros(1, 64, device=DEVICE, dtype=torch.bfloat16) for _ in range(3)]
    row = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    kernel.row_adamw(state[0], (state[1], state[2]), row, g, _step())
    for stored in state:
        assert stored.isnan().all()


def test_it_says_that_triton_is_not_installed(kernel, monkeypatch):
    from experiments.kernels import triton_kernel

    monkeypatch.setattr(triton_kernel, "_INSTALLED", False)
    assert triton_kernel.why_not("cuda") == "triton is not installed"


def test_compiles_for_an_h100_without_one(kernel, tmp_path):
    """Compiled from the types and shapes that are passed; a process has one kind of triton."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    kernels = "best best_pairs chunks dot step step_of_sums sums weighted_sum"
    assert done.stdout.split() == [f"{name}_kernel" for name in kernels.split()]


def _compile_all() -> None:
    """Calls every method, compiling in place of launching; prints the names of the kernels."""
    from triton import JITFunction
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    from experiments.kernels.triton_kernel import Triton, why_not

    class H100:
        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

    compiled = set()
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        assert "cubin" in run(self, *args, grid=grid, warmup=True, **options).asm
        compiled.add(self.__name__)

    driver.set_active(H100())
    JITFunction.run = compile_only
    assert "TRITON_INTERPRET=1" in why_not("cpu")
    assert why_not("cuda") is None
    kernel = Triton()
    for shape, dtype in (((9, 128, 1024, 8), torch.bfloat16), ((1, 1, 1, 1), torch.float32)):
        n_tokens, _, width, n = shape
        x, table, idx = torch.ones(n_tokens, width), torch.ones(n, width, dtype=dtype), None
        idx = torch.zeros(shape[:2], dtype=torch.int64)
        weights = torch.ones(idx.shape)
        kernel.dot(x, table, idx)
        kernel.weighted_sum(table, idx, weights)
        segments = kernel.sort(idx, n)
        kernel.table_sums(x, segments, weights, dtype)
        gradient = kernel.row_sums(x, segments, weights, dtype)
        moments = (torch.zeros(n, width), torch.zeros(n, width, dtype=dtype))
        kernel.row_adamw(table, moments, segments.rows, gradient, _step())
        kernel.row_adamw_of_sums(table, moments, x, segments, weights, _step(step=1))
    kernel.search(torch.ones(4, 8, 2, 128), torch.ones(1, 2, 1024, 128), 16)
    kernel.search(torch.ones(1, 1, 2, 1), torch.ones(1, 2, 1, 1), 1)
    print(*sorted(compiled))


if __name__ == "__main__":
    _compile_all()
