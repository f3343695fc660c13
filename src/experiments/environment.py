"""What a run was computed on and with: device, memory, peak rate, versions, git."""

import ctypes
import importlib.metadata
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "lightning", "numpy", "tokenizers", "hydra-core", "omegaconf", "wandb")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def resolve_accelerator(accelerator: str) -> str:
    """'cpu' or 'cuda'; auto takes a GPU if there is one. Raises ValueError for anything else."""
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator not in ("cpu", "cuda"):
        raise ValueError(f"trainer.accelerator={accelerator!r} is not one of auto, cpu, cuda")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator=cuda, but torch sees no GPU; use auto or cpu")
    return accelerator


def resolve_precision(precision: str, accelerator: str) -> str:
    """Lightning's name of the precision; auto is bf16-mixed on a GPU that has it, else float32."""
    if precision == "auto":
        has_bf16 = accelerator == "cuda" and torch.cuda.is_bf16_supported()
        return "bf16-mixed" if has_bf16 else "32-true"
    if precision not in ("32-true", "bf16-mixed"):
        raise ValueError(f"trainer.precision={precision!r} is not one of auto, 32-true, bf16-mixed")
    return precision


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory(accelerator: str) -> int | None:
    """Bytes of the device's memory: the GPU's, or the machine's within its cgroup's limit."""
    if accelerator == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    limits = []
    if "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).exists() else "max"
        if text.isdigit():
            limits.append(int(text))
    return min(limits, default=None)


def peak_memory(accelerator: str) -> int:
    """Bytes at most resident in this process so far; on a GPU, at most allocated there."""
    if accelerator == "cuda":
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measured_peak_flops(accelerator: str, precision: str, seconds: float = 0.2) -> float:
    """FLOP/s of a square matrix product on this device with this process's threads: MFU's 1.

    Measured, not taken from a data sheet, so it holds for any device; the best of its repeats.
    """
    size = 1024 if accelerator == "cpu" else 8192
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    a = torch.randn(size, size, device=accelerator, dtype=dtype)
    best, start = float("inf"), time.perf_counter()
    torch.mm(a, a)
    while time.perf_counter() - start < seconds or best == float("inf"):
        if accelerator == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        torch.mm(a, a)
        if accelerator == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks instead of returning them to the kernel.

    A training step frees and asks again for tens of MB, and faulting those pages in anew is a
    large part of a small model's step. A no-op where malloc is not glibc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and platform.libc_ver()[0] == "glibc":
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def describe(accelerator: str, repository: Path) -> dict[str, Any]:
    """Versions, host, device, command line, and the git commit of the code."""
    device = torch.cuda.get_device_name(0) if accelerator == "cuda" else _cpu_name()
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "host": socket.gethostname(),
        "device": device,
        "n_threads": torch.get_num_threads(),
        "command": sys.argv,
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        **_git_state(repository),
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_state(repository: Path) -> dict[str, Any]:
    """git_commit and git_dirty, both None outside a checkout or without git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(repository), *arguments],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if status is None else bool(status),
    }
