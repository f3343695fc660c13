"""A store of the tokens that a model has read, so that it reads each of them once.

Keys and values, and of earlier positions what layers that look at ids look back at.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.models.documents import seen_before
from experiments.models.tokens import Tokens


class Cache:
    """Keys and values of a batch of texts so far; `Transformer.new_cache` makes an empty one.

    For inference: nothing is differentiated through it.
    """

    def __init__(self, n_layers: int) -> None:
        self.layers = tuple(Past() for _ in range(n_layers))
        self._n_ended: Tensor | int = 0  # documents, (batch, 1)
        self._documents: Tensor | None = None
        self._since: Tensor | int = 0  # tokens of the last document, (batch, 1)
        self._kept = _Recent()

    @property
    def length(self) -> int:
        """Tokens that were read, of each text."""
        return self.layers[0].length

    def mask(self, tokens: Tensor, end: int | None) -> Tensor | None:
        """(batch or 1, 1, n, length + n) bool: what new tokens (batch, n) see; takes note of them.

        None if that is all before each of them, with nothing read yet, or of one token. end: the id
        that ends a document, if attention does not reach past one (documents.document_mask).
        """
        n = tokens.shape[1]
        before = None
        if self.length and n > 1:
            seen = torch.ones(n, self.length + n, dtype=torch.bool, device=tokens.device)
            before = seen.tril(self.length)[None, None]
        if end is None:
            return before
        is_end = (tokens == end).long()
        new = self._n_ended + is_end.cumsum(1) - is_end
        self._n_ended = self._n_ended + is_end.sum(1, keepdim=True)
        old = self._documents
        self._documents = new if old is None else torch.cat([old, new], dim=1)
        same = new[:, None, :, None] == self._documents[:, None, None, :]
        if before is None:
            before = torch.ones_like(same[:1]).tril(self.length)
        return same & before

    def tokens(self, ids: Tensor, end: int | None) -> Tokens:
        """New ids (batch, n) as layers that look at them are handed them; takes note of them."""
        n_before = seen_before(ids, end, self._since)
        since = n_before[:, -1:] + 1
        self._since = since if end is None else torch.where(ids[:, -1:] == end, 0, since)
        return Tokens(ids, n_before, self._kept)


class _Recent:
    """Keeps of each state the positions that the next ones look back at."""

    def __init__(self) -> None:
        self._values: dict[int, Tensor] = {}

    def extend(self, state: int, values: Tensor, n: int) -> Tensor:
        """As tokens.Kept has it."""
        before = self._values.get(state)
        whole = F.pad(values, (0, 0, n, 0)) if before is None else torch.cat([before, values], 1)
        self._values[state] = whole[:, whole.shape[1] - n :]
        return whole


class Past:
    """One block's keys and values, in room that doubles when it is full."""

    def __init__(self) -> None:
        self.length = 0
        self._room: Tensor | None = None  # (2, batch, heads, positions, d_head)

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """New positions' (batch, heads, n, d_head) to those of all positions so far."""
        start, end = self.length, self.length + key.shape[2]
        room = self._room
        if room is None or end > room.shape[3]:
            larger = max(end, 2 * start)
            grown = key.new_empty(2, *key.shape[:2], larger, key.shape[3])
            if room is not None:
                grown[:, :, :, :start] = room[:, :, :, :start]
            self._room = room = grown
        room[0, :, :, start:end] = key
        room[1, :, :, start:end] = value
        self.length = end
        keys, values = room[:, :, :, :end]
        return keys, values
