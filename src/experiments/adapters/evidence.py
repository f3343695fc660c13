"""What the tokens before say, at each of them: sums that forget, causal, and with a cache."""

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor


class Evidence:
    """Of features (batch, n, d) the sums over the tokens so far, s_t = x_t + (1 - 1/memory) s_t-1.

    memory: in tokens. 1: each token alone; inf: all tokens so far with one weight.
    Of a text that comes in parts, the sums go on; it is known by an object that lives as long.
    """

    def __init__(self, memory: float) -> None:
        self.decay = 1 - 1 / memory
        self._kept: WeakKeyDictionary[object, Tensor] = WeakKeyDictionary()

    def sums(self, x: Tensor, text: object | None = None, n_read: int = 0) -> Tensor:
        """(batch, n, d), of positions n_read to n_read + n of the text.

        Raises ValueError for a text whose beginning was read by other means.
        """
        if self.decay == 0:
            return x
        before = None
        if n_read:
            before = self._kept.get(text) if text is not None else None
            if before is None or len(before) != len(x):
                raise ValueError(
                    f"{n_read} tokens of this text were read before its library was attached, or "
                    "in another batch; begin the text again (beams are not followed)"
                )
        found = _decayed(x, self.decay, before)
        if text is not None:
            self._kept[text] = found[:, -1].detach()
        return found


def _decayed(x: Tensor, decay: float, before: Tensor | None) -> Tensor:
    """By chunks: within one by a triangle of powers, from one to the next by its last sum."""
    size = 128
    steps = torch.arange(size, device=x.device)
    exponents = (steps[:, None] - steps[None, :]).clamp(min=0)
    powers = torch.tensor(decay, dtype=x.dtype, device=x.device) ** exponents
    triangle = powers.tril()
    carried = powers[:, 0] * decay  # what is left of the sum before, at each step of a chunk
    parts = []
    for chunk in x.split(size, dim=1):
        n = chunk.shape[1]
        part = triangle[:n, :n] @ chunk
        if before is not None:
            part = part + carried[:n, None] * before[:, None]
        before = part[:, -1]
        parts.append(part)
    return torch.cat(parts, dim=1)


def checked_memory(memory: float) -> float:
    """Raises ValueError unless it is 1 or more."""
    if not (memory >= 1 or memory == math.inf):
        raise ValueError(f"memory={memory} must be at least 1 token; inf is all tokens so far")
    return memory
