"""Loss of each document of a split that is scored, as a record keeps it."""

from typing import Any

import numpy as np
import torch

from experiments.data.batches import IGNORED
from experiments.data.documents import Documents
from experiments.data.windows import ScoredWindows

MOST = 4096  # documents, beyond which a record has none of them: it is to stay small
_COUNTS = ("n_tokens", "n_repeated", "n_seen")
_SUMS = ("n_tokens", "n_bytes", "nats", "n_repeated", "nats_repeated", "n_seen", "nats_seen")


class ByDocument:
    """Sums over the targets of each document. An end of text is part of the document before it.

    Beside them those of two kinds of targets. Repeated ones, which a model that copies can know
    (Olsson et al. 2022, arXiv:2209.11895): the token before and the target have stood together
    before in the window. Seen ones: the target alone is in the window before
    itself, so that a model may guess it from what the text is about.
    """

    def __init__(
        self, windows: ScoredWindows, documents: Documents, token_bytes: np.ndarray
    ) -> None:
        """token_bytes: of each id, (vocab_size,)."""
        self.windows, self.documents, self.token_bytes = windows, documents, token_bytes
        # tokens after the last end of text are a document too
        self._sums = np.zeros((len(_SUMS), len(documents.ends) + 1))

    def add(self, index: int, targets: torch.Tensor, losses: torch.Tensor) -> None:
        """Batch number `index`: targets and their losses in nats, (sequences, targets) each; what
        is IGNORED counts for nothing.
        """
        scored = (targets != IGNORED).numpy()
        places = self.windows.places(index)[scored]
        document = np.searchsorted(self.documents.ends, places, side="right")
        ids = targets.numpy()[scored]
        nats = losses.double().cpu().numpy()[scored]
        kinds = [kind[scored] for kind in self._kinds(index, targets)]
        sums = [values for kind in kinds for values in (kind, nats * kind)]
        columns = (np.ones(len(ids)), self.token_bytes[ids], nats, *sums)
        for row, values in zip(self._sums, columns, strict=True):
            row += np.bincount(document, values, minlength=len(row))

    def _kinds(self, index: int, targets: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Which are repeated and which are seen, (sequences, targets) bool; none is both."""
        inputs = self.windows[index].inputs.numpy().astype(np.int64)
        # a target that is not scored is an input, and the last one always is
        after = np.concatenate([inputs[:, 1:], targets.numpy()[:, -1:]], axis=1)
        repeated = _stood_before(inputs * len(self.token_bytes) + after)
        tokens = np.concatenate([inputs[:, :1], after], axis=1)
        return repeated, _stood_before(tokens)[:, 1:] & ~repeated

    def columns(self) -> dict[str, Any]:
        """Documents that have a target: n_tokens, n_bytes, nats, n_repeated and nats_repeated
        of repeated targets, n_seen and nats_seen of seen ones, and which one it is in the split;
        domain is its number in domains, where the corpus has any. Nats are rounded to 1e-4, the
        error of a sum of float32 losses. {} of more than MOST.
        """
        (document,) = np.nonzero(self._sums[0])
        if len(document) > MOST:
            return {}
        found: dict[str, Any] = {"document": document.tolist()}
        for name, sums in zip(_SUMS, self._sums[:, document], strict=True):
            found[name] = (sums.astype(int) if name in _COUNTS else sums.round(4)).tolist()
        if self.documents.domains:
            found["domains"] = list(self.documents.domains)
            found["domain"] = self.documents.domain[document].tolist()
        return found


def _stood_before(values: np.ndarray) -> np.ndarray:
    """(sequences, n) to bool: whether a value stands further left in its sequence too."""
    found = np.ones(values.shape, bool)
    for row, own in zip(found, values, strict=True):
        row[np.unique(own, return_index=True)[1]] = False
    return found
