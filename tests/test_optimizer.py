"""RowAdamW against a float64 lazy AdamW written out; gradients of rows, clipped and added up."""

import copy

import pytest
import torch
from torch import nn

from experiments.kernels.interface import AdamWStep
from experiments.kernels.ops import Execution, gather_dot, gather_sum
from experiments.kernels.portable import Portable, round_to
from experiments.kernels.select import resolve_kernel
from experiments.optimizer import RowAdamW, clip_gradients, coalesced, keep_coalesced

N, D, BETAS, EPS, LR, DECAY = 200, 40, (0.9, 0.95), 1e-8, 1e-2, 0.1
KERNELS = ["cpp", "torch"]


class LazyAdamW:
    """The obvious form, float64: retrieved rows step, the others keep all they have."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table.detach().double().clone()
        self.mean, self.square = torch.zeros_like(self.table), torch.zeros_like(self.table)
        self.n_steps = 0

    def step(self, gradient: torch.Tensor, rows: torch.Tensor) -> None:
        self.n_steps += 1
        for r in rows.unique():
            g = gradient[r].double()
            self.mean[r] = BETAS[0] * self.mean[r] + (1 - BETAS[0]) * g
            self.square[r] = BETAS[1] * self.square[r] + (1 - BETAS[1]) * g**2
            mean = self.mean[r] / (1 - BETAS[0] ** self.n_steps)
            square = self.square[r] / (1 - BETAS[1] ** self.n_steps)
            self.table[r] -= LR * DECAY * self.table[r]
            self.table[r] -= LR * mean / (square.sqrt() + EPS)


class Model:
    """Two tables that step by rows, and a matrix that doesn't."""

    def __init__(self, way, kernel="cpp", state="float32", dtype=torch.float32) -> None:
        torch.manual_seed(1)
        self.matrix = nn.Parameter(torch.randn(D, D) * D**-0.5)
        self.tables = [nn.Parameter(torch.randn(N, D).to(dtype)) for _ in range(2)]
        rows = None if way == "dense" else way
        self.optimizer = RowAdamW(
            [
                {"params": [self.matrix], "lr": 1e-3, "weight_decay": 0.0},
                {"params": self.tables, "lr": LR, "weight_decay": DECAY, "rows": rows},
            ],
            betas=BETAS,
            eps=EPS,
            state_dtype=getattr(torch, state),
            execution=Execution(kernel=kernel),
        )
        self.execution = Execution(
            kernel=kernel,
            gradient="dense" if way == "dense" else "rows",
            update=self.optimizer.update if way == "fused" else None,
        )

    def loss(self, x, idx, execution=None):
        how = execution or self.execution
        hidden = gather_dot(x @ self.matrix, self.tables[0], idx, how)
        return gather_sum(self.tables[1], idx, (hidden / 10).tanh(), how).square().sum()

    def step(self, x, idx):
        self.loss(x, idx).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _batches(n, n_tokens=12, seed=0, n_rows=N):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        x = torch.randn(n_tokens, D, generator=generator)
        yield x, torch.randint(0, n_rows, (n_tokens, 4), generator=generator)


def _exact_gradients(model, x, idx):
    tables = [t.detach().double().requires_grad_() for t in model.tables]
    hidden = torch.einsum("td,tjd->tj", x.double() @ model.matrix.detach().double(), tables[0][idx])
    torch.einsum("tj,tjd->td", (hidden / 10).tanh(), tables[1][idx]).square().sum().backward()
    return [t.grad for t in tables]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("way", ["rows", "fused"])
@pytest.mark.parametrize("state", ["float32", "bfloat16"])
def test_equals_a_lazy_adamw_in_float64(way, kernel, state):
    model = Model(way, kernel, state)
    exact = [LazyAdamW(t) for t in model.tables]
    for x, idx in _batches(25):
        for reference, gradient in zip(exact, _exact_gradients(model, x, idx), strict=True):
            reference.step(gradient, idx)
        model.step(x, idx)
    for table, reference in zip(model.tables, exact, strict=True):
        moved = (reference.table - table.detach()).abs()
        if state == "float32":  # AdamW's division enlarges the rounding of small gradients
            assert moved.max() < 2e-5
        else:  # moments of 8 bits: 0.4 % of a step of LR at most each time, and right on average
            assert moved.max() < 25 * LR * 0.02
            assert moved.mean() < LR * 0.005
        # rows never retrieved are as they were, to the bit
    seen = torch.cat([idx.flatten() for _, idx in _batches(25)]).unique()
    never = torch.ones(N, dtype=torch.bool).index_fill(0, seen, False)
    fresh = Model(way, kernel, state)
    assert never.any()
    for table, before in zip(model.tables, fresh.tables, strict=True):
        assert torch.equal(table[never], before[never])


@pytest.mark.parametrize("kernel", KERNELS)
def test_fused_takes_the_steps_of_rows(kernel):
    rows, fused = Model("rows", kernel), Model("fused", kernel)
    for x, idx in _batches(10):
        for model in (rows, fused):
            model.step(x, idx)
    assert all(t.grad is None for t in fused.tables)
    for a, b in zip(rows.tables, fused.tables, strict=True):
        # the same sums and the same step: to the bit in C++, to rounding where blocks differ
        torch.testing.assert_close(a, b, rtol=0, atol=0 if kernel == "cpp" else 1e-6)


def test_agrees_with_torch_where_every_row_is_retrieved_in_every_step():
    rows, dense = Model("rows"), Model("dense")
    idx = torch.arange(N).view(-1, 4)
    for x, _ in _batches(20, n_tokens=len(idx)):
        for model in (rows, dense):
            model.step(x, idx)
    for a, b in zip(rows.tables, dense.tables, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["rows", "fused"])
@pytest.mark.parametrize("state", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_exactly(tmp_path, way, state, dtype):
    whole = Model(way, state=state, dtype=dtype)
    for x, idx in _batches(8):
        whole.step(x, idx)
    first = Model(way, state=state, dtype=dtype)
    batches = list(_batches(8))
    for x, idx in batches[:5]:
        first.step(x, idx)
    weights = [p.detach() for p in (first.matrix, *first.tables)]
    torch.save((weights, first.optimizer.state_dict()), tmp_path / "x.pt")
    second = Model(way, state=state, dtype=dtype)
    weights, optimizer_state = torch.load(tmp_path / "x.pt")
    with torch.no_grad():
        for parameter, weight in zip((second.matrix, *second.tables), weights, strict=True):
            parameter.copy_(weight)
    second.optimizer.load_state_dict(optimizer_state)
    for x, idx in batches[5:]:
        second.step(x, idx)
    for a, b in zip((whole.matrix, *whole.tables), (second.matrix, *second.tables), strict=True):
        assert torch.equal(a, b)
        for name in ("exp_avg", "exp_avg_sq", "step"):
            theirs = (whole.optimizer.state[a][name], second.optimizer.state[b][name])
            assert torch.equal(*theirs)
            assert theirs[0].dtype == theirs[1].dtype


@pytest.mark.parametrize("kernel", KERNELS)
def test_micro_batches_and_shared_tables_add_up(kernel):
    """Accumulated gradients of rows equal the dense ones of both batches; each row once."""
    model = Model("rows", kernel)
    for table in model.tables:
        keep_coalesced(table, model.execution)
    (x, idx), (x2, idx2) = _batches(2)
    model.loss(x, idx).backward()
    model.loss(x2, idx2).backward()  # a second micro-batch
    (model.loss(x, idx2) + model.loss(x2, idx)).backward()  # tables used by two layers
    found = [t.grad for t in model.tables]
    for gradient in found:
        rows = gradient._indices()[0]
        assert (rows.diff() > 0).all()
    dense = Execution(kernel="reference")
    for p in (model.matrix, *model.tables):
        p.grad = None
    for a, i in ((x, idx), (x2, idx2), (x, idx2), (x2, idx)):
        model.loss(a, i, dense).backward()
    for gradient, table in zip(found, model.tables, strict=True):
        torch.testing.assert_close(gradient.to_dense(), table.grad, rtol=1e-4, atol=1e-4)


def test_a_gradient_that_is_kept_is_not_written_over():
    """Gradients come from memory that is used again: of 8 MB and more, once nobody has it."""
    table = nn.Parameter(torch.randn(20_000, 256))
    idx = torch.randint(0, 20_000, (4_000, 4))
    weights = torch.ones(4_000, 4)
    kept, copies = [], []
    for _ in range(4):
        how = Execution(kernel="cpp", gradient="rows")
        (gather_sum(table, idx, weights, how) * torch.randn(4_000, 256)).sum().backward()
        kept.append(table.grad._values())
        copies.append(kept[-1].clone())
        table.grad = None
    assert kept[0].nbytes > 2**23
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


@pytest.mark.parametrize("max_norm", [1e-2, 1e9])
def test_clipping_is_torchs_and_knows_rows(max_norm):
    dense, rows = Model("dense"), Model("rows")
    (x, idx), (x2, idx2) = _batches(2)
    for model in (dense, rows):
        model.loss(x, idx).backward()
        model.loss(x2, idx2).backward()
    parameters = [dense.matrix, *dense.tables]
    expected = copy.deepcopy(parameters)
    for copied, parameter in zip(expected, parameters, strict=True):
        copied.grad = parameter.grad.clone()
    norm = nn.utils.clip_grad_norm_(expected, max_norm)
    assert torch.equal(clip_gradients(parameters, max_norm), norm)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(parameters, expected, strict=True))
    # accumulated rows are merged first, or each part's norm would be counted
    for table in rows.tables:
        table.grad = coalesced(table.grad)
    found = clip_gradients([rows.matrix, *rows.tables], max_norm)
    torch.testing.assert_close(found, norm, rtol=1e-5, atol=0)
    for a, b in zip(rows.tables, expected[1:], strict=True):
        torch.testing.assert_close(a.grad.to_dense(), b.grad, rtol=1e-4, atol=1e-4 * max_norm)


def test_a_second_use_of_a_table_is_an_error_when_fused():
    """It would read rows that have stepped already."""
    model = Model("fused")
    ((x, idx),) = _batches(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (model.loss(x, idx) + model.loss(x, idx)).backward()


def test_a_dense_gradient_for_rows_is_refused():
    model = Model("rows")
    ((x, idx),) = _batches(1)
    model.loss(x, idx, Execution(kernel="torch")).backward()
    with pytest.raises(ValueError, match="dense gradient; set the layer's execution"):
        model.optimizer.step()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("gradient_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_tables_move_by_less_than_their_last_bit(kernel, gradient_dtype):
    """Rounding to the nearest would leave them where they are: 1e-4 against steps of 2**-8."""
    table = torch.ones(4_000, 64, dtype=torch.bfloat16)
    moments = (torch.zeros(table.shape), torch.zeros(table.shape))
    rows = torch.arange(len(table))
    gradient = torch.ones(table.shape, dtype=gradient_dtype)
    implementation = resolve_kernel(kernel, "cpu", torch.bfloat16)
    for step in range(1, 11):
        hyper = AdamWStep(lr=1e-4, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.0, step=step)
        implementation.row_adamw(table, moments, rows, gradient, hyper)
    # ten steps of 1e-4 from 1; 256,000 roundings of up to 2**-8 a step have a mean of about 2e-5
    assert table.double().mean() == pytest.approx(1 - 1e-3, abs=1e-4)


def test_noise_is_the_same_in_every_implementation():
    """C++ rounds the float32 of a known step by portable.round_to's hash."""
    rows = torch.tensor([0, 3, 70_000, 123_456])
    for step in (1, 2, 1000, 10**6):
        tables, found = [], []
        for kernel in (resolve_kernel("cpp", "cpu", torch.float32), Portable()):
            table = torch.full((123_457, 33), 1.2345, dtype=torch.bfloat16)
            moments = (torch.zeros(table.shape), torch.zeros(table.shape))
            hyper = AdamWStep(lr=0.5, beta1=0, beta2=0, eps=0, weight_decay=0, step=step)
            kernel.row_adamw(table, moments, rows, torch.ones(4, 33), hyper)
            tables.append(table)
        assert torch.equal(*tables)
        exact = torch.full((4, 33), float(torch.tensor(1.2345).bfloat16()) - 0.5)
        found = round_to(exact, torch.bfloat16, rows, step, 0)
        assert torch.equal(tables[0][rows], found)
        assert len(found.unique()) <= 2


def test_what_is_no_number_stays_none():
    x = torch.tensor([[0x7FFFFFFF, 0x7FC00000, -1]], dtype=torch.int32).view(torch.float32)
    assert round_to(x, torch.bfloat16, torch.tensor([5]), 3, 1).isnan().all()
    table = torch.full((1, 3), torch.nan, dtype=torch.bfloat16)
    moments = (torch.zeros(1, 3), torch.zeros(1, 3))
    hyper = AdamWStep(lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0, step=1)
    kernel = resolve_kernel("cpp", "cpu", torch.float32)
    kernel.row_adamw(table, moments, torch.tensor([0]), torch.ones(1, 3), hyper)
    assert table.isnan().all()
