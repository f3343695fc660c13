"""One matrix product per expert over tokens sorted by expert."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

_ALIGNMENT = 16  # bytes; grouped_mm asks it of every row


def grouped_matmul(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """(T, D) x, (E, D, F) weights to (T, F): row t is multiplied by its expert's matrix.

    ends (E,): where each expert's rows of x end; an expert may have none.
    Uses torch's grouped_mm; types and widths that it refuses (float64, rows that are not
    multiples of 16 bytes, a torch without it) take a loop over the experts.
    """
    grouped_mm = getattr(F, "grouped_mm", None)
    aligned = all(n * x.element_size() % _ALIGNMENT == 0 for n in weights.shape[1:])
    fits = x.dtype == weights.dtype and x.dtype in (torch.float32, torch.bfloat16)
    if grouped_mm is not None and aligned and fits:
        return grouped_mm(x, weights, offs=ends.to(torch.int32))
    return grouped_matmul_loop(x, weights, ends)


def grouped_matmul_loop(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """The obvious form of grouped_matmul, one product after the other."""
    bounds = pairwise([0, *ends.tolist()])
    parts = [x[a:b] @ w for (a, b), w in zip(bounds, weights.unbind(), strict=True)]
    return torch.cat(parts)
