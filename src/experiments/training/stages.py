"""The scores of a stream's domains at its start and at the end of each stage."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import lightning.pytorch as pl

Scores = Mapping[str, Mapping[str, float]]  # set -> loss, bits_per_byte, n_tokens


class StageEnds(pl.Callback):
    """Calls score() before the first step, and after the last step of each stage.

    rows: the results, in that order; part of every checkpoint. Rank 0 scores, the others wait for
    it at the next step.
    """

    def __init__(self, stage_steps: Sequence[int], score: Callable[[], Scores]) -> None:
        self._ends = [0, *accumulate(stage_steps)]
        self._score = score
        self.rows: list[Scores] = []
        self.seconds = 0.0  # of scoring, which is no training

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a checkpoint's rows."""
        self.rows = list(state_dict["rows"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._at(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any, **__: Any
    ) -> None:
        self._at(trainer)

    def _at(self, trainer: pl.Trainer) -> None:
        due = len(self.rows) < len(self._ends) and trainer.global_step >= self._ends[len(self.rows)]
        if due:
            began = time.perf_counter()
            self.rows.append(self._score() if trainer.is_global_zero else {})
            self.seconds += time.perf_counter() - began
