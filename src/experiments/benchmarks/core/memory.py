"""Memory: estimates of what contenders need, made before anything runs, and measured peaks."""

import ctypes
import gc
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import torch

from experiments.benchmarks.core.shapes import Settings, Shape
from experiments.benchmarks.core.timing import Contender
from experiments.kernels.workspace import WORKSPACE
from experiments.system.device import peak_memory, total_memory

_SHARE = 0.9  # of what is free that may be planned with


def table_bytes(shape: Shape, settings: Settings) -> int:
    """Bytes of a table, or of its dense gradient."""
    return shape.n_experts * shape.d_model * settings.table_dtype.itemsize


def sums_bytes(shape: Shape, settings: Settings, gradient: str) -> int:
    """Bytes of a table's gradient: dense, rows (at most) or fused (none)."""
    most = {"dense": shape.n_experts, "rows": min(shape.n_experts, shape.n_pairs), "fused": 0}
    return most[gradient] * shape.d_model * settings.table_dtype.itemsize


def gathered_bytes(shape: Shape, settings: Settings) -> int:
    """Bytes of the rows of every pair, held at once, as (T, J, D)."""
    return shape.n_pairs * shape.d_model * settings.table_dtype.itemsize


def scores_bytes(shape: Shape) -> int:
    """Bytes of all scores of sub-keys."""
    return shape.n_tokens * shape.n_heads * 2 * shape.n_sub * 4


def moments_bytes(shape: Shape, settings: Settings) -> int:
    """Bytes of both moments of both tables in float32, and of those in the tables' type."""
    kinds = {torch.float32, settings.table_dtype}
    return sum(4 * shape.n_experts * shape.d_model * kind.itemsize for kind in kinds)


def free_bytes(device: str) -> int | None:
    """Bytes that a process may still take; None if the system doesn't say."""
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    fields = dict(line.split(":") for line in path.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit = total_memory("cpu")
    return free if limit is None else min(free, limit - _resident())


def fitting(
    contenders: Iterable[Contender], device: str, reserved: int = 0
) -> tuple[list[Contender], list[str]]:
    """Contenders that fit beside those before them, and a line about each that doesn't.

    reserved: bytes that will be taken before they run.
    """
    free = free_bytes(device)
    chosen: list[Contender] = []
    notes = []
    for entry in contenders:
        together = [*chosen, entry]
        wanted = reserved + max(e.needs for e in together) + max(e.keeps for e in together)
        if free is None or wanted <= _SHARE * free:
            chosen.append(entry)
        else:
            notes.append(
                f"{entry.name} is left out: it would need about {wanted / 2**30:.1f} GiB, "
                f"and {free / 2**30:.1f} are free"
            )
    return chosen, notes


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def release(device: str) -> None:
    """Gives back what the last model or layer held, before the next is made."""
    gc.collect()
    WORKSPACE.release()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def mark(device: str) -> int:
    """Bytes in use; the peak starts from here. Raises RuntimeError where that can't be had."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # freed blocks would be used again, unseen
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    except OSError as error:
        raise RuntimeError(f"--memory needs Linux's /proc/self/clear_refs: {error}") from error
    return peak(device)


def peak(device: str) -> int:
    """Bytes at most in use since the mark."""
    if device == "cuda":
        torch.cuda.synchronize()
        return peak_memory(device)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("--memory needs VmHWM in /proc/self/status")
