"""Older x86 processors than this one, as torch and our kernels can be told to compute: a line each,
torch's level and ours. `make test-levels` repeats the tests of arithmetic at each; --oldest: at the
oldest alone, which with the processor's own has the widest difference.
"""

import sys

import torch

from experiments.kernels import build, cpp

_ATEN = {  # torch's level of each of ours
    "base": "default", "avx2": "avx2", "avx512": "avx512", "avx512_bf16": "avx512", "amx": "avx512"
}  # fmt: skip


def lower_levels() -> list[tuple[str, str]]:
    """ATEN_CPU_CAPABILITY and EXPERIMENTS_KERNEL_LEVEL of each level but the fastest here."""
    try:
        ours = cpp.levels(build.load())[:-1]
    except build.BuildError:  # torch's alone
        ours = [*_ATEN][:-1]
        own = torch.backends.cpu.get_cpu_capability().lower()
        ours = ours[: [*_ATEN.values()].index(own)] if own in _ATEN.values() else []
    return [(_ATEN[level], level) for level in ours]


if __name__ == "__main__":
    levels = lower_levels()
    for aten, ours in levels[:1] if "--oldest" in sys.argv[1:] else levels:
        print(f"ATEN_CPU_CAPABILITY={aten} EXPERIMENTS_KERNEL_LEVEL={ours}")
