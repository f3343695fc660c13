"""Windows of tokens in an order that depends on (seed, step, rank, world size) alone."""

from collections.abc import Iterator

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from experiments.data.packing import PackedCorpus

Batch = tuple[Tensor, Tensor]  # inputs and targets, each (batch, seq) int64


def n_windows(n_tokens: int, seq_len: int) -> int:
    """Windows of seq_len inputs, each with the token after it to predict."""
    return (n_tokens - 1) // seq_len


def window_indices(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """The (batch_size,) windows of a global step: epochs of shuffled windows, back to back."""
    position = step * batch_size + np.arange(batch_size)
    out = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(position // n):
        here = position // n == epoch
        out[here] = _permutation(seed, int(epoch), n)[position[here] % n]
    return out


_last_permutation: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    key = (seed, epoch, n)
    if key not in _last_permutation:
        while len(_last_permutation) > 1:  # a batch spans two epochs at most
            _last_permutation.pop(next(iter(_last_permutation)))
        _last_permutation[key] = np.random.default_rng([seed, epoch]).permutation(n)
    return _last_permutation[key]


def take_windows(tokens: np.ndarray, windows: np.ndarray, seq_len: int) -> Batch:
    """Inputs and targets of the given windows, each (len(windows), seq_len) int64."""
    index = windows[:, None] * seq_len + np.arange(seq_len + 1)
    both = torch.from_numpy(tokens[index].astype(np.int64))
    return both[:, :-1], both[:, 1:]


class TrainingBatches(IterableDataset[Batch]):
    """This rank's share of the batches from `start_step` on; endless."""

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        start_step: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.tokens, self.seq_len, self.batch_size = tokens, seq_len, batch_size
        self.seed, self.start_step = seed, start_step
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        n = n_windows(len(self.tokens), self.seq_len)
        step = self.start_step
        while True:
            windows = window_indices(self.seed, step, self.batch_size, n)
            yield take_windows(self.tokens, windows[self.rank :: self.world_size], self.seq_len)
            step += 1


class HeldOut(Dataset[Batch]):
    """Windows spread evenly over the held-out tokens, in batches; always the same."""

    def __init__(
        self, tokens: np.ndarray, *, seq_len: int, n_eval_tokens: int, batch_size: int
    ) -> None:
        available = n_windows(len(tokens), seq_len)
        n = min(available, max(1, n_eval_tokens // seq_len))
        self.windows = np.arange(n) * available // n
        self.tokens, self.seq_len, self.batch_size = tokens, seq_len, batch_size

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        if index >= len(self):
            raise IndexError(index)
        start = index * self.batch_size
        return take_windows(
            self.tokens, self.windows[start : start + self.batch_size], self.seq_len
        )


class TokenDataModule(pl.LightningDataModule):
    """Feeds a trainer from a packed corpus. batch_size counts sequences over all ranks."""

    def __init__(
        self,
        corpus: PackedCorpus,
        *,
        seq_len: int,
        batch_size: int,
        n_eval_tokens: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.corpus, self.seq_len, self.batch_size = corpus, seq_len, batch_size
        self.n_eval_tokens, self.seed = n_eval_tokens, seed

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the trainer's step on: a resumed run sees what it would have seen."""
        assert self.trainer is not None
        return DataLoader(
            TrainingBatches(
                self.corpus.tokens("train"),
                seq_len=self.seq_len,
                batch_size=self.batch_size,
                seed=self.seed,
                start_step=self.trainer.global_step,
                rank=self.trainer.global_rank,
                world_size=self.trainer.world_size,
            ),
            batch_size=None,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """The fixed held-out set."""
        held_out = HeldOut(
            self.corpus.tokens("validation"),
            seq_len=self.seq_len,
            n_eval_tokens=self.n_eval_tokens,
            batch_size=self.batch_size,
        )
        return DataLoader(held_out, batch_size=None)


def check_corpus(corpus: PackedCorpus, seq_len: int) -> None:
    """Raises ValueError if a split is too short for one window."""
    for split, n_tokens in corpus.n_tokens.items():
        if n_windows(n_tokens, seq_len) < 1:
            raise ValueError(
                f"the {split} split has {n_tokens} tokens, fewer than one window of "
                f"seq_len={seq_len}; use a longer text or a shorter ladder.seq_len"
            )
