"""Surroundings of a run: cores, malloc, versions, host, git."""

import ctypes
import importlib.metadata
import json
import os
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.system import code_copy, started, version
from experiments.system.credentials import cut
from experiments.system.git import run_git

_PACKAGES = (
    version.PACKAGE, "torch", "lightning", "numpy", "tokenizers", "hydra-core", "omegaconf",
    "wandb",
)  # fmt: skip
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_OMP_PAUSE_SOFT = 1  # omp.h
_CPU_NUMBERS = {"family": "cpu family", "model": "model"}  # 25, 17: Zen 4; 26: Zen 5
_DIFF_BYTES = 1_000_000  # of a diff at most, in UTF-8
PACKAGE = Path(__file__).resolve().parents[1]  # of a checkout, a sweep's copy or a site-packages


def usable_cores() -> int:
    """Cores this process may use; of a job's task or among torchrun's ranks, its share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if (given := started.given_cores()) is not None:
        return min(cores or 1, given)
    return max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def exact_products() -> None:
    """Products of float32 are such in this process, on every device.

    A GPU would be allowed to round their factors to the 10 bits of TF32, and routers then choose
    other experts; torch begins without, but a container's TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 turns
    it on.
    """
    import torch

    torch.set_float32_matmul_precision("highest")


@contextmanager
def without_denormals() -> Iterator[None]:
    """While it lasts, what is smaller than 1.2e-38 is 0 on a CPU; afterwards it is as before.

    Processors take many cycles for each such number, and attention that has become sharp is full of
    them. It is a property of each thread.
    """
    import torch

    before = not bool(torch.full((1,), 2e-38) * 0.1)
    flush_denormals(True)
    try:
        yield
    finally:
        flush_denormals(before)


def flush_denormals(on: bool) -> None:
    """Whether this thread, and those that torch shares its work among, compute with 0 in place of
    denormals.

    A thread has this from the one that starts it. So torch's pool is ended, and the next operation
    begins another; where its OpenMP can't end a pool (before 5.0), threads of an older one stay.
    """
    import torch

    torch.set_flush_denormal(on)
    end_pool = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
    if end_pool is not None:
        end_pool(_OMP_PAUSE_SOFT)


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks instead of returning them to the kernel.

    A training step frees and asks again for tens of MB, and faulting those pages in again is a
    large part of a small model's step. A no-op where malloc is not glibc's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and platform.libc_ver()[0] == "glibc":
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def describe(accelerator: str, repository: Path = PACKAGE) -> dict[str, Any]:
    """Versions, host, device, command line, and the git commit of the code; for a record."""
    import torch

    device = torch.cuda.get_device_name(0) if accelerator == "cuda" else _cpu_name()
    return {
        "python": platform.python_version(),
        "packages": _versions(),
        "host": socket.gethostname(),
        "device": device,
        "n_threads": torch.get_num_threads(),
        "command": [Path(sys.argv[0]).name, *map(cut, sys.argv[1:])],  # without its folder
        **started.job_numbers(),
        **git_state(repository),
    }


def _versions() -> dict[str, str]:
    """Versions of those packages that are installed: logger=csv, say, needs no wandb."""
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def snapshot_environment(accelerator: str, repository: Path = PACKAGE) -> dict[str, Any]:
    """describe(), and what is too big for a record: every package's version and the git diff.

    git_diff is the text of all uncommitted changes to tracked files, cut after 1 MB with a note;
    new files that git does not track are not in it. None without git or a checkout.
    """
    return {
        **describe(accelerator, repository),
        "platform": platform.platform(),
        "packages": installed_packages(),
        "git_diff": git_diff(repository),
    }


def installed_packages() -> dict[str, str]:
    """Version of every package that Python finds here, by name, sorted as pip freeze does."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a half-removed package has none
            found.setdefault(name, distribution.version)  # as on import, the first one counts
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def processor() -> str:
    """CPU's name with its family and model, where Linux says them: 'AMD EPYC' alone is any."""
    said = _cpuinfo()
    numbers = [f"{word} {said[key]}" for word, key in _CPU_NUMBERS.items() if key in said]
    return _cpu_name() + (f" ({', '.join(numbers)})" if numbers else "")


def _cpu_name() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def _cpuinfo() -> dict[str, str]:
    """Fields that Linux has of the first CPU; {} elsewhere."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().partition("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def git_state(repository: Path) -> dict[str, Any]:
    """git_commit and git_dirty, both None outside a checkout or without git.

    Of a sweep's copy of the code, those that it was taken at.
    """
    if (copy := _find_copy(repository)) is not None:
        return json.loads((copy / code_copy.STATE_NAME).read_text(encoding="utf-8"))
    status = run_git(repository, "status", "--porcelain", "--untracked-files=no")
    commit = run_git(repository, "rev-parse", "HEAD")
    return {
        "git_commit": None if commit is None else commit.strip(),
        "git_dirty": None if status is None else bool(status),
    }


def git_diff(repository: Path) -> str | None:
    """Uncommitted changes to tracked files, cut after 1 MB with a note; None as git_state's.

    Of a sweep's copy of the code that another user took, a note: they are for their owner alone.
    """
    if (copy := _find_copy(repository)) is not None:
        path = copy / code_copy.DIFF_NAME
        try:
            return path.read_text(encoding="utf-8") if path.exists() else None
        except PermissionError:
            return f"[in {path}, which its owner alone can read]\n"
    # what a user's git may be set to would make it unfit for git apply
    plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-relative")
    diff = run_git(repository, "diff", *plain, "HEAD")
    if diff is None or len(encoded := diff.encode()) <= _DIFF_BYTES:
        return diff
    kept = encoded[:_DIFF_BYTES].decode(errors="ignore")
    return (
        f"{kept}\n[cut here: {len(encoded) - _DIFF_BYTES} of {len(encoded)} bytes are left out]\n"
    )


def _find_copy(repository: Path) -> Path | None:
    """Folder of the copy that this is part of; None for a checkout, whatever files it holds."""
    copy = repository.resolve().parents[1]
    return copy if copy.parent.name == code_copy.FOLDER else None
