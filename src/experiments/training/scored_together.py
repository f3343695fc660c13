"""Scoring by the processes that have the columns of each table between them.

None of them can run the model alone. Of W that train a run, process w takes the windows w, w + W,
... of a batch, and gets the losses of all of them: so each comes to the sums that one process comes
to.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from experiments.models.transformer import Transformer
from experiments.models.usage import ExpertUsage

Score = Callable[[Tensor, Tensor], Tensor]
_PART = 2**20  # numbers of a meter that are gathered at once


class Scorers:
    """Those who score a model; one process, where it has its tables.

    A batch that can't be shared evenly is scored by all as a whole: the last ones of a text. So is
    every batch of a model whose routing sees the batch. Process 0's meters have those.
    """

    def __init__(self, model: Transformer) -> None:
        self._columns, self._layers = model.columns, list(model.ffn_layers())
        self._divides = all(layer.causal for layer in self._layers)

    def losses(self, score: Score, inputs: Tensor, targets: Tensor) -> Tensor:
        """score(inputs, targets), both (sequences, n), is nats of that shape; so is what is
        returned, of all sequences and the same on each process.
        """
        columns = self._columns
        if columns is None:
            return score(inputs, targets)
        if not self._divides or len(inputs) % columns.n_processes:
            with self._unmetered() if columns.process else nullcontext():
                return score(inputs, targets)
        own = slice(columns.process, None, columns.n_processes)
        gathered = columns.gathered(score(inputs[own], targets[own]))
        return gathered.transpose(0, 1).reshape(targets.shape)

    def add_up(self, meters: Sequence[ExpertUsage], device: torch.device) -> None:
        """Makes each process's meters those of all. device: what is on it can be sent."""
        columns = self._columns
        if columns is None:
            return
        for meter in meters:
            parts = meter.weight.split(_PART)
            meter.weight = torch.cat(
                [columns.gathered(part.to(device)).sum(0).cpu() for part in parts]
            )

    @contextmanager
    def _unmetered(self) -> Iterator[None]:
        usages = [layer.usage for layer in self._layers]
        for layer in self._layers:
            layer.usage = None
        try:
            yield
        finally:
            for layer, usage in zip(self._layers, usages, strict=True):
                layer.usage = usage
