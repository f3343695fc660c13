"""Products of matrices by all that can make them here; the best of their rates is mfu's 1.

On a CPU these are torch's own (of float32 MKL's, which takes a kernel of half the speed on AMD's
processors), oneDNN's, and those of csrc/products.h, which the fused trunk is made of.
"""

import ctypes
import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.kernels.build import BuildError, processor_levels
from experiments.kernels.cpp import MAX_THREADS, load_best
from experiments.kernels.trunk_passes import UNIT

Call = Callable[[], Tensor]
# of the square products that are the peak. Small ones find a busy machine's quiet moment, and stay
# in caches; tiles and many threads have their best rate at large ones.
_SIZES = {"cpu": (384, 512, 768, 1536), "cuda": (8192,)}
_SLOW = 0.02  # share of the time for all, in one product: its maker makes no larger one


def makers(m: int, k: int, n: int, *, device: str, dtype: torch.dtype) -> dict[str, Call]:
    """Calls that multiply random (m, k) and (k, n), by who makes the product.

    dtype: of factors, float32 or bfloat16. Ours takes float32, and rounds.
    """
    a, b = (torch.randn(size, device=device) for size in ((m, k), (k, n)))
    left, right = a.to(dtype), b.to(dtype)
    found: dict[str, Call] = {"torch": lambda: left @ right}
    if device == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        x, weight = a.to_mkldnn(), b.t().contiguous().to_mkldnn()
        found["oneDNN"] = lambda: F.linear(x, weight)
    if device == "cpu" and k % UNIT == n % UNIT == 0 and _function() is not None:
        found["ours"] = lambda: product(a, b, bf16=dtype == torch.bfloat16)
    return found


def product(a: Tensor, b: Tensor, *, bf16: bool) -> Tensor:
    """(M, K) by (K, N), contiguous float32 on the CPU, K and N multiples of UNIT.

    bf16: whether factors are rounded to bfloat16; sums are float32. For measurements: the trunk's
    functions (trunk.py) make their products themselves.
    """
    function = _function()
    assert function is not None, "asked for without asking whether it can be had"
    assert a.is_contiguous()
    assert b.is_contiguous()
    assert a.shape[1] % UNIT == b.shape[1] % UNIT == 0
    sizes, n_threads = (*a.shape, b.shape[1]), min(torch.get_num_threads(), MAX_THREADS)
    out, needed = a.new_empty(len(a), b.shape[1]), ctypes.c_int64()
    given = (a.data_ptr(), b.data_ptr(), out.data_ptr(), *sizes, bf16)
    function(*given, None, ctypes.addressof(needed), n_threads)
    room = torch.empty(needed.value, dtype=torch.uint8)
    function(*given, room.data_ptr(), None, n_threads)
    return out


@lru_cache(maxsize=1)
def _function() -> Any:
    """csrc/product.cpp at the processor's fastest level, whichever is asked for; None without a
    compiler.
    """
    try:
        library, level = load_best(processor_levels())
    except BuildError:
        return None
    function = getattr(library, f"product_{level}")
    function.restype = None
    function.argtypes = [
        *[ctypes.c_void_p] * 3,
        *[ctypes.c_int64] * 4,
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64),
    ]
    return function


def measured_peak_flops(accelerator: str, *, bf16: bool, seconds: float = 0.2) -> float:
    """FLOP/s of square products on the device with this process's threads, the best of all that
    make them and of their repeats: mfu's 1. bf16: of bfloat16 factors.

    Measured, not taken from a data sheet, so it holds for any device. Repeats of a product follow
    one another, as its factors are in the caches then.
    """
    best, slow = 0.0, set[str]()
    dtype, sizes = torch.bfloat16 if bf16 else torch.float32, _SIZES[accelerator]
    for size in sizes:
        calls = makers(size, size, size, device=accelerator, dtype=dtype)
        for name in [name for name in calls if name not in slow]:
            call = calls[name] if accelerator == "cpu" else _synchronized(calls[name])
            taken = _quickest(call, seconds / len(sizes) / len(calls))
            best = max(best, 2 * size**3 / taken)
            if taken > _SLOW * seconds:
                slow.add(name)
    return best


def _synchronized(call: Call) -> Call:
    """A GPU's call, which returns when it is done."""

    def done() -> Tensor:
        out = call()
        torch.cuda.synchronize()
        return out

    return done


def _quickest(call: Call, seconds: float) -> float:
    """Seconds of the quickest of the calls that are made in about this time."""
    call()
    quickest, start = math.inf, time.perf_counter()
    while time.perf_counter() - start < seconds or quickest == math.inf:
        begin = time.perf_counter()
        call()
        quickest = min(quickest, time.perf_counter() - begin)
    return quickest
