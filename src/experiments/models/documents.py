"""A token sees its own document alone: as attention's mask, in short, and as a number."""

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


def seen_before(tokens: Tensor, end: int | None, since: Tensor | int = 0) -> Tensor:
    """(batch, seq) int64: how many tokens before each are of its document; end: as above, or None,
    and all are. since: so many of the first one's, (batch, 1), were read before these.
    """
    positions = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    first = torch.zeros_like(tokens[:, :1]) - since
    if end is None:
        return positions - 1 - first
    ends = torch.where(tokens == end, positions, first)
    return positions - 1 - torch.cat([first, ends[:, :-1]], dim=1).cummax(1).values
