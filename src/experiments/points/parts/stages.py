"""A stream of domains, learnt one after another: data=stream."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from experiments.config.schema import RunConfig
from experiments.data.prepare import list_stages
from experiments.points.point import BuiltRun, Point, RunPart, Scorer, Scores
from experiments.points.training_part import TrainingPart


@dataclass(frozen=True, kw_only=True)
class Stages(RunPart):
    """shares: of the budget, by the names of the stages."""

    shares: Mapping[str, float]

    @classmethod
    def of(cls, config: RunConfig) -> "Stages | None":
        shares = list_stages(config.data)
        return cls(shares=shares) if shares else None

    def stages(self) -> Mapping[str, float]:
        return self.shares

    def plan_line(self, point: Point) -> tuple[str, str]:
        return "Stages, in steps", ", ".join(f"{name} {n}" for name, n in point.stages.items())

    def training(self, run: BuiltRun, columns: Mapping[str, Any]) -> TrainingPart:
        return StageEnds(run.point.stages, run.scorer)


class StageEnds(TrainingPart):
    """Scores the domains before the first step, and after the last step of each stage.

    rows: the results, in that order. The first rank scores, the others wait for it at the next
    step.
    """

    state_name = "StageEnds"

    def __init__(self, stages: Mapping[str, int], scorer: Scorer | None) -> None:
        super().__init__()
        self._names = ["start", *stages]
        self._ends = [0, *accumulate(stages.values())]
        self._scorer = scorer
        self.rows: list[Scores] = []

    def at_step(self, step: int, begun: Callable[[], object]) -> None:
        if len(self.rows) == len(self._ends) or step < self._ends[len(self.rows)]:
            return
        began = time.perf_counter()
        self.rows.append({} if self._scorer is None else self._scorer.of_domains(begun))
        self.seconds += time.perf_counter() - began

    def kept(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def take(self, kept: dict[str, Any]) -> None:
        self.rows = list(kept["rows"])

    def columns(self) -> dict[str, Any]:
        """A row for the start and each stage. The base corpus is not what was learnt, so it has no
        epochs.
        """
        n_steps: Sequence[int] = [b - a for a, b in zip([0, *self._ends], self._ends, strict=False)]
        rows = zip(self._names, n_steps, self.rows, strict=False)
        return {
            "stages": [{"stage": name, "n_steps": n, "scores": row} for name, n, row in rows],
            "epochs": None,
            "train_digest": None,
        }
