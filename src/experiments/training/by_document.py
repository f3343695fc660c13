"""The loss of each document of a split that is scored, as a record keeps it."""

from typing import Any

import numpy as np
import torch

from experiments.data.batches import IGNORED
from experiments.data.documents import Documents
from experiments.data.windows import ScoredWindows

MOST = 4096  # documents, beyond which a record has none of them: it is to stay small


class ByDocument:
    """Sums over the targets of each document. An end of text is part of the document before it."""

    def __init__(
        self, windows: ScoredWindows, documents: Documents, token_bytes: np.ndarray
    ) -> None:
        """token_bytes: of each id, (vocab_size,)."""
        self.windows, self.documents, self.token_bytes = windows, documents, token_bytes
        # tokens after the last end of text are a document too
        self._sums = np.zeros((3, len(documents.ends) + 1))

    def add(self, index: int, targets: torch.Tensor, losses: torch.Tensor) -> None:
        """Batch number `index`: targets and their losses in nats, (sequences, targets) each; what
        is IGNORED counts for nothing.
        """
        scored = (targets != IGNORED).numpy()
        places = self.windows.places(index)[scored]
        document = np.searchsorted(self.documents.ends, places, side="right")
        ids = targets.numpy()[scored]
        columns = (np.ones(len(ids)), self.token_bytes[ids], losses.double().cpu().numpy()[scored])
        for row, values in zip(self._sums, columns, strict=True):
            row += np.bincount(document, values, minlength=len(row))

    def columns(self) -> dict[str, Any]:
        """The documents that have a target: n_tokens, n_bytes, nats, and which one it is in the
        split; domain is its number in domains, where the corpus has any. {} of more than MOST.
        """
        (document,) = np.nonzero(self._sums[0])
        if len(document) > MOST:
            return {}
        n_tokens, n_bytes, nats = self._sums[:, document]
        found: dict[str, Any] = {
            "document": document.tolist(),
            "n_tokens": n_tokens.astype(int).tolist(),
            "n_bytes": n_bytes.tolist(),
            "nats": nats.tolist(),
        }
        if self.documents.domains:
            found["domains"] = list(self.documents.domains)
            found["domain"] = self.documents.domain[document].tolist()
        return found
