"""Tokens that a layer's input is of, for the layers that look at their ids (FFN.reads_tokens).

A layer sees as much of them as attention does: nothing later, and nothing of another document.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Kept(Protocol):
    """Values of the positions before these, of a text that is read in parts."""

    def extend(self, state: int, values: Tensor, n: int) -> Tensor:
        """(batch, n + len, d): those of the n positions before, zeros where there are none, and the
        values (batch, len, d), of which it takes note. state: which of those that layers keep.
        """
        ...


class Tokens:
    """ids (batch, seq) int64; n_before (batch, seq): how many tokens before each are of its own
    document, and are no padding: a layer that looks back looks back no further.

    kept: of the tokens before these, where a model reads a text in parts; None: there are none.
    """

    def __init__(self, ids: Tensor, n_before: Tensor, kept: Kept | None = None) -> None:
        self.ids, self.n_before, self.kept = ids, n_before, kept
        self._states: Iterator[int] | None = None if kept is None else iter(range(2**31))

    def after(self, values: Tensor, n: int) -> Tensor:
        """(batch, seq, d) values to (batch, n + seq, d): first those of the n positions before.

        Zeros where there are none; whether they are of the same document n_before says. Each call
        keeps its values for the same call of the next pass: so calls are as many, and in one order,
        in every pass.
        """
        if self.kept is None or self._states is None:
            return F.pad(values, (0, 0, n, 0))
        return self.kept.extend(next(self._states), values, n)


def given(tokens: Tokens | None, layer: object) -> Tokens:
    """Returns the tokens. Raises ValueError if the caller of this layer gave none."""
    if tokens is None:
        name = type(layer).__name__
        raise ValueError(
            f"{name} looks at the ids of its tokens, and was called without them; call it as "
            f"layer(x, tokens) (models/tokens.py), or take a layer that reads x alone"
        )
    return tokens


def check_vocabulary(configs: Iterable[object], n_entries: int, *, exactly: bool) -> None:
    """Raises ValueError for the config of a layer with a row for each id, if it has fewer rows than
    the tokenizer has entries; exactly: or more.
    """
    for config in configs:
        for one in (config, getattr(config, "frozen", None), getattr(config, "trained", None)):
            n_rows = getattr(one, "vocab_size", n_entries)
            if n_rows < n_entries or (exactly and n_rows > n_entries):
                raise ValueError(
                    f"model.vocab_size={n_rows}, a row for each id, and the tokenizer of the model "
                    f"has {n_entries} entries; set model.vocab_size={n_entries}"
                )
