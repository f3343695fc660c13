"""Positions as the trunk knows them: asked once a forward pass. README.md has how to add some.

Torch alone: an export has this file and those of the model's own positions.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Positions:
    """A frozen dataclass, which a yaml of conf/positions names by its `_target_`."""

    def check(self, d_head: int) -> None:
        """Raises ValueError for heads of a width that it can't do with."""

    def angles(self, places: Tensor, d_head: int) -> Tensor | None:
        """How far each pair (x_i, x_{i + d_head/2}) of queries and keys turns, in radians.

        places: (..., n), from 0. (..., n, d_head / 2) float32; None: nothing turns. The fused trunk
        knows these.
        """
        return None

    def bias(self, n_heads: int, n: int, n_keys: int, device: torch.device) -> Tensor | None:
        """(n_heads, n, n_keys) float32, what is added to the scaled scores of the last n of n_keys
        positions; None: nothing. Later positions are not seen, whatever it is there. Attention runs
        as it is written then (fused.py).
        """
        return None


class Seen(NamedTuple):
    """Mask and turns, as attention is told them of a forward pass.

    mask: (batch or 1, 1, n, n_keys) bool, which keys each position sees; or what is added to its
    scores, (batch or 1, n_heads, n, n_keys). None: all up to itself. turns: cos and sin of the
    angles, each (n, d_head / 2), or (batch, 1, n, d_head / 2); None: nothing turns.
    """

    mask: Tensor | None = None
    turns: tuple[Tensor, Tensor] | None = None


def seen_at(
    positions: Positions,
    places: Tensor,
    n_keys: int,
    heads: tuple[int, int],
    mask: Tensor | None,
) -> Seen:
    """Mask and turns of the last positions, by a mask as Seen has it. places: (n,), or (batch, n).
    heads: n_heads and d_head.
    """
    (n_heads, d_head), n = heads, places.shape[-1]
    angles = positions.angles(places, d_head)
    if angles is not None and angles.dim() == 3:
        angles = angles[:, None]  # for all heads
    turns = None if angles is None else (angles.cos(), angles.sin())
    bias = positions.bias(n_heads, n, n_keys, places.device)
    if bias is not None:
        if mask is None:
            mask = torch.ones(n, n_keys, dtype=torch.bool, device=bias.device).tril(n_keys - n)
        is_added = mask.is_floating_point()
        mask = bias + mask if is_added else bias.masked_fill(~mask, -torch.inf)
        mask = mask if mask.dim() == 4 else mask[None]
    return Seen(mask, turns)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (x_i, x_{i + d/2}) of (..., n, d_head) by their position's angles."""
    left, right = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)
