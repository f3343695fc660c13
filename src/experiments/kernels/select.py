"""Which implementation a name means on a device."""

from contextlib import suppress
from functools import lru_cache
from typing import get_args

import torch

from experiments.config.constraints import KernelName
from experiments.kernels.build import BuildError
from experiments.kernels.interface import Kernel
from experiments.kernels.torch_kernels import TorchKernel

_TABLES = (torch.float32, torch.bfloat16)  # what C++ and Triton read


@lru_cache(maxsize=64)
def resolve_kernel(name: str, device: str, dtype: torch.dtype) -> Kernel | None:
    """Implementation called `name` for tables of this type on this device.

    None for the reference, which is differentiated by torch. auto: triton on a GPU, cpp on a CPU,
    and torch where these can't be had (for which cpp warns, once) or don't take the type
    (float64, float16). Raises ValueError for an unknown name or an unsupported combination.
    """
    if name not in get_args(KernelName):
        raise ValueError(f"kernel={name!r} is not one of {', '.join(get_args(KernelName))}")
    if name == "reference":
        return None
    if name == "torch" or dtype not in _TABLES:
        return TorchKernel()
    _check_cpp(name, device)
    if name == "triton" or (name == "auto" and device == "cuda"):
        return _triton(device, must=name == "triton")
    return TorchKernel() if device != "cpu" else _cpp()


def check_kernel(name: str, device: str) -> None:
    """Raises ValueError if the implementation, or the level of it that EXPERIMENTS_KERNEL_LEVEL
    names, can't be had on this device.
    """
    _check_cpp(name, device)
    if device == "cpu" and name in ("auto", "cpp"):
        from experiments.kernels.cpp import asked_level

        with suppress(BuildError):  # then torch's runs
            asked_level()
    if name == "triton":
        _triton(device, must=True)


def _check_cpp(name: str, device: str) -> None:
    if name == "cpp" and device != "cpu":
        raise ValueError(f"kernel=cpp is for CPUs, and the tables are on {device}; use auto")


def _triton(device: str, must: bool) -> Kernel:
    from experiments.kernels import triton_kernel

    reason = triton_kernel.why_not(device)
    if reason is None:
        return triton_kernel.Triton()
    if must:
        raise ValueError(f"kernel=triton: {reason}; use auto or torch")
    return TorchKernel()


def _cpp() -> Kernel:
    from experiments.kernels.cpp import load_cpp

    return load_cpp() or TorchKernel()
