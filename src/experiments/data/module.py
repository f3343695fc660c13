"""The trainer's data: packed or streamed training batches, from the trainer's step on."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple
from itertools import repeat
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import IterableDataset

from experiments.data.batches import Batch, Windows
from experiments.data.loader import Loader
from experiments.data.streaming import Position, StreamedBatches, usable_workers

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
        self._resumed: tuple[int, int] | None = None  # rank and world size of the checkpoint

    def train_dataloader(self) -> Iterable[Iterator[Batch]]:
        """Batches from the trainer's step on: those that an uninterrupted run would see. Each item
        is the iterator of them all.
        """
        trainer = self.trainer
        assert trainer is not None
        here = (trainer.global_rank, trainer.world_size)
        batches = self.make_batches(
            start_step=self.skip + trainer.global_step,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            positions=self.positions if self._resumed == here else {},
        )
        n_workers = self.n_workers
        if isinstance(batches, StreamedBatches):
            n_workers = usable_workers(n_workers, batches.n_lanes)
        return Again(self._noted(Loader(batches, n_workers, self.n_micro)))

    def _noted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; of each that is taken the position, for the next checkpoint."""
        for batch in batches:
            if batch.position is not None:
                position = Position(*batch.position)
                self.positions[position.lane] = position
            yield batch

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {
            "positions": [astuple(position) for position in self.positions.values()],
            "rank": self.trainer.global_rank,
            "world_size": self.trainer.world_size,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the lanes' places from a checkpoint of the same rank."""
        places = [Position(*values) for values in state_dict["positions"]]
        self.positions = {position.lane: position for position in places}
        self._resumed = (state_dict["rank"], state_dict["world_size"])


class Again:
    """The same iterator again and again: a turn of Lightning's loop takes a batch for each step."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        return repeat(self._batches)
