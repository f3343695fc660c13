"""Trainer's data: packed or streamed training batches, from the trainer's step on."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple
from itertools import repeat
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import IterableDataset

from experiments.data.batches import Batch, Windows
from experiments.data.loader import Loader
from experiments.data.streaming import Position, StreamedBatches, usable_workers
from experiments.system.table_files import load_plain

MakeBatches = Callable[..., IterableDataset[Windows]]


class TokenDataModule(pl.LightningDataModule):
    """Training batches, and where their stream stands, as part of a checkpoint.

    make_batches(start_step=, rank=, world_size=, positions=) gives one rank's endless batches.
    skip: how many steps' batches come before the first step's.
    """

    def __init__(
        self, make_batches: MakeBatches, n_workers: int = 0, n_micro: int = 1, skip: int = 0
    ) -> None:
        super().__init__()
        self.make_batches, self.n_workers, self.n_micro = make_batches, n_workers, n_micro
        self.skip = skip
        self.positions: dict[int, Position] = {}
        self._resumed: dict[int, list[Position]] = {}  # those of a checkpoint, by rank

    def train_dataloader(self) -> Iterable[Iterator[Batch]]:
        """Batches from the trainer's step on: those that an uninterrupted run would see. Each item
        is the iterator of them all.
        """
        trainer = self.trainer
        assert trainer is not None
        resumed = self._resumed.get(trainer.global_rank, ())
        self.positions = {position.lane: position for position in resumed}
        batches = self.make_batches(
            start_step=self.skip + trainer.global_step,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            positions=self.positions,
        )
        n_workers = self.n_workers
        if isinstance(batches, StreamedBatches):
            n_workers = usable_workers(n_workers, batches.n_lanes)
        return Again(self._noted(Loader(batches, n_workers, self.n_micro)))

    def _noted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches; of each that is taken the position, for the next checkpoint."""
        for batch in batches:
            if batch.position is not None:
                position = Position(*batch.position)
                self.positions[position.lane] = position
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Those of all ranks, who must all come here, as they do where a checkpoint is saved."""
        assert self.trainer is not None
        own = [astuple(position) for position in self.positions.values()]
        by_rank: list[Any] = [own]
        if self.trainer.world_size > 1:
            by_rank = [[] for _ in range(self.trainer.world_size)]
            if own:  # all ranks have some, or none has
                torch.distributed.all_gather_object(by_rank, own)
        return {"by_rank": by_rank}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the lanes' places. Older checkpoints have those of rank 0 alone."""
        self._resumed = {
            rank: [Position(*values) for values in places]
            for rank, places in enumerate(_by_rank(state_dict))
        }


def check_ranks(checkpoint: Path, n_ranks: int) -> None:
    """Raises ValueError for the checkpoint of a stream that another number of ranks has read."""
    loaded = load_plain(checkpoint, mmap=True)
    state = loaded.get(TokenDataModule.__qualname__, {"by_rank": []})
    places = _by_rank(state)
    n_before = state.get("world_size", len(places))
    if any(places) and n_before != n_ranks:
        raise ValueError(
            f"data.streaming=true by {n_ranks} processes, and those of {checkpoint} were "
            f"{n_before}: what they read depends on how many they are; set trainer.devices and "
            "trainer.num_nodes as they were, or delete the checkpoints, and the run starts again"
        )


def _by_rank(state_dict: dict[str, Any]) -> list[Any]:
    if "by_rank" in state_dict:
        return list(state_dict["by_rank"])
    return [state_dict["positions"]]


class Again:
    """Same iterator again and again: a turn of Lightning's loop takes a batch for each step."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        return repeat(self._batches)
