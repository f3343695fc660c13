"""How far apart float32 lets two ways of computing the same model be.

Which order sums are taken in depends on the processor, on its vectors and on a batch's shape. So
the bound follows the size of what is compared; a constant that holds on one processor fails on
another.
"""

import math

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


def relative(n_blocks: int, each: int = 64) -> float:
    """Bound for what comes out of n_blocks and a head, relative to its largest entry.

    each: what a block adds, in units of EPS. A sum of n addends is off by √n roundings of EPS / 2,
    so by 8 EPS at n = 256, and a block has eight on the way, one after the other: a norm, queries,
    scores, values, the way out; a norm, the way in and out. 64 is for all of them to be off the
    same way. Blocks are off either way, and add up like the root of their number. The furthest
    that was seen is half of it: 60 EPS after two blocks.
    """
    return each * math.sqrt(n_blocks + 1) * EPS


def assert_rounding(found: Tensor, wanted: Tensor, n_blocks: int, each: int = 64) -> None:
    """That no entry is further off than `relative` allows of the largest."""
    largest = float(wanted.detach().abs().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=relative(n_blocks, each) * largest)
