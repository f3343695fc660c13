"""Functions that run between two compiled graphs."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch._compile import _disable_dynamo

P = ParamSpec("P")
T = TypeVar("T")


def uncompiled(function: Callable[P, T]) -> Callable[P, T]:
    """torch.compiler.disable, which imports the compiler once something is compiled and not before:
    that takes 1.6 s, which what compiles nothing has no use for.
    """
    disabled = _disable_dynamo(function)

    @wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> T:
        return (disabled if torch.compiler.is_compiling() else function)(*args, **named)

    return call
