"""How often each expert was read at each token id: exact while there is room, else bounded."""

from collections.abc import Iterator

import numpy as np

PENDING = 2**20  # keys that are held before they are counted together


class PairCounts:
    """Counts of (expert, id) pairs, at most `limit` of them.

    Where there are more, the rarest are dropped. So the count of a pair that is kept is its true
    one or up to `error` below it, and a pair that is missing occurred `error` times at most: each
    time, no pair lost more than the largest count that was dropped (Manku & Motwani 2002,
    "Approximate frequency counts over data streams", §4.2, whose buckets are ours of any size).
    """

    def __init__(self, vocab_size: int, limit: int) -> None:
        self.vocab_size, self.limit, self.error = vocab_size, limit, 0
        self.keys = np.zeros(0, np.int64)  # expert * vocab_size + id, ascending
        self.counts = np.zeros(0, np.int64)
        self._pending: list[np.ndarray] = []

    def add(self, experts: np.ndarray, ids: np.ndarray) -> None:
        """Both (n,) int64: one reading each."""
        self._pending.append(experts * self.vocab_size + ids)
        if sum(map(len, self._pending)) >= min(PENDING, self.limit):
            self.settle()

    def settle(self) -> None:
        """Counts what is held."""
        fresh, n = np.unique(np.concatenate([self.keys[:0], *self._pending]), return_counts=True)
        self._pending = []
        keys, place = np.unique(np.concatenate([self.keys, fresh]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, n]))
        if len(keys) > self.limit:
            order = np.argsort(-counts, kind="stable")  # of equal counts the lower key stays
            self.error += int(counts[order[self.limit]])
            kept = np.sort(order[: self.limit])
            keys, counts = keys[kept], counts[kept]
        self.keys, self.counts = keys, counts

    def most_common(self, n: int) -> Iterator[tuple[int, int, int]]:
        """Expert, id and count of each expert's n most frequent ids, experts ascending."""
        self.settle()
        experts, ids = np.divmod(self.keys, self.vocab_size)
        order = np.lexsort((ids, -self.counts, experts))
        rank = np.arange(len(order)) - _starts(experts[order])
        for i in order[rank < n]:
            yield int(experts[i]), int(ids[i]), int(self.counts[i])

    def state(self) -> dict[str, np.ndarray]:
        """Counts, as load() takes them."""
        self.settle()
        return {"keys": self.keys, "counts": self.counts, "error": np.array(self.error)}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from there."""
        self.keys, self.counts, self.error = state["keys"], state["counts"], int(state["error"])
        self._pending = []


def _starts(ascending: np.ndarray) -> np.ndarray:
    """For each place, where the run of equal values that it is in begins."""
    return np.searchsorted(ascending, ascending, side="left")
