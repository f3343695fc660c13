"""What a run does to keep what it knew, beside learning its text (config.schema.Continual).

Distillation and L2 draw the model to what it was at the start. Sparse training of tables changes
the rows alone that a batch uses much, and the base corpus little (Lin 2025, "Continual Learning via
Sparse Memory Finetuning", arXiv:2510.15103).
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from experiments.config.schema import Continual
from experiments.models.ffn._base import FFN
from experiments.models.transformer import Transformer


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
        """Of (batch, seq) tokens of the base corpus, a document each."""
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
                    assert table.grad.is_sparse, "point.py asks for table_gradient=rows"
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


class Keeping(nn.Module):
    """Of one model. reference: the model as it was at the start, for distillation and L2."""

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

    def penalty(self, model: Transformer, inputs: Tensor, logits: Tensor) -> Tensor | float:
        """What is added to the loss of a batch of (batch, seq) inputs."""
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
