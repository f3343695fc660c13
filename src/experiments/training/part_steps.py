"""A run's parts before its first step, and what of them is in checkpoints beside buffers."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl

from experiments.points.training_part import TrainingPart


class PartSteps(pl.Callback):
    """Callback of one part. begun: TrainingPart.at_step's."""

    def __init__(self, part: TrainingPart, begun: Callable[[], object]) -> None:
        self._part, self._begun = part, begun

    @property
    def state_key(self) -> str:
        """Name of its state in a checkpoint."""
        return self._part.state_name

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return self._part.kept()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a checkpoint's."""
        self._part.take(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._part.at_step(trainer.global_step, self._begun)
