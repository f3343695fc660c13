"""Every implementation that this machine can run, and the obvious one to hold it to."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from experiments.kernels import build
from experiments.kernels.cpp import Cpp, levels
from experiments.kernels.interface import Kernel
from experiments.kernels.ops import Execution
from experiments.kernels.torch_kernels import TorchKernel


@dataclass(frozen=True, kw_only=True)
class Given(Execution):
    """An execution by this very implementation, at one level of the processor."""

    given: Kernel

    def on(self, tensor: Tensor) -> Kernel:
        return self.given


def implementations() -> list:
    """torch, and C++ at each level of this processor; without a compiler, a skip that says so.

    The levels below the one that runs use here are slow tests.
    """
    found = [pytest.param(TorchKernel(), id="torch")]
    try:
        library = build.load()
    except build.BuildError as error:
        skip = pytest.mark.skip(reason=str(error))
        return [*found, pytest.param(None, id="cpp", marks=skip)]
    *lower, best = levels(library)
    for level in (best, *lower):
        marks = () if level == best else pytest.mark.slow
        found.append(pytest.param(Cpp(library, level), id=f"cpp-{level}", marks=marks))
    return found


KERNELS = implementations()


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value, and the gradients of all that is not an index, dense."""
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
    out = function(*leaves)
    out.backward(torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view_as(out))
    found = [leaf.grad for leaf in leaves if leaf.requires_grad]
    return [out.detach(), *(g.to_dense() if g.is_sparse else g for g in found)]


def assert_close(fast: list[Tensor], slow: list[Tensor], tolerance: float) -> None:
    """Within tolerance of each tensor's largest entry, which is what rounding errors scale with."""
    for a, b in zip(fast, slow, strict=True):
        largest = float(b.abs().max()) if b.numel() else 1.0
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * largest)
