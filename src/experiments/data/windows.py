"""Windows that an evaluation scores: fixed or sliding, every target once."""

from collections.abc import Iterator

import numpy as np

from experiments.data.batches import IGNORED, Batch, Windows, as_batch
from experiments.data.packed import Tokens, cut_windows


class ScoredWindows:
    """Batches over a row of tokens; always the same.

    A window has up to seq_len inputs. The first scores all its targets; each next begins `stride`
    tokens later and scores its last `stride`, which have seq_len - stride tokens before them at
    least. stride = seq_len: fixed windows, each scored whole. The tail shorter than a window is
    one of its own, so that every token but the first is scored exactly once. max_tokens: of more
    windows, that many tokens' worth, spread evenly, without the tail.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        seq_len: int,
        batch_size: int,
        stride: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        stride = stride or seq_len
        if not 1 <= stride <= seq_len:
            raise ValueError(f"stride={stride} must be from 1 to seq_len={seq_len}")
        n_targets = len(tokens) - 1
        if n_targets < 1:
            raise ValueError(f"{len(tokens)} tokens are too few: one to read and one to predict")
        self.tokens, self.seq_len = tokens, seq_len
        self.batch_size, self.stride = batch_size, stride
        n_whole = 1 + (n_targets - seq_len) // stride if n_targets >= seq_len else 0
        starts = np.arange(n_whole) * stride
        wanted = None if max_tokens is None else max(1, max_tokens // stride)
        if wanted is not None and 0 < wanted < n_whole:
            starts = starts[np.arange(wanted) * n_whole // wanted]
            self.tail = 0
        else:
            scored = 0 if n_whole == 0 else (n_whole - 1) * stride + seq_len
            self.tail = n_targets - scored
        self.starts = starts

    def __len__(self) -> int:
        return -(-len(self.starts) // self.batch_size) + (self.tail > 0)

    def __iter__(self) -> Iterator[Batch]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Batch:
        starts = self.starts[index * self.batch_size : (index + 1) * self.batch_size]
        if not len(starts):
            return self._tail()
        batch = as_batch(Windows(cut_windows(self.tokens, starts, self.seq_len + 1)))
        targets = batch.targets.clone()
        targets[:, : self.seq_len - self.stride][(starts > 0).tolist()] = IGNORED
        return Batch(batch.inputs, targets)

    def places(self, index: int) -> np.ndarray:
        """Where in the tokens the targets of a batch are, (sequences, targets) int64."""
        starts = self.starts[index * self.batch_size : (index + 1) * self.batch_size]
        if len(starts):
            return starts[:, None] + 1 + np.arange(self.seq_len)
        n = len(self.tokens)
        return np.arange(n - self._tail_inputs(), n)[None]

    def _tail_inputs(self) -> int:
        whole = self.seq_len if self.stride < self.seq_len else self.tail
        return min(len(self.tokens) - 1, whole)

    def _tail(self) -> Batch:
        """Last tokens, with as much before them as a window of seq_len holds."""
        n = len(self.tokens)
        n_inputs = self._tail_inputs()
        batch = as_batch(Windows(cut_windows(self.tokens, [n - 1 - n_inputs], n_inputs + 1)))
        targets = batch.targets.clone()
        targets[:, : n_inputs - self.tail] = IGNORED
        return Batch(batch.inputs, targets)
