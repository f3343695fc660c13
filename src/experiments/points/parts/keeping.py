"""Ways to keep what a model knew while it learns more: continual=keep (config.schema.Continual).

Distillation and L2 draw the model to what it was at the start. Sparse training of tables changes
a few rows alone in each step (points/sparse_rows.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.budget.costs import FORWARD_PASSES, Cost, Term
from experiments.budget.plan import Plan
from experiments.config.schema import Continual, RunConfig
from experiments.data.stream import DomainStream
from experiments.kernels.ops import Execution
from experiments.models.transformer import Transformer
from experiments.points.point import BuiltRun, Draft, Point, RunPart
from experiments.points.row_scores import find_score
from experiments.points.sparse_rows import SparseRows
from experiments.points.training_part import TrainingPart


@dataclass(frozen=True, kw_only=True)
class Keep(RunPart):
    """Replay, distillation and L2 to the model at the start, and sparse training of tables."""

    order = 70  # after the weights to start from
    continual: Continual

    @classmethod
    def of(cls, config: RunConfig) -> "Keep | None":
        return None if config.continual is None else cls(continual=config.continual)

    def refuse(self, draft: Draft) -> None:
        config, continual = draft.config, self.continual
        how, init = config.optim.table_gradient, config.init
        terms = config.model.cost(config.d_model).terms
        tables = any(term.n_tables for term in terms) and (init is None or init.train != "lora")
        if continual.top_rows is not None:
            self._refuse_rows(continual.top_rows, config, tables)
        if continual.replay and not isinstance(config.data.corpus, DomainStream):
            raise ValueError(
                f"continual.replay={continual.replay:g} is of a stream's base corpus; set "
                "data=stream"
            )
        if self._has_reference and init is None:
            raise ValueError(
                "continual.distil and continual.l2 are towards the weights at the start, and "
                "init=none has none; set init=run, hf or smollm2"
            )
        if continual.l2 and how != "dense" and tables:
            raise ValueError(
                f"continual.l2={continual.l2:g} with optim.table_gradient={how}: it draws all "
                "rows, and these ways step the retrieved ones; set optim.table_gradient=dense"
            )

    def _refuse_rows(self, top_rows: int, config: RunConfig, tables: bool) -> None:
        """tables: whether tables of rows are trained."""
        find_score(self.continual.row_score)
        how, init = config.optim.table_gradient, config.init
        if not (how == "rows" and tables):
            raise ValueError(
                f"continual.top_rows={top_rows} chooses among the rows that a step changes: it "
                "takes model=peer or pkm whose tables are trained by optim.table_gradient=rows, "
                f"and this is {config.model_name} with optim.table_gradient={how} and "
                f"init.train={'all' if init is None else init.train}"
            )
        if top_rows >= (config.n_experts or 0):
            raise ValueError(
                f"continual.top_rows={top_rows} of the {config.n_experts} rows of a table are all "
                "of them; set it lower, or to null"
            )

    @property
    def _has_reference(self) -> bool:
        return bool(self.continual.distil or self.continual.l2)

    @property
    def n_models(self) -> int:
        return int(self._has_reference)

    def cost(self, cost: Cost) -> Cost:
        """With distillation, a forward pass of the model as it was at the start."""
        if not self.continual.distil:
            return cost
        reference = Term(name="reference", flops=cost.forward_flops, seen_by_torch=False)
        return Cost((*cost.terms, reference.frozen(FORWARD_PASSES)))

    def plan(self, draft: Draft, plan: Plan) -> tuple[Draft, Plan]:
        n_windows, replay = plan.n_steps * draft.ranks.batch_size, self.continual.replay
        if 0 < replay * n_windows < 1:
            raise ValueError(
                f"continual.replay={replay:g} of the {n_windows} windows of the run is less "
                f"than one; set it to {1 / n_windows:.1g} or more, or to 0"
            )
        return draft, plan

    def plan_line(self, point: Point) -> tuple[str, str] | None:
        ways = {name: getattr(self.continual, name) for name in _WAYS}
        given = [f"{name}={value:g}" for name, value in ways.items() if value]
        if self.continual.top_rows:
            given.append(f"row_score={self.continual.row_score}")
        return ("What was known is kept by", " ".join(given)) if given else None

    def batches(self) -> Mapping[str, Any]:
        return {"replay": self.continual.replay}

    def training(self, run: BuiltRun, columns: Mapping[str, Any]) -> TrainingPart:
        """A run that goes on has its counts in the checkpoint."""
        reference = None
        if self._has_reference:
            reference = run.model_at_start()
            reference.set_execution(Execution(kernel=run.point.config.kernel))
        keeping = Keeping(self.continual, run.model, reference)
        if keeping.rows is not None and run.resumed is None:
            tokens = run.batches()
            n = self.continual.background_steps
            keeping.rows.count_background(run.model, [next(tokens) for _ in range(n)])
        return keeping


_WAYS = ("replay", "top_rows", "distil", "l2")


class Keeping(TrainingPart):
    """All ways on one model. reference: it as it was at the start, for distillation and L2."""

    state_name = "keeping"

    def __init__(
        self, continual: Continual, model: Transformer, reference: Transformer | None
    ) -> None:
        super().__init__()
        self.continual = continual
        self._reference = [] if reference is None else [reference]  # no submodule: not saved
        if reference is not None:
            reference.requires_grad_(False).eval()
        self.rows = None
        if continual.top_rows is not None:
            self.rows = SparseRows(model, continual.top_rows, find_score(continual.row_score))

    def mask(self) -> None:
        if self.rows is not None:
            self.rows.mask()

    @property
    def reads_logits(self) -> bool:
        return bool(self._reference and self.continual.distil)

    def penalty(self, model: Transformer, inputs: Tensor, logits: Tensor | None) -> Tensor | float:
        total: Tensor | float = 0.0
        for reference in self._reference:
            reference.to(inputs.device)
            if self.continual.distil:
                assert logits is not None
                total = total + self.continual.distil * _divergence(reference, inputs, logits)
            if self.continual.l2:
                total = total + self.continual.l2 / 2 * sum(_squares(model, reference))
        return total


def _divergence(reference: Transformer, inputs: Tensor, logits: Tensor) -> Tensor:
    """KL(reference || model), nats a token."""
    with torch.no_grad():
        theirs = reference(inputs).float().log_softmax(-1).flatten(0, 1)
    own = logits.float().log_softmax(-1).flatten(0, 1)
    return F.kl_div(own, theirs, reduction="batchmean", log_target=True)


def _squares(model: Transformer, reference: Transformer) -> Iterator[Tensor]:
    """Squared distances of the parameters that are trained."""
    old = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield (parameter - old[name]).square().sum()
