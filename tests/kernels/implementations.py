"""Implementations that run here, and the obvious one to hold them to."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from experiments.kernels import build
from experiments.kernels.cpp import Cpp
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
    """torch, and C++ at the level that runs here; without a compiler, a skip that says so.

    `make test-levels` runs the tests at the levels below it.
    """
    found = [pytest.param(TorchKernel(), id="torch")]
    try:
        best = Cpp(build.load(), os.environ.get("EXPERIMENTS_KERNEL_LEVEL"))
    except build.BuildError as error:
        skip = pytest.mark.skip(reason=str(error))
        return [*found, pytest.param(None, id="cpp", marks=skip)]
    return [*found, pytest.param(best, id=f"cpp-{best.level}")]


KERNELS = implementations()


def triton(device: str = "cpu") -> Kernel:
    """Triton's implementation; where it can't run, a skip that says so."""
    pytest.importorskip("triton")
    from experiments.kernels.triton_kernel import Triton, why_not

    if (reason := why_not(device)) is not None:
        pytest.skip(reason)
    return Triton()


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Value, and the gradients of all that is not an index, dense."""
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
    out = function(*leaves)
    along = torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view_as(out)
    out.backward(along.to(out.device))
    found = [leaf.grad for leaf in leaves if leaf.requires_grad]
    return [out.detach(), *(g.to_dense() if g.is_sparse else g for g in found)]


def assert_close(fast: list[Tensor], slow: list[Tensor], tolerance: float) -> None:
    """Within tolerance of each tensor's largest entry, which is what rounding errors scale with."""
    for a, b in zip(fast, slow, strict=True):
        largest = float(b.abs().max()) if b.numel() else 1.0
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * largest)
