"""Scores of a run's model: its validation split, named sets, a stream's domains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.data.corpus import VALIDATION
from experiments.data.documents import find_documents
from experiments.data.packed import PackedText
from experiments.data.prepare import PreparedData, base_corpus
from experiments.data.stream import BASE
from experiments.data.windows import ScoredWindows
from experiments.models.transformer import Transformer
from experiments.points.point import Point
from experiments.training.by_document import ByDocument
from experiments.training.evaluation import Evaluation, bytes_of_tokens, evaluate, score_sets

_COLUMNS = ("loss", "bits_per_byte", "n_tokens")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunScores:
    """Scores the model as it is when asked, on the device that it is on; losses in nats/token.

    sets: the named ones.
    """

    point: Point
    model: Transformer
    prepared: PreparedData
    sets: Mapping[str, PackedText]

    def validation(self) -> Evaluation:
        """Run's own number: fixed windows, spread over the validation split."""
        return self._spread(self.prepared.validation)

    def validation_by_document(self) -> tuple[Evaluation, dict[str, Any]]:
        """Run's own number, and the columns of each document (ByDocument)."""
        tokens, data = self.prepared.validation, self.point.config.data
        documents = find_documents(
            tokens,
            self.prepared.vocabulary.end_of_text,
            base_corpus(data.corpus),
            VALIDATION,
            self.point.cache,
        )
        sizes = bytes_of_tokens(tokens, self.prepared.vocabulary)
        found = ByDocument(self._windows(tokens), documents, sizes)
        return self._spread(tokens, found.add), found.columns()

    def of_sets(self) -> dict[str, dict[str, Any]]:
        """Scores of the named sets."""
        return score_sets(
            self.model,
            self.sets,
            self.prepared.vocabulary,
            self.point.config.evaluation,
            seq_len=self.point.config.data.seq_len,
            batch_size=self.point.config.ladder.batch_size,
            device=self._device,
        )

    def all(self) -> dict[str, dict[str, Any]]:
        """Scores of the named sets, and of the run's own validation split as `validation`.

        The model is moved to the run's device first.
        """
        self.model.to(torch.device(self.point.device.accelerator))
        own = self.validation()
        columns = (*_COLUMNS, "perplexity")
        return {"validation": {name: getattr(own, name) for name in columns}, **self.of_sets()}

    def of_domains(self, begun: Callable[[], object]) -> dict[str, dict[str, Any]]:
        """Scores of a stream's domains and its base, by validation splits; begun() at each."""
        domains = {name: validation for name, (_, validation) in self.prepared.domains.items()}
        scores = {}
        for name, tokens in {BASE: self.prepared.validation, **domains}.items():
            begun()
            result = self._spread(tokens)
            scores[name] = {column: getattr(result, column) for column in _COLUMNS}
        return scores

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _spread(
        self,
        tokens: PackedText,
        each: Callable[[int, Tensor, Tensor], object] = lambda index, targets, losses: None,
    ) -> Evaluation:
        sizes = bytes_of_tokens(tokens, self.prepared.vocabulary)
        return evaluate(self.model, self._windows(tokens), sizes, self._device, each)

    def _windows(self, tokens: PackedText) -> ScoredWindows:
        config = self.point.config
        return ScoredWindows(
            tokens,
            seq_len=config.data.seq_len,
            batch_size=config.ladder.batch_size,
            max_tokens=config.data.n_eval_tokens,
        )
