"""Batches from worker processes, or from this one, in the same order.

Each worker imports this file, so it is one without Lightning, which takes three times as long to
import as torch.
"""

import multiprocessing as mp
from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset

from experiments.data.batches import Batch, Windows, as_batch


class Loader:
    """Batches, made here or by worker processes in turn; the order is the same. Each comes in
    n_micro equal parts.

    Workers are not forked, for a tokenizer's and torch's threads would not survive it, and come
    from no fork server, which would keep them when the trainer is killed.
    """

    def __init__(self, batches: IterableDataset[Windows], n_workers: int, n_micro: int = 1) -> None:
        self._n_micro = n_micro
        self._batches: Iterable[Windows] = batches
        if n_workers:  # else torch's loader only costs time
            self._batches = DataLoader(
                batches,
                batch_size=None,
                collate_fn=_as_it_is,  # type: ignore[arg-type]  # without batch_size, one item
                num_workers=n_workers,
                # its own: an iterator draws a number when it is made, a resumed run one more
                generator=torch.Generator(),
                multiprocessing_context=mp.get_context("spawn"),
            )

    def __iter__(self) -> Iterator[Batch]:
        for tokens, position in self._batches:
            for part in tokens.reshape(self._n_micro, -1, tokens.shape[1]):
                yield as_batch(Windows(part, position))


def _as_it_is(windows: Windows) -> Windows:
    return windows
