"""Training that repeats to the bit on a GPU: the algorithms that torch is held to.

torch's deterministic mode warns of an operation that has no deterministic algorithm, or refuses it.
The backward passes of flash and memory-efficient attention are deterministic in the second alone,
and cuDNN's attention has none. But that refuses forward passes too which do repeat, as that of the
loss. So a forward pass is warned of, and a backward pass is held to it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_deterministic(on: bool) -> None:
    """For this process, before its first product on a GPU (cuBLAS reads its variable then)."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)  # tells the compiler too
    else:
        torch.set_deterministic_debug_mode("default")
    # torch.empty would write hundreds of MB to be written again
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.enable_cudnn_sdp(not on)


@contextmanager
def strict_backward() -> Iterator[None]:
    """Around a backward pass: nothing, unless set_deterministic asked for more."""
    mode = torch.get_deterministic_debug_mode()
    if not mode:
        yield
        return
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
