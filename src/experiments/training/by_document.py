"""The loss of each document of a split that is scored, as a record keeps it."""

from typing import Any

import numpy as np
import torch

from experiments.data.batches import IGNORED
from experiments.data.documents import Documents
from experiments.data.windows import ScoredWindows

MOST = 4096  # documents, beyond which a record has none of them: it is to stay small


class ByDocument:
    """Sums over the targets of each document. An end of text is part of the document before it.

    Beside them those of repeated targets, which a model that copies can know (Olsson et al. 2022,
    arXiv:2209.11895): the token before and the target have stood together before in the window.
    """

    def __init__(
        self, windows: ScoredWindows, documents: Documents, token_bytes: np.ndarray
    ) -> None:
        """token_bytes: of each id, (vocab_size,)."""
        self.windows, self.documents, self.token_bytes = windows, documents, token_bytes
        # tokens after the last end of text are a document too
        self._sums = np.zeros((5, len(documents.ends) + 1))

    def add(self, index: int, targets: torch.Tensor, losses: torch.Tensor) -> None:
        """Batch number `index`: targets and their losses in nats, (sequences, targets) each; what
        is IGNORED counts for nothing.
        """
        scored = (targets != IGNORED).numpy()
        places = self.windows.places(index)[scored]
        document = np.searchsorted(self.documents.ends, places, side="right")
        ids = targets.numpy()[scored]
        nats = losses.double().cpu().numpy()[scored]
        known = self._repeated(index, targets)[scored]
        columns = (np.ones(len(ids)), self.token_bytes[ids], nats, known, nats * known)
        for row, values in zip(self._sums, columns, strict=True):
            row += np.bincount(document, values, minlength=len(row))

    def _repeated(self, index: int, targets: torch.Tensor) -> np.ndarray:
        """(sequences, targets) bool."""
        inputs = self.windows[index].inputs.numpy().astype(np.int64)
        # a target that is not scored is an input, and the last one always is
        after = np.concatenate([inputs[:, 1:], targets.numpy()[:, -1:]], axis=1)
        found = np.ones(inputs.shape, bool)
        for row, pairs in zip(found, inputs * len(self.token_bytes) + after, strict=True):
            row[np.unique(pairs, return_index=True)[1]] = False
        return found

    def columns(self) -> dict[str, Any]:
        """The documents that have a target: n_tokens, n_bytes, nats, n_repeated and nats_repeated
        of repeated targets, and which one it is in the split; domain is its number in domains,
        where the corpus has any. {} of more than MOST.
        """
        (document,) = np.nonzero(self._sums[0])
        if len(document) > MOST:
            return {}
        n_tokens, n_bytes, nats, n_repeated, nats_repeated = self._sums[:, document]
        found: dict[str, Any] = {
            "document": document.tolist(),
            "n_tokens": n_tokens.astype(int).tolist(),
            "n_bytes": n_bytes.tolist(),
            "nats": nats.tolist(),
            "n_repeated": n_repeated.astype(int).tolist(),
            "nats_repeated": nats_repeated.tolist(),
        }
        if self.documents.domains:
            found["domains"] = list(self.documents.domains)
            found["domain"] = self.documents.domain[document].tolist()
        return found
