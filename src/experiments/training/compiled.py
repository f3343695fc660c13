"""Trunk as torch.compile makes it: where that pays, what it needs, and the seconds it takes.

Training calls the compiled forward pass; evaluation, whose windows have other shapes and whose
layers are metered, the model as it is written. So a run compiles one shape, once, and nothing of a
checkpoint depends on it: the parameters are the model's own.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from experiments.config.trainer import CompileChoice
from experiments.models.transformer import Transformer

# Where trainer.compile=auto compiles. Not on a CPU: a step gains 4 to 17 % at the study's sizes for
# some 7 s of compiling, so runs under a minute or two lose (docs/kernels.md, "Compiling the
# trunk"); and the study's records, trained without, differ from compiled ones by rounding.
AUTO_ON = ("cuda",)


def resolve_compile(choice: CompileChoice, accelerator: str) -> bool:
    """Whether to compile, as trainer.compile says and the machine allows.

    Compiles a small function to find out, once a process: what lacks shows then, and not after
    data and model are made. Raises ValueError if true is asked for and can't be; auto warns.
    """
    if choice is False or (choice == "auto" and accelerator not in AUTO_ON):
        return False
    why = why_not(accelerator)
    if why is None:
        return True
    if choice is True:
        raise ValueError(
            f"trainer.compile=true, and torch.compile does not work on this machine's "
            f"{accelerator}: {why}; install a C++ compiler (g++, or name one in CXX) and Python's "
            "headers, or set trainer.compile=false"
        )
    warnings.warn(f"trainer.compile=auto runs eagerly: {why}", stacklevel=2)
    return False


@lru_cache(maxsize=2)
def why_not(accelerator: str) -> str | None:
    """Reason why torch.compile can't work on a device, in words; None if it can."""
    try:
        torch.compile(_small, dynamic=False)(torch.ones(8, device=accelerator))
    except Exception as error:  # a compiler, headers, Triton: each lacks in its own way
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[0][:300] if lines else type(error).__name__
    return None


def _small(x: Tensor) -> Tensor:
    return x.sin() + 1


def compile_trunk(model: Transformer, backend: str = "inductor") -> Callable[[Tensor], Tensor]:
    """Model's forward pass, to be compiled at its first call; for one shape of tokens each.
    backend: torch.compile's; inductor is what training uses.

    Graphs of models before this one are dropped: torch keeps a limited number of them for a
    function's code, whichever model it is called on, and runs eagerly beyond that.
    """
    torch._dynamo.reset()
    compiled: Callable[[Tensor], Tensor] = torch.compile(
        model.forward, dynamic=False, backend=backend
    )
    return compiled


class CompileClock:
    """Counts the seconds in which torch.compile works, in the `with` block of `counted`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began: float | None = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        """By torch's own callbacks: they come once, at the two ends of nested compilations."""
        from torch._dynamo.callback import callback_handler as handler

        handler.register_start_callback(self._start)
        handler.register_end_callback(self._end)
        try:
            yield
        finally:
            if self._start in handler.start_callbacks:  # else somebody has cleared them
                handler.remove_start_callback(self._start)
                handler.remove_end_callback(self._end)

    def _start(self, _: Any = None) -> None:
        self._began = time.perf_counter()

    def _end(self, _: Any = None) -> None:
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began
        self._began = None
