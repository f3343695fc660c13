"""Mean of the weights over the last steps, scored beside the run: parts=[weight_average]."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from experiments.config.constraints import Within
from experiments.config.schedules import TRUNK
from experiments.models.transformer import Transformer
from experiments.points.point import BuiltRun, Draft, Point, RunPart, Scorer
from experiments.points.training_part import TrainingPart


@dataclass(frozen=True, kw_only=True)
class WeightAverage(RunPart):
    """Mean over the last `share` of the steps, each with the same weight. The run itself is as
    it would be without. The additions are no FLOPs of the budget, as the optimizer's are not.
    """

    share: Annotated[float, Within(0, 1, above=True)]

    def refuse(self, draft: Draft) -> None:
        optim = draft.config.optim
        if optim.branch_from is not None:
            raise ValueError(
                f"parts=[weight_average] with optim.branch_from={optim.branch_from}: the steps of "
                "a trunk are in no mean; set optim.branch_from=null"
            )
        if optim.schedule == TRUNK:
            raise ValueError(
                "parts=[weight_average] with optim.schedule=trunk: a trunk is not scored, so no "
                "mean is; leave one of them out"
            )

    @property
    def n_models(self) -> int:
        return 1

    def n_steps(self, n_steps: int) -> int:
        """Steps in the mean, of so many; one at least."""
        return max(1, round(self.share * n_steps))

    def plan_line(self, point: Point) -> tuple[str, str]:
        n_steps = point.plan.n_steps
        return "Mean of weights", f"of the last {self.n_steps(n_steps)} of {n_steps} steps"

    def training(self, run: BuiltRun, columns: Mapping[str, Any]) -> TrainingPart:
        n_steps = run.point.plan.n_steps
        return Averaging(run.model, n_steps - self.n_steps(n_steps), run.scorer)


class Averaging(TrainingPart):
    """Means of parameters and of floating-point buffers, as batch norm's statistics. Those of
    16 bits are in float32. A checkpoint has them once there is a step in them.

    after: the steps that are in no mean.
    """

    state_name = "weight_average"

    def __init__(self, model: Transformer, after: int, scorer: Scorer | None) -> None:
        super().__init__()
        self._model, self._scorer = [model], scorer  # a list: the model is no module of this one
        self._last = after
        self.n_steps = 0
        self._means: list[Tensor] = []

    def _weights(self) -> list[Tensor]:
        model = self._model[0]
        found = [*model.parameters(), *model.buffers()]
        return [t.detach() for t in found if t.is_floating_point()]

    def at_step(self, step: int, begun: Callable[[], object]) -> None:
        if step <= self._last:  # not yet, or counted before this process began
            return
        self._last, self.n_steps = step, self.n_steps + 1
        weights = self._weights()
        if not self._means:
            wide = [torch.promote_types(t.dtype, torch.float32) for t in weights]
            self._means = [torch.zeros_like(t, dtype=d) for t, d in zip(weights, wide, strict=True)]
        for mean, now in zip(self._means, weights, strict=True):
            mean.lerp_(now.to(mean.dtype), 1 / self.n_steps)

    def kept(self) -> dict[str, Any]:
        if not self.n_steps:
            return {}
        return {"last": self._last, "n_steps": self.n_steps, "means": self._means}

    def take(self, kept: dict[str, Any]) -> None:
        if kept:
            self._last, self.n_steps = kept["last"], kept["n_steps"]
            devices = [weight.device for weight in self._weights()]
            self._means = [m.to(d) for m, d in zip(kept["means"], devices, strict=True)]

    def columns(self) -> dict[str, Any]:
        """Scores the means: loss in nats/token and bits_per_byte of each set and of validation."""
        found: dict[str, Any] = {"n_steps": self.n_steps}
        if self._scorer is not None and self._means:
            with self._averaged():
                for name, scores in self._scorer.all().items():
                    for column in ("loss", "bits_per_byte"):
                        value = scores[column]
                        found[f"{name}.{column}"] = value if math.isfinite(value) else None
        return {"weight_average": found}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Gives the model the means while it lasts."""
        own = [t.clone() for t in self._weights()]
        _copy(self._means, self._weights())
        try:
            yield
        finally:
            _copy(own, self._weights())  # by now perhaps on another device


def _copy(values: list[Tensor], into: list[Tensor]) -> None:
    for value, tensor in zip(values, into, strict=True):
        tensor.copy_(value)
