"""Row AdamW against a float64 lazy AdamW written out; gradients of rows, clipped and added up."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmarks.core.loop import OPTIM
from experiments.kernels.interface import AdamWStep
from experiments.kernels.ops import Execution, gather_dot, gather_sum
from experiments.kernels.select import resolve_kernel
from experiments.kernels.torch_kernels import TorchKernel, round_to
from experiments.optim.gradients import clip_gradients, coalesced, keep_coalesced
from experiments.optim.groups import optimizers
from experiments.optim.optimizer import GroupedOptimizer

N, D, BETAS, EPS, LR, DECAY = 200, 40, (0.9, 0.95), 1e-8, 1e-2, 0.1
KERNELS = ["cpp", "torch"]


def grouped(*groups):
    """What steps them by AdamW, or as they say."""
    shared = {"by": OPTIM, "betas": BETAS, "eps": EPS}
    return GroupedOptimizer([{**shared, **group} for group in groups])


class LazyAdamW:
    """Obvious form, float64: retrieved rows step, the others keep all they have."""

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
        optim = replace(OPTIM, table_gradient=way, table_state=state)
        adamw, rows, _ = optimizers(optim, Execution(kernel=kernel))
        self.optimizer = grouped(
            {"params": [self.matrix], "lr": 1e-3, "weight_decay": 0.0},
            {"params": self.tables, "lr": LR, "weight_decay": DECAY,
             "by": adamw if way == "dense" else rows},
        )  # fmt: skip
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


@pytest.mark.parametrize("share", [0.5, 0.99, 1 - 1e-6, 1, 1 + 1e-6, 1.01, 2, 1e9])
def test_clipping_is_torchs_to_the_bit(share):
    """At norms around the one where clipping begins too."""
    parameters = [nn.Parameter(torch.randn(size)) for size in ((7, 5), (3,), (11, 2))]
    gradients = [torch.randn_like(p) for p in parameters]
    max_norm = share * float(nn.utils.get_total_norm(gradients))
    results = []
    for clip in (clip_gradients, nn.utils.clip_grad_norm_):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        norm = clip(parameters, max_norm)
        results.append([norm, *(p.grad for p in parameters)])
    assert all(torch.equal(ours, torchs) for ours, torchs in zip(*results, strict=True))


def test_a_whole_group_steps_as_torchs_to_the_bit():
    """With gradients that lack, at first and in between, rates that change, and a state loaded."""
    starts = [torch.randn(size) for size in ((7, 5), (3,), (11, 2))]
    groups = [{"lr": 1e-2, "weight_decay": 0.1}, {"lr": 1e-3, "weight_decay": 0.0, "eps": 1e-6}]
    results = []
    for make in (grouped, lambda *g: torch.optim.AdamW(g, betas=BETAS, eps=EPS, fused=True)):
        generator = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(start.clone()) for start in starts]
        parts = [parameters[:2], parameters[2:]]

        def built(make=make, parts=parts):
            both = zip(parts, groups, strict=True)
            return make(*({"params": part, **group} for part, group in both))

        optimizer = built()
        for step in range(6):
            for i, parameter in enumerate(parameters):
                gradient = torch.randn(parameter.shape, generator=generator)
                parameter.grad = None if step in (0, 3) and i == 1 else gradient
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
            optimizer.step()
            if step == 2:
                state, optimizer = optimizer.state_dict(), built()
                optimizer.load_state_dict(copy.deepcopy(state))
        moments = [optimizer.state[p][key] for p in parameters for key in ("exp_avg", "exp_avg_sq")]
        results.append([*parameters, *moments, *(optimizer.state[p]["step"] for p in parameters)])
    assert all(torch.equal(ours, torchs) for ours, torchs in zip(*results, strict=True))


def test_bfloat16_gradients_are_clipped_by_their_norm_in_float32():
    """Rounded to bfloat16, a norm and a scale would be off by up to 0.4 %."""
    model = Model("rows", dtype=torch.bfloat16)
    for x, idx in _batches(1, n_tokens=64):
        model.loss(x, idx).backward()
    parameters = [model.matrix, *model.tables]
    exact = torch.cat([p.grad.to_dense().double().flatten() for p in parameters]).norm()
    max_norm = float(exact) / 7
    before = [p.grad.to_dense().double() for p in parameters]
    assert clip_gradients(parameters, max_norm).double() == pytest.approx(float(exact), rel=1e-5)
    scale = max_norm / float(exact)
    for was, p in zip(before, parameters, strict=True):
        last_bit = 2**-7 if p.dtype == torch.bfloat16 else 1e-5
        now = p.grad.to_dense().double()
        assert ((now - was * scale).abs() <= 0.501 * last_bit * (was * scale).abs() + 1e-30).all()
        assert now.norm() == pytest.approx(float(was.norm()) * scale, rel=3e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_table_s_steps_are_those_that_retrieved(kernel):
    """Bias is corrected by them, so the two ways must count alike."""
    models = [Model("rows", kernel), Model("fused", kernel)]
    for model in models:
        for i, (x, idx) in enumerate(_batches(6)):
            if i in (0, 1, 4):  # not retrieved from: before the first use, and later
                (x @ model.matrix).square().sum().backward()
                model.optimizer.step()
                model.optimizer.zero_grad()
            else:
                model.step(x, idx)
        assert [int(model.optimizer.state[t]["step"]) for t in model.tables] == [3, 3]
    rows, fused = models
    for a, b in zip(rows.tables, fused.tables, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0 if kernel == "cpp" else 1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_beta_near_1_loses_no_digits(kernel):
    """1 - 0.9999 of a float32 is wrong in the fourth digit, and 30 steps by 1.2e-5 of lr."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(30, 4, 64, generator=generator)
    table, moments = torch.zeros(4, 64), (torch.zeros(4, 64), torch.zeros(4, 64))
    exact = torch.nn.Parameter(torch.zeros(4, 64, dtype=torch.float64))
    reference = torch.optim.AdamW([exact], lr=1.0, betas=(0.9, 0.9999), eps=EPS, weight_decay=0)
    implementation = resolve_kernel(kernel, "cpu", torch.float32)
    for step, gradient in enumerate(gradients, start=1):
        exact.grad = gradient.double()
        reference.step()
        hyper = AdamWStep(lr=1.0, beta1=0.9, beta2=0.9999, eps=EPS, weight_decay=0, step=step)
        implementation.row_adamw(table, moments, torch.arange(4), gradient, hyper)
    square = reference.state[exact]["exp_avg_sq"]
    torch.testing.assert_close(moments[1].double(), square, rtol=3e-6, atol=0)
    assert (table - exact.detach()).abs().max() < 2e-5


@pytest.mark.parametrize("rows", [[7], [7, 7], [3, 7], [7, 3], [9, 2, 9, 2, 0], [0, 1, 1, 2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coalesced_adds_up_equal_rows_and_sorts_them(rows, dtype):
    values = torch.randint(-8, 8, (len(rows), 5)).to(dtype)
    dense = torch.zeros(12, 5, dtype=torch.float64)
    for row, value in zip(rows, values, strict=True):
        dense[row] += value
    sparse = torch.sparse_coo_tensor(torch.tensor([rows]), values, (12, 5), check_invariants=True)
    found = coalesced(sparse)
    assert found.is_coalesced()
    assert found.indices()[0].tolist() == sorted(set(rows))
    assert found.values().dtype == dtype
    assert torch.equal(found.to_dense().double(), dense)


def test_the_hook_merges_what_was_added_up_and_leaves_a_dense_gradient():
    table = nn.Parameter(torch.zeros(12, 2))
    keep_coalesced(table, Execution(kernel="torch"))
    for rows in ([7, 3], [3, 9]):
        F.embedding(torch.tensor(rows), table, sparse=True).sum().backward()
    assert table.grad.is_coalesced()
    assert table.grad._indices()[0].tolist() == [3, 7, 9]
    assert table.grad._values()[:, 0].tolist() == [2, 1, 1]
    table.grad = None
    F.embedding(torch.tensor([1, 1]), table).sum().backward()
    assert table.grad[1, 0] == 2


def test_one_use_of_a_table_is_taken_as_it_is(monkeypatch):
    """Whether its rows ascend is known: to look would be to wait for a GPU."""
    model = Model("rows")
    for table in model.tables:
        keep_coalesced(table, model.execution)
    ((x, idx),) = _batches(1)
    loss = model.loss(x, idx)
    with monkeypatch.context() as patch:
        for name in ("__bool__", "item", "tolist"):
            patch.setattr(torch.Tensor, name, lambda *_: pytest.fail("it looked"))
        loss.backward()
        found = [coalesced(table.grad) for table in model.tables]
    for gradient in found:
        assert gradient.is_coalesced()
        assert (gradient.indices()[0].diff() > 0).all()


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


def _hash(element, step, salt):
    """Noise in Python's integers, of no fixed width but for what wraps."""
    mask = 0xFFFFFFFF
    h = element * 0x9E3779B1 + step * 0x85EBCA6B + salt * 0x27D4EB2F & mask
    h = (h ^ h >> 16) * 0x7FEB352D & mask
    h = (h ^ h >> 15) * 0x046CA68B & mask
    return (h ^ h >> 16) & 0xFFFF


def _rounded(x, rows, step, salt):
    """float32 (R, D) to bfloat16, one element at a time: the noise is added to what is cut off."""
    out = torch.empty_like(x)
    bits = x.view(torch.int32)
    for r, row in enumerate(rows.tolist()):
        for c in range(x.shape[1]):
            noisy = int(bits[r, c]) + _hash(row * x.shape[1] + c, step, salt)
            out[r, c] = torch.tensor(noisy & -65536, dtype=torch.int32).view(torch.float32)
    return out.bfloat16()


@pytest.mark.parametrize("step", [1, 2, 1000, 10**6])
def test_noise_is_the_same_in_every_implementation(step):
    """A weight is rounded by salt 0, the moments by 1 and 2. With betas of 0 the moments are the
    gradient and its square, exact in float32 for gradients of 12 bits, and the step is lr.
    """
    rows = torch.tensor([0, 3, 70_000, 123_456])
    gradient = torch.randint(2**11, 2**12, (4, 33)) / 2**12
    start = torch.randn(4, 33).bfloat16()
    exact = (start.float() - 1 / 3, gradient, gradient.square())
    expected = [_rounded(x, rows, step, salt) for salt, x in enumerate(exact)]
    for x, rounded in zip(exact, expected, strict=True):
        up = (rounded.float().abs() > x.abs()).float().mean()
        assert 0.2 < up < 0.8, "noise rounds some up and some down"
    for kernel in (resolve_kernel("cpp", "cpu", torch.float32), TorchKernel()):
        table = torch.zeros(123_457, 33, dtype=torch.bfloat16)
        table[rows] = start
        moments = (torch.zeros_like(table), torch.zeros_like(table))
        hyper = AdamWStep(lr=1 / 3, beta1=0, beta2=0, eps=0, weight_decay=0, step=step)
        kernel.row_adamw(table, moments, rows, gradient, hyper)
        for found, rounded in zip((table, *moments), expected, strict=True):
            assert torch.equal(found[rows], rounded)


@pytest.mark.parametrize("kernel", ["torch", "cpp"])
@pytest.mark.parametrize("rank", [0, 2])
def test_columns_of_a_table_step_as_they_do_in_the_whole(kernel, rank):
    """To the bit: of three processes one has the columns of 16 from 16 r on, of gradients that are
    as wide; by rows, and by the sums of their pairs.
    """
    implementation = resolve_kernel(kernel, "cpu", torch.float32)
    whole = [torch.randn(40, 48).bfloat16() for _ in range(3)]
    whole[2].abs_()
    own = slice(16 * rank, 16 * rank + 16)
    part = [t[:, own].clone() for t in whole]
    numbers = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "step": 3}
    of_whole = AdamWStep(**numbers)
    of_part = AdamWStep(**numbers, first_column=16 * rank, width=48)
    rows, gradient = torch.tensor([0, 7, 39]), torch.randn(3, 48)
    before = [t.clone() for t in whole]
    for state, step, g in ((whole, of_whole, gradient), (part, of_part, gradient[:, own])):
        implementation.row_adamw(state[0], tuple(state[1:]), rows, g.contiguous(), step)
    for w, p, b in zip(whole, part, before, strict=True):
        assert torch.equal(w[:, own], p)
        assert not torch.equal(w, b)
    values, weights = torch.randn(6, 48), torch.randn(6, 4)
    segments = implementation.sort(torch.randint(40, (6, 4)), 40)
    for state, step, v in ((whole, of_whole, values), (part, of_part, values[:, own])):
        moments = (state[1], state[2])
        implementation.row_adamw_of_sums(state[0], moments, v.contiguous(), segments, weights, step)
    for w, p in zip(whole, part, strict=True):
        assert torch.equal(w[:, own], p)


def test_noise_differs_by_step_salt_row_and_column():
    x = torch.full((64, 64), 1 + 2**-8)  # half-way between two bfloat16
    rows = torch.arange(64)
    first = round_to(x, torch.bfloat16, rows, 5, 0)
    for other in (
        round_to(x, torch.bfloat16, rows, 6, 0),
        round_to(x, torch.bfloat16, rows, 5, 1),
        round_to(x, torch.bfloat16, rows + 64, 5, 0),
        first.roll(1, 0),
        first.roll(1, 1),
    ):
        assert 0.45 < (first != other).float().mean() < 0.55


def test_what_is_no_number_stays_none():
    x = torch.tensor([[0x7FFFFFFF, 0x7FC00000, -1]], dtype=torch.int32).view(torch.float32)
    assert round_to(x, torch.bfloat16, torch.tensor([5]), 3, 1).isnan().all()
    table = torch.full((1, 3), torch.nan, dtype=torch.bfloat16)
    moments = (torch.zeros(1, 3), torch.zeros(1, 3))
    hyper = AdamWStep(lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0, step=1)
    kernel = resolve_kernel("cpp", "cpu", torch.float32)
    kernel.row_adamw(table, moments, torch.tensor([0]), torch.ones(1, 3), hyper)
    assert table.isnan().all()
