"""More experts than the weights to start from have (init/growth): init.how=bias or copies.

Old parameters go on with their parent's moments, and new keys are let in little by little.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from experiments.config.schema import RunConfig
from experiments.init.finished_run import FinishedRun
from experiments.init.growth import find_grower
from experiments.init.moments import Moments, grown_moments, has_moments, set_moments
from experiments.init.place import grows
from experiments.models.ffn._base import FFN, Late
from experiments.models.transformer import Transformer, get_block
from experiments.optim.optimizer import GroupedOptimizer
from experiments.points.layers import bases, chosen
from experiments.points.point import BuiltRun, RunPart
from experiments.points.training_part import TrainingPart


@dataclass(frozen=True, kw_only=True)
class Growth(RunPart):
    """anneal: the share of the steps in which new keys are let in."""

    order = 20  # after the weights
    by_columns = True
    anneal: float

    @classmethod
    def of(cls, config: RunConfig) -> "Growth | None":
        init = config.init
        return cls(anneal=init.anneal) if init is not None and grows(config) else None

    def start(self, run: BuiltRun) -> dict[str, Any]:
        """Whether the optimizer goes on with the parent's moments, in the column init."""
        config = run.point.config
        saved = _saved(config)
        found = saved is not None and has_moments(saved, run.model, bases(config), config.optim)
        return {"init": {"moments": found}}

    def training(self, run: BuiltRun, columns: Mapping[str, Any]) -> TrainingPart:
        """columns: init.late says how far down the bias on new keys begins, by block."""
        config, layers = run.point.config, {}
        for i, depth in columns["init"]["late"].items():
            base = bases(config)[int(i)]
            layers[get_block(run.model, int(i)).ffn] = find_grower(base).n_old(base), depth
        n_steps = max(1, round(self.anneal * run.point.plan.n_steps))
        moments: Moments = {}
        saved = _saved(config)
        if run.resumed is None and saved is not None:
            how, own = str(columns["init"]["how"]), bases(config)
            moments = grown_moments(saved, run.model, own, chosen(config), config.optim, how)
        return Growing(layers, n_steps, moments)


def _saved(config: RunConfig) -> dict[str, Any] | None:
    """Parent's optimizer, if the weights are a run's."""
    init = config.init
    if init is None or not isinstance(init.weights, FinishedRun):
        return None
    return init.weights.optimizer_state()


class Growing(TrainingPart):
    """Sets the moments once, and before each step the bias on what is let in late.

    The bias begins so low that nothing new is read, and rises to 0 linearly over n_steps. It
    follows from the step alone, so a run that is taken up again has the same. layers: each with its
    Late.n_old, and how far below 0 its bias begins.
    """

    state_name = "growing"

    def __init__(
        self, layers: Mapping[FFN, tuple[int, float]], n_steps: int, moments: Moments
    ) -> None:
        super().__init__()
        self._layers, self._n_steps, self._moments = layers, n_steps, moments

    def set_optimizer(self, optimizer: GroupedOptimizer, model: Transformer) -> None:
        set_moments(optimizer, model, self._moments)
        self._moments = {}  # the optimizer has copies

    def before_step(self, step: int) -> None:
        share = 1 - step / self._n_steps if step < self._n_steps else 0.0
        for layer, (n_old, depth) in self._layers.items():
            if share == 0:
                layer.late = None
                continue
            if layer.late is None or layer.late.bias is None:  # else the same tensor: a compiled
                at = layer.output_weights()[0].device  # graph reads it again
                layer.late = Late(n_old=n_old, bias=torch.zeros((), device=at))
            assert layer.late.bias is not None
            layer.late.bias.fill_(-depth * share)

    def end(self) -> None:
        for layer in self._layers:
            layer.late = None
