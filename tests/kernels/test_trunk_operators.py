"""Trunk's operators, which compiled graphs call: torch's rules, and the eager functions."""

import pytest
import torch

from experiments.kernels import trunk
from experiments.kernels.trunk_operators import operators
from tests.kernels.trunk_formulas import (
    EPS,
    attention_case,
    gradient_of,
    head_case,
    mlp_case,
    trunk_levels,
)

pytestmark = pytest.mark.skipif(not trunk_levels(), reason="no C++ compiler")

CASES = [
    lambda: mlp_case(20, 32, 40, "gelu", gated=True),
    lambda: mlp_case(20, 32, 40, "silu", gated=False),
    lambda: attention_case(2, 10, 2, 1, 16, documents=True),
    lambda: head_case(20, 32, 50),
]


def _check(operator, *arguments):
    torch.library.opcheck(operator.default, arguments)


@pytest.mark.parametrize("gated", [False, True])
def test_torchs_own_check_of_an_mlp(gated):
    """Schema, fake results, registration of gradients, and tracing with fixed and free shapes."""
    given = mlp_case(20, 32, 40, "gelu", gated).leaves()
    how = ("gelu", (EPS, 0.7), gated)
    _check(operators.mlp_half, *given, *how)
    with torch.no_grad():
        y, *kept = operators.mlp_half(*given, *how)
        for asked in ([True] * 4, [True, False, True, False]):
            _check(operators.mlp_half_backward, y, *given, kept, *how, asked)


@pytest.mark.parametrize("documents", [False, True])
def test_torchs_own_check_of_attention(documents):
    given = attention_case(2, 10, 2, 1, 16).leaves()
    first = torch.zeros(2, 10, dtype=torch.int32) if documents else None
    given += [torch.ones(10, 8), torch.ones(10, 8), first]
    how = ((2, 1, 16), (EPS, 0.3, 0.7), False)
    _check(operators.attention_half, *given, *how)
    with torch.no_grad():
        y, *kept = operators.attention_half(*given, *how)
        _check(operators.attention_half_backward, y, *given, kept, *how, [True, False, True])


@pytest.mark.parametrize("asked", [[True] * 3, [True, False, True], [False] * 3])
def test_torchs_own_check_of_the_head(asked):
    given = head_case(20, 32, 50).leaves([i for i in range(3) if not asked[i]])
    _check(operators.head_losses, *given, torch.randint(0, 50, (20,)), (EPS, 0.7), False, asked)


@pytest.mark.parametrize("make", CASES)
def test_a_compiled_graph_is_eager_to_the_bit(make):
    """Also where a part is frozen."""
    case, found = make(), []
    for frozen, bf16 in (((), True), ((0, 2), False)):
        torch._dynamo.reset()
        compiled = torch.compile(case.fused, backend="aot_eager", fullgraph=True, dynamic=False)
        for function in (case.fused, compiled):
            leaves = case.leaves(frozen)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                y = function(*leaves)
            y.backward(0.5 * gradient_of(y))
            found.append([y.detach(), *(t.grad for t in leaves if t is not None)])
        eager, graph = found[-2:]
        for a, b in zip(eager, graph, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_compiled_losses_without_gradients():
    case = head_case(20, 32, 50)
    compiled = torch.compile(case.fused, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(*case.leaves()), case.fused(*case.leaves()))


def test_a_target_outside_the_vocabulary_is_refused_in_a_graph_too():
    x, norm, weight = torch.randn(5, 32), torch.ones(32), torch.randn(50, 32)

    def losses(targets):
        return trunk.head_losses(x, norm, weight, targets, EPS, 1.0)[0]

    compiled = torch.compile(losses, backend="aot_eager", fullgraph=True)
    with pytest.raises(IndexError, match="outside the vocabulary of 50 entries"):
        compiled(torch.full((5,), 50))
