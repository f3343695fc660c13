"""Peak memory of one forward and backward pass, over what was resident before it.

Each contender in a process of its own, where no allocator holds freed memory, after a pass at
a tiny shape: code, thread stacks and the libraries' own buffers are not the contender's.
"""

import ctypes
import gc
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from experiments.benchmarks.case import Case
from experiments.benchmarks.memory_fit import Entry
from experiments.benchmarks.shapes import Settings, Shape
from experiments.kernels.workspace import WORKSPACE

Entries = Callable[[Case], Sequence[Entry]]


def in_own_process(arguments: Sequence[str]) -> int:
    """What `peak_bytes` of the benchmark's command with these arguments printed last.

    Raises RuntimeError with its error if it failed.
    """
    command = [sys.executable, "-m", "experiments.bench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"measuring memory failed: {last}")
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak_bytes(shape: Shape, settings: Settings, entries: Entries, name: str) -> int:
    """Bytes that the entry called `name` takes in its first call at this shape."""
    half = min(shape.d_key, 16)
    tiny = Shape(
        d_model=min(shape.d_model, 32),
        n_experts=min(shape.n_experts, max(16, shape.top_k) ** 2),
        n_tokens=min(shape.n_tokens, 16),
        n_heads=shape.n_heads,
        top_k=shape.top_k,
        d_key=half,
    )
    _first_call(tiny, settings, entries, name)
    WORKSPACE.release()
    return _first_call(shape, settings, entries, name)


def _first_call(shape: Shape, settings: Settings, entries: Entries, name: str) -> int:
    case = Case(shape, settings)
    found = {entry.name: entry for entry in entries(case)}
    contender = case.contender(found[name])  # with its moments, if it steps
    contender.before()
    gc.collect()
    mark = _mark(settings.device)
    contender.call()
    return _peak(settings.device) - mark


def _mark(device: str) -> int:
    """Bytes in use; the peak starts from here."""
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
    return _peak(device)


def _peak(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("--memory needs VmHWM in /proc/self/status")
