"""A batch, and the two ways to get the batches of training: packed, or streamed.

Both give a sequence that depends on (seed, step, rank, world size) alone: not on how many worker
processes load it, nor on where a run was stopped and resumed.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from experiments.data.packed import Tokens, cut_windows

IGNORED = -100  # a target that is not scored; cross_entropy's default


class Batch(NamedTuple):
    """Inputs and targets, each (batch, seq) int64.

    position: where a stream stands after this batch, None if that is just the step.
    """

    inputs: Tensor
    targets: Tensor
    position: tuple[int, ...] | None = None


class Windows(NamedTuple):
    """A batch on its way from a loader's worker: (batch, seq + 1), in the dtype on disk.

    Small arrays cross a pipe; tensors would go by shared memory, at a file a tensor.
    """

    tokens: np.ndarray
    position: tuple[int, ...] | None = None


def n_windows(n_tokens: int, seq_len: int) -> int:
    """Windows of seq_len inputs, each with the token after it to predict."""
    return max(0, n_tokens - 1) // seq_len


def window_indices(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """Windows (batch_size,) of a global step: epochs of shuffled windows, back to back."""
    position, end, parts = step * batch_size, (step + 1) * batch_size, []
    while position < end:
        epoch, start = divmod(position, n)
        parts.append(_permutation(seed, epoch, n)[start : start + end - position])
        position += len(parts[-1])
    return np.concatenate(parts)


_last_permutation: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    key = (seed, epoch, n)
    if key not in _last_permutation:
        while len(_last_permutation) > 1:  # a batch spans two epochs at most
            _last_permutation.pop(next(iter(_last_permutation)))
        _last_permutation[key] = np.random.default_rng([seed, epoch]).permutation(n)
    return _last_permutation[key]


def as_batch(windows: Windows) -> Batch:
    """Windows of seq_len + 1 tokens as inputs and targets."""
    both = torch.from_numpy(windows.tokens.astype(np.int64))
    return Batch(both[:, :-1], both[:, 1:], windows.position)


class SteppedBatches(IterableDataset[Windows], ABC):
    """This rank's batches from `start_step` on, each a function of its step; endless."""

    def __init__(
        self,
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self.start_step, self.rank, self.world_size = start_step, rank, world_size

    def __iter__(self) -> Iterator[Windows]:
        first, stride = worker_share()
        return (Windows(self.batch(step)) for step in count(self.start_step + first, stride))

    @abstractmethod
    def batch(self, step: int) -> np.ndarray:
        """(batch / ranks, seq + 1) tokens of a step."""


class PackedBatches(SteppedBatches):
    """Windows of one text, in epochs of shuffled windows. most: only so many, the first."""

    def __init__(self, tokens: Tokens, most: int | None = None, **place: int) -> None:
        super().__init__(**place)
        self.tokens, self.most = tokens, most

    def batch(self, step: int) -> np.ndarray:
        n = n_windows(len(self.tokens), self.seq_len)
        n = n if self.most is None else min(n, self.most)
        windows = window_indices(self.seed, step, self.batch_size, n)
        starts = windows[self.rank :: self.world_size] * self.seq_len
        return cut_windows(self.tokens, starts, self.seq_len + 1)


def worker_share() -> tuple[int, int]:
    """(worker, number of workers) of this process: a loader asks its workers for batches in turn,
    so that worker w of W must give every W-th batch from the w-th on.
    """
    worker = get_worker_info()
    return (0, 1) if worker is None else (worker.id, worker.num_workers)
