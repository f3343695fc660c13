"""A step changes the rows of each table alone that score highest (points/row_scores).

So the base corpus changes little, where it uses other rows (Lin 2025, "Continual Learning via
Sparse Memory Finetuning", arXiv:2510.15103).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from experiments.kernels.uncompiled import uncompiled
from experiments.models.ffn._base import FFN
from experiments.models.roles import find_tables
from experiments.models.transformer import Transformer
from experiments.points.row_scores import RowUse, Score


class RowCounts:
    """How often each row of a layer's tables was retrieved; a meter as ExpertUsage is.

    counts (N,) int64, since the last call of taken().
    """

    def __init__(self, n_experts: int) -> None:
        self.counts = torch.zeros(n_experts, dtype=torch.int64)

    @uncompiled  # in compiled graphs too: what it adds to is read between steps
    def add(self, indices: Tensor, gates: Tensor) -> None:
        """indices of any shape."""
        flat = indices.detach().flatten()
        self.counts = self.counts.to(flat.device)
        self.counts += torch.bincount(flat, minlength=len(self.counts))

    def taken(self) -> Tensor:
        """Counts, which begin at 0 again."""
        counts, self.counts = self.counts, torch.zeros_like(self.counts)
        return counts


class SparseRows(nn.Module):
    """Lets a step change the top_rows of each table that score highest, of those it retrieves.

    Buffers: documents_<i> (N,), of layer i the background batches that retrieved each row.
    """

    n_documents: Tensor

    def __init__(self, model: Transformer, top_rows: int, score: Score) -> None:
        super().__init__()
        self.top_rows, self._score = top_rows, score
        self._layers = [layer for layer in model.ffn_layers() if _find_tables(layer)]
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
            gradients = {t: t.grad for t in _find_tables(layer) if t.grad is not None}
            use = RowUse(
                counts=counts,
                documents=self._documents(i).to(counts),
                n_documents=int(self.n_documents),
                gradients=tuple(gradients.values()),
            )
            score = self._score(use)
            chosen = torch.zeros(len(score), dtype=torch.bool, device=score.device)
            chosen[score.topk(min(self.top_rows, len(score))).indices] = True
            chosen &= counts > 0
            for table, gradient in gradients.items():
                assert gradient.is_sparse, "Keep asks for table_gradient=rows"
                rows = gradient.indices()[0]
                kept = chosen[rows]
                table.grad = torch.sparse_coo_tensor(
                    rows[kept].unsqueeze(0),
                    gradient.values()[kept],
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


def _find_tables(layer: FFN) -> list[nn.Parameter]:
    """Those that are trained."""
    return [table for table in find_tables(layer).values() if table.requires_grad]
