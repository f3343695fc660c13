"""Sparse statistics of one layer over text: a few numbers an expert, however long the text is."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.inspection.classes import ClassSums
from experiments.inspection.documents import DocumentSums
from experiments.inspection.pairs import PENDING, PairCounts
from experiments.models.ffn._slots import Slots
from experiments.models.usage import ExpertUsage


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits of what is kept.

    n_contexts: places of the largest gates of each expert. n_pairs: (expert, id) pairs of a layer;
    n_bigrams: of an expert and two ids. n_units: of a layer whose experts are all read by every
    token (dense), how many of the largest gates of a token count as read.
    """

    n_contexts: int = 8
    n_pairs: int = 2**21
    n_bigrams: int = 2**20
    n_units: int = 32

    def n_bytes(self, n_experts: int, n_texts: int, vocab_size: int) -> int:
        """Memory of one layer's statistics, at most."""
        n_pairs = min(self.n_pairs, n_experts * vocab_size)
        n_bigrams = min(self.n_bigrams, n_experts * vocab_size**2)
        own = n_experts * (32 + 8 * n_texts + 12 * self.n_contexts)
        return (
            own
            + DocumentSums.n_bytes(n_experts, n_texts)
            + ClassSums.n_bytes(n_experts)
            + 64 * (n_pairs + n_bigrams + 2 * PENDING)
        )


def counted(slots: Slots, bounds: Bounds) -> Slots:
    """Slots that count as read: all, or the largest where every token has all experts."""
    if not slots.all_experts:
        return slots
    gates, kept = slots.gates.topk(min(bounds.n_units, slots.gates.shape[1]))
    return Slots(
        experts=slots.experts.gather(1, kept), gates=gates, weights=slots.weights.gather(1, kept)
    )


class LayerStatistics:
    """Sums over tokens for each of N experts.

    n_tokens (N,): tokens that read it, in one slot or several. n_slots (N,): slots. weights and
    squares (N,): of weights and of their squares. mass (n_texts, N): of gates, as ExpertUsage sums
    them, by text. context_gates and context_places (N, n_contexts): its largest gates (of a token's
    slots together) and where they were, -1 where there are fewer; ties go to the earlier. pairs:
    counts by token id, in tokens; bigrams: by the id before * vocab_size + its own. documents: sums
    over documents; classes: those of each class of tokens, of which (V,) ids are. total: tokens,
    slots and distinct experts of tokens, over all.
    """

    def __init__(self, n_experts: int, n_texts: int, classes: np.ndarray, bounds: Bounds) -> None:
        vocab_size = len(classes)
        self.n_experts, self.vocab_size, self.bounds = n_experts, vocab_size, bounds
        self.usages = [ExpertUsage(n_experts) for _ in range(n_texts)]
        self.n_tokens = np.zeros(n_experts, np.int64)
        self.n_slots = np.zeros(n_experts, np.int64)
        self.weights = np.zeros(n_experts)
        self.squares = np.zeros(n_experts)
        self.context_gates = np.full((n_experts, bounds.n_contexts), -np.inf, np.float32)
        self.context_places = np.full((n_experts, bounds.n_contexts), -1, np.int64)
        self.pairs = PairCounts(vocab_size, bounds.n_pairs)
        self.bigrams = PairCounts(vocab_size**2, bounds.n_bigrams)
        self.documents = DocumentSums(n_experts, n_texts)
        self.classes = ClassSums(n_experts, classes)
        self.total = np.zeros(3, np.int64)

    @property
    def mass(self) -> np.ndarray:
        return np.stack([usage.weight.numpy() for usage in self.usages])

    def add(
        self, slots: Slots, ids: np.ndarray, places: np.ndarray, text: int, documents: np.ndarray
    ) -> None:
        """Slots of T tokens with these (T,) ids, at these (T,) places of all texts in a row, in
        text number `text`, of its documents of these numbers (T,), ascending.
        """
        slots = counted(slots, self.bounds)
        experts, gates, weights = slots.experts, slots.gates, slots.weights
        self.usages[text].add(experts, gates)
        n_tokens, n_slots = experts.shape
        flat, of_weights = _plain(experts).ravel(), _plain(weights.double()).ravel()
        np.add.at(self.n_slots, flat, 1)
        np.add.at(self.weights, flat, of_weights)
        np.add.at(self.squares, flat, of_weights**2)
        # a token's slots of one expert, together
        key = np.repeat(np.arange(n_tokens), n_slots) * self.n_experts + flat
        key, slot = np.unique(key, return_inverse=True)
        together = np.zeros(len(key))
        np.add.at(together, slot, _plain(gates.double()).ravel())
        token, expert = np.divmod(key, self.n_experts)
        np.add.at(self.n_tokens, expert, 1)
        self.pairs.add(expert, ids[token])
        second = np.concatenate([[False], np.diff(places) == 1])[token]  # not first of its window
        first = ids[token[second] - 1].astype(np.int64)
        self.bigrams.add(expert[second], first * self.vocab_size + ids[token[second]])
        self.documents.add(token, expert, together, documents, text)
        self.classes.add(token, expert, together, documents, text, ids)
        self._keep(expert, together.astype(np.float32), places[token])
        self.total += np.array([n_tokens, n_tokens * n_slots, len(key)])

    def _keep(self, experts: np.ndarray, gates: np.ndarray, places: np.ndarray) -> None:
        """Merges (n,) readings into the contexts of their experts."""
        n = self.bounds.n_contexts
        order = np.lexsort((places, -gates, experts))
        experts, gates, places = experts[order], gates[order], places[order]
        touched, first, row = np.unique(experts, return_index=True, return_inverse=True)
        rank = np.arange(len(experts)) - first[row]
        best = rank < n
        new_gates = np.full((len(touched), n), -np.inf, np.float32)
        new_places = np.full((len(touched), n), -1, np.int64)
        new_gates[row[best], rank[best]] = gates[best]
        new_places[row[best], rank[best]] = places[best]
        both_gates = np.concatenate([self.context_gates[touched], new_gates], axis=1)
        both_places = np.concatenate([self.context_places[touched], new_places], axis=1)
        largest = np.argsort(-both_gates, axis=1, kind="stable")[:, :n]
        self.context_gates[touched] = np.take_along_axis(both_gates, largest, axis=1)
        self.context_places[touched] = np.take_along_axis(both_places, largest, axis=1)

    def state(self) -> dict[str, np.ndarray]:
        """All sums, as load() takes them."""
        own = {name: getattr(self, name) for name in _ARRAYS}
        parts = {
            f"{part}.{name}": value
            for part in _PARTS
            for name, value in getattr(self, part).state().items()
        }
        return {**own, "mass": self.mass, **parts}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from there, to the bit."""
        for name in _ARRAYS:
            getattr(self, name)[...] = state[name]
        for usage, weight in zip(self.usages, state["mass"], strict=True):
            usage.weight.copy_(torch.from_numpy(weight))
        for name in _PARTS:
            begin = f"{name}."
            own = {k.removeprefix(begin): v for k, v in state.items() if k.startswith(begin)}
            getattr(self, name).load(own)


_ARRAYS = ("n_tokens", "n_slots", "weights", "squares", "context_gates", "context_places", "total")
_PARTS = ("pairs", "bigrams", "documents", "classes")


def _plain(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
