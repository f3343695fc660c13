"""Conditions of the numbers: processor or GPU, threads, allocator, and whether it is gated."""

import os
from typing import Any, get_args

import torch

from experiments.benchmarks.core import timing
from experiments.benchmarks.core.shapes import Settings
from experiments.config.constraints import KernelName
from experiments.kernels.select import resolve_kernel
from experiments.system import environment

THP = "THP_MEM_ALLOC_ENABLE"  # c10/core/impl/alloc_cpu.cpp; read once, when torch starts
ALLOCATORS = {
    "default": "the system's allocator as it is",
    "thp": f"{THP}=1: torch puts large blocks into huge pages",
    "training": "glibc keeps what is freed, as a training run tells it to",
}
KERNELS: tuple[KernelName, ...] = ("cpp", "torch", "triton")


def needs_own_process(allocator: str) -> bool:
    """Whether this one can't have that allocator, or would be left with it."""
    return allocator == "training" or allocator_environment(allocator).get(THP) != os.environ.get(
        THP
    )


def allocator_environment(allocator: str) -> dict[str, str]:
    """Environment of a process that is to have this allocator."""
    others = {name: value for name, value in os.environ.items() if name != THP}
    return {**others, THP: "1"} if allocator == "thp" else others


def prepare(settings: Settings, allocator: str, n_threads: int | None) -> None:
    """Threads, malloc and precision of this process, as training sets them."""
    torch.set_num_threads(n_threads or environment.usable_cores())
    if allocator == "training":
        environment.keep_freed_memory()
    environment.exact_products()
    environment.flush_denormals(True)


def usable_kernels(
    names: tuple[str, ...], device: str, dtype: torch.dtype
) -> tuple[list[KernelName], list[str]]:
    """Kernels that can run, and a line about each that is not available.

    Raises ValueError for an unknown name, one that is given twice, or one for another device.
    """
    usable: list[KernelName] = []
    lines = []
    for name in names:
        if name not in KERNELS:
            raise ValueError(f"--kernels {name!r} is not one of {', '.join(KERNELS)}")
        if names.count(name) > 1:
            raise ValueError(f"--kernels {','.join(names)} has {name} twice; name each once")
        found = resolve_kernel(name, device, dtype)
        known = next(kernel for kernel in get_args(KernelName) if kernel == name)
        if found is not None and found.name == name:
            usable.append(known)
        else:
            lines.append(f"{name} is left out: it is not available here")
    if not usable:
        raise ValueError(f"--kernels {','.join(names)}: none of them can run here")
    return usable, lines


def describe(settings: Settings, allocator: str) -> dict[str, Any]:
    """For the JSON file."""
    kernel = resolve_kernel("auto", settings.device, settings.table_dtype)
    return {
        "allocator": allocator,
        "gated": timing.is_gated(settings.device),
        "max_others": timing.MAX_OTHERS,
        "kernel": getattr(kernel, "name", None),
        "kernel_level": getattr(kernel, "level", None),
        "settings": settings.as_json(),
        **environment.describe(settings.device),
    }


def gate(device: str) -> str:
    """Which repeats count."""
    if timing.is_gated(device):
        return (
            f"a repeat counts if other processes used less than {timing.MAX_OTHERS:.0%} of a core"
        )
    if device == "cuda":
        return "not gated: times are the GPU's own"
    return "not gated: without /proc/stat the load is unknown, so every repeat counts"


def heading(settings: Settings, allocator: str) -> list[str]:
    """For the terminal."""
    about = describe(settings, allocator)
    level = f", cpp at {about['kernel_level']}" if about["kernel_level"] else ""
    pages = "in huge pages, as training puts them" if settings.huge_pages else "in pages of malloc"
    return [
        f"== allocator: {allocator} ({ALLOCATORS[allocator]}) ==",
        f"{about['device']}, {about['n_threads']} threads, torch {torch.__version__}{level}",
        f"{settings.rounds} rounds after a warm-up; {gate(settings.device)}",
        f"tables, and moments, of all contenders {pages}"
        if settings.device == "cpu"
        else "float32 products without TF32, as training has them",
    ]
