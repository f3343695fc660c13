"""Ways to keep what a model knew while it learns more: continual=keep (config.schema.Continual).

Distillation and L2 draw the model to what it was at the start. Sparse training of tables changes
the rows alone that a batch uses much, and the base corpus little (Lin 2025, "Continual Learning via
Sparse Memory Finetuning", arXiv:2510.15103).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from experiments.budget.costs import FORWARD_PASSES, Cost, Term
from experiments.budget.plan import Plan
from experiments.config.schema import Continual, RunConfig
from experiments.data.stream import DomainStream
from experiments.kernels.ops import Execution
from experiments.models.ffn._base import FFN
from experiments.models.transformer import Transformer
from experiments.points.point import BuiltRun, Draft, Point, RunPart, TrainingPart


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
        if continual.replay and not isinstance(config.data.corpus, DomainStream):
            raise ValueError(
                f"continual.replay={continual.replay:g} is of a stream's base corpus; set "
                "data=stream"
            )
        if continual.top_rows is not None and not (how == "rows" and tables):
            train = "all" if init is None else init.train
            raise ValueError(
                f"continual.top_rows={continual.top_rows} chooses among the rows that a step "
                "changes: it takes model=peer or pkm whose tables are trained by "
                f"optim.table_gradient=rows, and this is {config.model_name} with "
                f"optim.table_gradient={how} and init.train={train}"
            )
        if continual.top_rows is not None and continual.top_rows >= (config.n_experts or 0):
            raise ValueError(
                f"continual.top_rows={continual.top_rows} of the {config.n_experts} rows of a "
                "table are all of them; set it lower, or to null"
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
        given = " ".join(f"{name}={value:g}" for name, value in ways.items() if value)
        return ("What was known is kept by", given) if given else None

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


class RowCounts:
    """How often each row of a layer's tables was retrieved; a meter as ExpertUsage is.

    counts (N,) int64, since the last call of taken().
    """

    def __init__(self, n_experts: int) -> None:
        self.counts = torch.zeros(n_experts, dtype=torch.int64)

    @_disable_dynamo  # in compiled graphs too: what it adds to is read between steps
    def add(self, indices: Tensor, gates: Tensor) -> None:
        """indices of any shape."""
        flat = indices.detach().flatten()
        self.counts = self.counts.to(flat.device)
        self.counts += torch.bincount(flat, minlength=len(self.counts))

    def taken(self) -> Tensor:
        """The counts, which begin at 0 again."""
        counts, self.counts = self.counts, torch.zeros_like(self.counts)
        return counts


def tf_idf(counts: Tensor, documents: Tensor, n_documents: int) -> Tensor:
    """(N,) c_i / sum c * log((n + 1) / (d_i + 1)): c_i retrievals in a batch, d_i of n background
    batches that retrieved the row (arXiv:2510.15103, Section 3).
    """
    frequency = counts / counts.sum().clamp_min(1)
    return frequency * torch.log((n_documents + 1) / (documents + 1.0))


class SparseRows(nn.Module):
    """Lets a step change the top_rows of each table that have the highest TF-IDF.

    Buffers: documents_<i> (N,), of layer i the background batches that retrieved each row.
    """

    n_documents: Tensor

    def __init__(self, model: Transformer, top_rows: int) -> None:
        super().__init__()
        self.top_rows = top_rows
        self._layers = [layer for layer in model.ffn_layers() if _tables_of(layer)]
        for i, layer in enumerate(self._layers):
            self.register_buffer(f"documents_{i}", torch.zeros(layer.n_experts, dtype=torch.int32))
            layer.meter = RowCounts(layer.n_experts)
        self.register_buffer("n_documents", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def count_background(self, model: Transformer, batches: Sequence[Tensor]) -> None:
        """Counts rows over (batch, seq) tokens of the base corpus, a document each."""
        was_training, device = model.training, next(model.parameters()).device
        model.eval()
        for tokens in batches:
            model(tokens.to(device))
            for i, layer in enumerate(self._layers):
                documents = self._documents(i)
                documents += (self._counts(layer) > 0).to(documents)
        self.n_documents.fill_(len(batches))
        model.train(was_training)

    @torch.no_grad()
    def mask(self) -> None:
        """Drops the gradients of all rows but the chosen ones, which must be sparse."""
        for i, layer in enumerate(self._layers):
            counts = self._counts(layer)
            score = tf_idf(counts, self._documents(i).to(counts), int(self.n_documents))
            n = min(self.top_rows, len(score))
            chosen = torch.zeros(len(score), dtype=torch.bool, device=score.device)
            chosen[score.topk(n).indices] = True
            chosen &= counts > 0
            for table in _tables_of(layer):
                if table.grad is not None:
                    assert table.grad.is_sparse, "Keep asks for table_gradient=rows"
                    rows = table.grad.indices()[0]
                    kept = chosen[rows]
                    table.grad = torch.sparse_coo_tensor(
                        rows[kept].unsqueeze(0),
                        table.grad.values()[kept],
                        table.shape,
                        check_invariants=False,
                        is_coalesced=True,
                    )

    def _documents(self, i: int) -> Tensor:
        documents = getattr(self, f"documents_{i}")
        assert isinstance(documents, Tensor)
        return documents

    @staticmethod
    def _counts(layer: FFN) -> Tensor:
        assert isinstance(layer.meter, RowCounts)
        return layer.meter.taken()


def _tables_of(layer: FFN) -> list[nn.Parameter]:
    """Those that are trained."""
    named = dict(layer.named_parameters())
    roles = layer.param_roles.items()
    tables = [named[n] for n, role in roles if role.group == "table" and n in named]
    return [table for table in tables if table.requires_grad]


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
            self.rows = SparseRows(model, continual.top_rows)

    def mask(self) -> None:
        if self.rows is not None:
            self.rows.mask()

    def penalty(self, model: Transformer, inputs: Tensor, logits: Tensor) -> Tensor | float:
        total: Tensor | float = 0.0
        for reference in self._reference:
            reference.to(logits.device)
            if self.continual.distil:
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
