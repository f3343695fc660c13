"""Sums over documents for each expert: tokens of one document are not independent, documents are.

A document's mass is the sum of an expert's gates over its tokens that were read. Documents come
one after the other, so that only the last is held until it has ended.
"""

from dataclasses import dataclass

import numpy as np

from experiments.data.packed import Tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentMoments:
    """Of D texts and N experts: n_read (D, N), the documents that read the expert; squares (D, N),
    of documents' masses; products (D, N), of masses and lengths in tokens. n_documents, n_tokens
    and squared_tokens (D,), of all documents.
    """

    n_read: np.ndarray
    squares: np.ndarray
    products: np.ndarray
    n_documents: np.ndarray
    n_tokens: np.ndarray
    squared_tokens: np.ndarray


class DocumentSums:
    """Sums, and the document that has not ended."""

    def __init__(self, n_experts: int, n_texts: int) -> None:
        self.n_experts = n_experts
        self.open_experts: np.ndarray
        self.open_mass: np.ndarray
        self.n_read = np.zeros((n_texts, n_experts), np.int32)
        self.squares = np.zeros((n_texts, n_experts))
        self.products = np.zeros((n_texts, n_experts))
        self.lengths = np.zeros((n_texts, 3))  # documents, tokens, squared tokens
        self.open = np.array([-1, -1, 0])  # text, document, tokens
        self.open_experts, self.open_mass = np.zeros(0, np.int64), np.zeros(0)

    @staticmethod
    def n_bytes(n_experts: int, n_texts: int) -> int:
        """At most."""
        return n_experts * (20 * n_texts + 16)

    def add(
        self,
        tokens: np.ndarray,
        experts: np.ndarray,
        gates: np.ndarray,
        documents: np.ndarray,
        text: int,
    ) -> None:
        """Readings (n,) of `experts` with `gates` by `tokens`, numbers of T tokens of a text, which
        are of these documents (T,), ascending.
        """
        names, which, n_tokens = np.unique(documents, return_inverse=True, return_counts=True)
        of = which[tokens]
        if self.open[:2].tolist() == [text, int(names[0])]:
            n_tokens[0] += self.open[2]
            of = np.concatenate([np.zeros(len(self.open_experts), np.int64), of])
            experts = np.concatenate([self.open_experts, experts])
            gates = np.concatenate([self.open_mass, gates])
        else:
            self._close()
        key, place = np.unique(of * self.n_experts + experts, return_inverse=True)
        mass = np.bincount(place, weights=gates, minlength=len(key))
        document, expert = np.divmod(key, self.n_experts)
        done = document < len(names) - 1
        self._count(text, expert[done], mass[done], n_tokens[document[done]], n_tokens[:-1])
        self.open = np.array([text, int(names[-1]), int(n_tokens[-1])])
        self.open_experts, self.open_mass = expert[~done], mass[~done]

    def _count(
        self, text: int, expert: np.ndarray, mass: np.ndarray, length: np.ndarray, all_: np.ndarray
    ) -> None:
        """Readings of documents that have ended, and the lengths of these and the others."""
        np.add.at(self.n_read[text], expert, 1)
        np.add.at(self.squares[text], expert, mass**2)
        np.add.at(self.products[text], expert, mass * length)
        self.lengths[text] += np.array([len(all_), all_.sum(), (all_.astype(float) ** 2).sum()])

    def _close(self) -> None:
        text, _, length = self.open.tolist()
        if text >= 0:
            every = np.full(len(self.open_experts), length)
            self._count(text, self.open_experts, self.open_mass, every, np.array([length]))
        self.open = np.array([-1, -1, 0])
        self.open_experts, self.open_mass = np.zeros(0, np.int64), np.zeros(0)

    def moments(self) -> DocumentMoments:
        """Of all that was added; the last document counts as ended."""
        whole = DocumentSums(self.n_experts, len(self.lengths))
        whole.load({name: value.copy() for name, value in self.state().items()})
        whole._close()
        return DocumentMoments(
            n_read=whole.n_read,
            squares=whole.squares,
            products=whole.products,
            n_documents=whole.lengths[:, 0],
            n_tokens=whole.lengths[:, 1],
            squared_tokens=whole.lengths[:, 2],
        )

    def state(self) -> dict[str, np.ndarray]:
        """All of it, as load() takes it."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from there."""
        for name in _ARRAYS:
            setattr(self, name, state[name])


_ARRAYS = ("n_read", "squares", "products", "lengths", "open", "open_experts", "open_mass")


def find_ends(tokens: Tokens, end_of_text: int, n_at_once: int = 2**22) -> np.ndarray:
    """Places of the tokens that end documents, ascending."""
    n = len(tokens)
    found = [
        start + np.flatnonzero(tokens[start : min(start + n_at_once, n)] == end_of_text)
        for start in range(0, n, n_at_once)
    ]
    return np.concatenate([np.zeros(0, np.int64), *found])
