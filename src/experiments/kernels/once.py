"""Backward passes that can't be differentiated themselves, and say so."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

_Backward = Callable[..., Any]


def once(what: str) -> Callable[[_Backward], _Backward]:
    """Makes a backward pass refuse to be differentiated: RuntimeError, naming `what` has none.

    torch's once_differentiable silently leaves it out where the gradient that comes in has none
    itself: as at the loss.
    """

    def decorate(backward: _Backward) -> _Backward:
        @wraps(backward)
        def run(ctx: Any, *grads: Any) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError(f"{what} has no second derivative")
            return backward(ctx, *grads)

        return run

    return decorate
