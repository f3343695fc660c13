"""Calls whose arguments don't go together: refused by name, whichever implementation would run."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from experiments.benchmarks.core.loop import OPTIM
from experiments.kernels.cpp import load_cpp
from experiments.kernels.grouped import grouped_matmul
from experiments.kernels.interface import AdamWStep
from experiments.kernels.ops import Execution, gather_dot, gather_sum, product_key_topk, row_adamw
from experiments.kernels.torch_kernels import TorchKernel
from experiments.optim.groups import optimizers
from experiments.optim.optimizer import GroupedOptimizer

X, TABLE, W = torch.randn(6, 8), torch.randn(20, 8), torch.randn(6, 3)
IDX = torch.randint(0, 20, (6, 3))
Q, KEYS, OF_HEADS = torch.randn(6, 3, 8), torch.randn(2, 10, 4), torch.randn(3, 2, 10, 4)
WRONG = [  # function, arguments, the error and its words
    (gather_dot, (X, TABLE, IDX.int()), TypeError, "idx is torch.int32, and must be torch.int64"),
    (gather_dot, (X, TABLE, IDX.float()), TypeError, "idx is torch.float32"),
    (gather_dot, (X, TABLE.long(), IDX), TypeError, "table is torch.int64"),
    (gather_dot, (X.long(), TABLE, IDX), TypeError, "x is torch.int64"),
    (gather_dot, ([0.0], TABLE, IDX), TypeError, "x is list"),
    (gather_dot, (X[:, :7], TABLE, IDX), ValueError, "x is (6, 7)"),
    (gather_dot, (X[:5], TABLE, IDX), ValueError, "x is (5, 8)"),
    (gather_dot, (X, TABLE, IDX[:, 0]), ValueError, "idx is (6,), and must be (T, J)"),
    (gather_dot, (X, TABLE[0], IDX), ValueError, "table is (8,), and must be (N, D)"),
    (gather_dot, (X, TABLE[:0], IDX), ValueError, "asks for rows of a table of none"),
    (gather_dot, (X, torch.randn(8, 20).t(), IDX), ValueError, "give table.contiguous()"),
    (gather_dot, (X.to("meta"), TABLE, IDX), ValueError, "on meta and cpu"),
    (gather_sum, (TABLE, IDX.int(), W), TypeError, "idx is torch.int32"),
    (gather_sum, (TABLE, IDX, torch.randn(6, 4)), ValueError, "weights is (6, 4)"),
    (gather_sum, (TABLE, IDX, W[:5]), ValueError, "weights is (5, 3)"),
    (gather_sum, (TABLE[:, ::2], IDX, W), ValueError, "strides (8, 2), is not contiguous"),
    (product_key_topk, (Q, KEYS[:, :2], 32), ValueError, "top_k=32 must be a number from 1 to 4"),
    (product_key_topk, (Q, KEYS, 0), ValueError, "top_k=0"),
    (product_key_topk, (Q, KEYS, 2.0), ValueError, "top_k=2.0"),
    (product_key_topk, (Q[:, :, :6], KEYS, 4), ValueError, "sub_keys are (2, 10, 4)"),
    (product_key_topk, (Q[:, :, :7], KEYS, 4), ValueError, "d_key=7 must be even"),
    (product_key_topk, (Q[:, 0], KEYS, 4), ValueError, "queries is (6, 8)"),
    (product_key_topk, (Q[:, :0], KEYS, 4), ValueError, "there must be a head"),
    (product_key_topk, (Q, OF_HEADS[:2], 4), ValueError, "are of 2 heads"),
    (product_key_topk, (Q, OF_HEADS[0, 0], 4), ValueError, "must be (2, S, d_key / 2)"),
    (product_key_topk, (Q, KEYS.flatten(0, 1), 4), ValueError, "must be (2, S, d_key / 2)"),
    (partial(product_key_topk, n_first=20), (Q, KEYS[0], 4), ValueError, "n_first=20 leaves no"),
    (partial(product_key_topk, n_first=0), (Q, KEYS[0], 4), ValueError, "n_first=0 leaves no"),
    (partial(product_key_topk, n_first=3), (Q, KEYS[:, 0, 0], 4), ValueError, "(S1 + S2, d_key"),
    (partial(product_key_topk, bias=W[0]), (Q, KEYS, 4), ValueError, "bias is (3,)"),
]


@pytest.mark.parametrize("kernel", ["auto", "cpp", "torch", "triton", "reference"])
@pytest.mark.parametrize(("function", "arguments", "error", "words"), WRONG)
def test_a_wrong_call_is_refused_by_name(kernel, function, arguments, error, words):
    with pytest.raises(error, match=re.escape(words)):
        function(*arguments, execution=Execution(kernel=kernel))


@pytest.mark.parametrize("kernel", ["cpp", "torch", "reference"])
def test_indices_are_read_when_asked_to(kernel, monkeypatch):
    execution = Execution(kernel=kernel)
    monkeypatch.setenv("EXPERIMENTS_CHECK_INDICES", "1")
    for wrong in (20, -1):
        idx = IDX.clone()
        idx[2, 1] = wrong
        message = f"index {wrong} is outside of the table's 20 rows"
        with pytest.raises(ValueError, match=message):
            gather_dot(X, TABLE, idx, execution)
        with pytest.raises(ValueError, match=message):
            gather_sum(TABLE, execution.retrieved(idx, TABLE), W, execution)
    assert gather_dot(X, TABLE, IDX, execution).shape == IDX.shape


def test_what_is_retrieved_is_for_tables_alike():
    execution = Execution(kernel="cpp")
    shared = execution.retrieved(IDX, TABLE)
    for table in (TABLE[:19], TABLE.double()):
        with pytest.raises(ValueError, match="was retrieved for a table of 20 rows"):
            gather_dot(X, table, shared, execution)
    assert torch.equal(
        gather_dot(X, TABLE, shared, Execution(kernel="reference")),
        gather_dot(X, TABLE, IDX, Execution(kernel="reference")),
    )


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"ends": torch.tensor([6])}, ValueError, "ends is (1,), and must be (2,)"),
        ({"ends": torch.tensor([2.0, 6])}, TypeError, "ends are torch.float32"),
        ({"x": X[:, :7]}, ValueError, "x is (6, 7), and must be (6, 8)"),
        ({"x": X.double()}, TypeError, "x is torch.float64, and weights are torch.float32"),
        ({"weights": torch.randn(8, 4)}, ValueError, "must be (E, D, F)"),
    ],
)
def test_experts_of_a_mixture(wrong, error, words):
    right = {"x": X, "weights": torch.randn(2, 8, 4), "ends": torch.tensor([2, 6])}
    with pytest.raises(error, match=re.escape(words)):
        grouped_matmul(**right | wrong)


@pytest.mark.parametrize("ends", [[2, 7], [4, 2], [-1, 6], [2, 5]])
def test_ends_are_read_when_asked_to(ends, monkeypatch):
    monkeypatch.setenv("EXPERIMENTS_CHECK_INDICES", "1")
    with pytest.raises(ValueError, match=r"must ascend from 0 to x's 6 rows"):
        grouped_matmul(X, torch.randn(2, 8, 4), torch.tensor(ends))


@pytest.mark.parametrize("kernel", [load_cpp() or TorchKernel(), TorchKernel()])
@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"table": torch.zeros(8, 20).t()}, ValueError, "table, (20, 8) with strides (1, 20)"),
        ({"moments": (TABLE, TABLE[:5])}, ValueError, "exp_avg_sq is (5, 8), and must be (20, 8)"),
        ({"moments": (TABLE, TABLE.half())}, TypeError, "both must be float32, or both bfloat16"),
        ({"moments": (TABLE.double(),) * 2}, TypeError, "both must be float32, or both bfloat16"),
        ({"rows": torch.tensor([1, 2]).int()}, TypeError, "rows are torch.int32"),
        ({"rows": torch.tensor([1, 2, 3])}, ValueError, "gradient is (2, 8), and must be (3, 8)"),
        ({"gradient": torch.zeros(2, 7)}, ValueError, "gradient is (2, 7)"),
        ({"gradient": torch.zeros(2, 8).double()}, TypeError, "gradient is torch.float64"),
    ],
)
def test_steps_of_rows(kernel, wrong, error, words):
    right = {
        "table": TABLE.clone(),
        "moments": (torch.zeros(20, 8), torch.zeros(20, 8)),
        "rows": torch.tensor([1, 2]),
        "gradient": torch.zeros(2, 8),
    }
    step = AdamWStep(lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0, step=1)
    with pytest.raises(error, match=re.escape(words)):
        row_adamw(kernel, **right | wrong, step=step)


def test_moments_of_another_table_are_refused_before_they_are_written_to():
    """A checkpoint of a smaller table: the step would write past their end."""
    table = nn.Parameter(TABLE.clone())
    execution = Execution(gradient="rows")
    by = optimizers(replace(OPTIM, table_gradient="rows"), execution)[1]
    group = {"by": by, "params": [table], "lr": 0.1, "weight_decay": 0, "betas": (0.9, 0.99)}
    optimizer = GroupedOptimizer([{**group, "eps": 1e-8}])
    gather_dot(X, table, IDX, execution).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"][:5]
    optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="exp_avg is"):
        optimizer.step()
