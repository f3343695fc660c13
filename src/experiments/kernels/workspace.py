"""Large blocks of memory in huge pages, given back by whoever drops them and used again.

Sums over a table's rows are hundreds of MB that come and go with each step. Fresh from the kernel
they would be faulted in page by page each time, at a seventh of the speed of memory.
"""

import ctypes
import math
import mmap
import sys
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_LARGE = 2**20  # bytes from which a block is worth keeping
_PAGE = 2 * 2**20  # bytes of a huge page
_MADV_COLLAPSE = 25  # Linux 6.1's asm-generic/mman-common.h
_ADVISABLE = sys.platform == "linux" and hasattr(mmap, "MADV_HUGEPAGE")


class Workspace:
    """empty() makes tensors whose memory returns here when the last reference to it goes.

    Nobody is handed memory that a tensor (or a view of one) still has, so gradients from here can
    be accumulated, clipped or kept like any others. Blocks are kept up to one and a half times the
    most that was in use at once; a block serves what is at least half its size.
    """

    def __init__(self) -> None:
        self._idle: list[mmap.mmap] = []
        self._in_use = self._most = 0  # bytes
        self._lock = threading.RLock()  # a block may come back while another is sought

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An uninitialised CPU tensor."""
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes < _LARGE or not _ADVISABLE:
            return torch.empty(shape, dtype=dtype)
        with self._lock:
            block = self._take(n_bytes)
            self._in_use += len(block)
            self._most = max(self._most, self._in_use)
        view = np.frombuffer(block, dtype=np.uint8, count=n_bytes)
        # torch keeps `view` for as long as a tensor has the memory
        tensor = torch.from_numpy(view).view(dtype).view(*shape)
        weakref.finalize(view, self._give_back, block).atexit = False
        return tensor

    def _take(self, n_bytes: int) -> mmap.mmap:
        size = -(-n_bytes // _PAGE) * _PAGE
        fitting = [b for b in self._idle if size <= len(b) <= 2 * size]
        if fitting:
            best = min(fitting, key=len)
            self._idle.remove(best)
            return best
        # private: shared memory gets no huge pages, and a forked child would write into ours
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.madvise(mmap.MADV_HUGEPAGE)
        return block

    def _give_back(self, block: mmap.mmap) -> None:
        with self._lock:
            self._in_use -= len(block)
            self._idle.append(block)
            idle = sum(map(len, self._idle))
            while self._idle and idle + self._in_use > 1.5 * self._most:
                idle -= len(self._idle.pop(0))  # unmapped, for nothing refers to it

    def release(self) -> None:
        """Gives idle blocks back to the system."""
        with self._lock:
            self._idle.clear()
            self._most = self._in_use


WORKSPACE = Workspace()


def use_huge_pages(tensor: Tensor) -> None:
    """Puts a large CPU tensor that lives long into huge pages, now. A hint: where it isn't taken,
    reading random rows misses the TLB and is slower, no more.
    """
    storage = tensor.untyped_storage()
    if tensor.device.type != "cpu" or storage.nbytes() < _LARGE or not _ADVISABLE:
        return
    begin = -(-storage.data_ptr() // _PAGE) * _PAGE
    end = (storage.data_ptr() + storage.nbytes()) // _PAGE * _PAGE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if end > begin and libc.madvise(begin, end - begin, mmap.MADV_HUGEPAGE) == 0:
        libc.madvise(begin, end - begin, _MADV_COLLAPSE)
