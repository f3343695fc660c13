"""Attention that does not reach past the end of another document: as a mask, and in short."""

import torch
import torch.nn.functional as F
from torch import Tensor


def document_mask(tokens: Tensor, end: int) -> Tensor:
    """(batch, 1, seq, seq) bool: position i sees j <= i of its own document.

    The id `end` belongs to the document that it ends. Rotary positions are relative, so they need
    no restart.
    """
    is_end = tokens == end
    document = is_end.cumsum(1) - is_end.long()
    same = document[:, None, :, None] == document[:, None, None, :]
    seq = tokens.shape[1]
    return same & torch.ones(seq, seq, dtype=torch.bool, device=tokens.device).tril()


def first_seen(tokens: Tensor, end: int) -> Tensor:
    """(batch, seq) int32: the first position of each one's document; document_mask in short."""
    positions = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    ends = torch.where(tokens == end, positions, 0).cummax(1).values
    return F.pad(ends[:, :-1], (1, 0)).to(torch.int32)
