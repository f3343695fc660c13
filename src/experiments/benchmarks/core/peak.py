"""Peak memory of one forward and backward pass, over what was resident before it.

Each contender in a process of its own, where no allocator holds freed memory, after a pass at
a tiny shape: code, thread stacks and the libraries' own buffers are not the contender's.
"""

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Sequence

from experiments.benchmarks.core import memory
from experiments.benchmarks.core.case import Case
from experiments.benchmarks.core.shapes import Settings, Shape
from experiments.benchmarks.core.timing import Contender
from experiments.kernels.workspace import WORKSPACE

Entries = Callable[[Case], Sequence[Contender]]


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
    contender = found[name]
    call = contender.call  # made with its moments, if it steps
    contender.before()
    gc.collect()
    mark = memory.mark(settings.device)
    call()
    return memory.peak(settings.device) - mark
