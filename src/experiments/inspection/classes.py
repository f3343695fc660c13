"""Classes of tokens by how they are written, and how much more experts are used in one than in all.

A token's class is that of its string by itself, so that it costs a look-up. Masses are summed for
each class by document, as for texts (documents.py), and lifts are those of lifts.py with classes in
the place of texts. There, texts are independent of each other, and classes of one document are not:
an expert that a document uses more is used more in all of its classes. Their ratio varies less then
than these intervals say, which are rather too wide.
"""

import numpy as np
from tokenizers import Tokenizer

from experiments.inspection.documents import DocumentMoments, DocumentSums

CLASSES = (
    *("number", "word start", "inside a word", "capital", "punctuation", "white space"),
    *("non-ASCII", "special"),
)
_FAR = 2**40  # more documents than a text has


def find_class(string: str) -> str:
    """Class of a token's string; "" is special.

    number: it has a digit. capital: its first letter is one. word start: its letters follow white
    space; inside a word: they follow none, as at the start of a line or after a bracket too.
    """
    inner = string.strip()
    if not string:
        return "special"
    if not string.isascii():
        return "non-ASCII"
    if not inner:
        return "white space"
    if any(map(str.isdigit, inner)):
        return "number"
    letters = [sign for sign in inner if sign.isalpha()]
    if not letters:
        return "punctuation"
    if letters[0].isupper():
        return "capital"
    return "word start" if string[0].isspace() else "inside a word"


def token_classes(tokenizer: Tokenizer, n_entries: int) -> np.ndarray:
    """(n_entries,) int64, a place in CLASSES of each id; a part of a character is non-ASCII."""
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    strings = ["" if i in special else str(tokenizer.decode([i])) for i in range(n_entries)]
    return np.array([CLASSES.index(find_class(string)) for string in strings], np.int64)


class ClassSums:
    """Mass (C, N) of each class, and its sums over documents."""

    def __init__(self, n_experts: int, of_ids: np.ndarray) -> None:
        """of_ids (V,): the class of each id."""
        self.of_ids, self.n_experts = of_ids, n_experts
        self.mass = np.zeros((len(CLASSES), n_experts))
        self.sums = [DocumentSums(n_experts, 1) for _ in CLASSES]

    @staticmethod
    def n_bytes(n_experts: int) -> int:
        """At most."""
        return len(CLASSES) * (8 * n_experts + DocumentSums.n_bytes(n_experts, 1))

    def add(
        self,
        tokens: np.ndarray,
        experts: np.ndarray,
        gates: np.ndarray,
        documents: np.ndarray,
        text: int,
        ids: np.ndarray,
    ) -> None:
        """As DocumentSums.add, with the (T,) ids of the tokens."""
        of = self.of_ids[ids]
        for number in np.unique(of):
            own = np.flatnonzero(of == number)
            read = of[tokens] == number
            self.mass[number] += np.bincount(
                experts[read], weights=gates[read], minlength=self.n_experts
            )
            self.sums[number].add(
                np.searchsorted(own, tokens[read]), experts[read], gates[read],
                documents[own] + _FAR * text, 0,
            )  # fmt: skip

    def moments(self) -> DocumentMoments:
        """Those of classes in the place of texts; documents are those that have a token of one."""
        each = [sums.moments() for sums in self.sums]
        return DocumentMoments(
            **{
                name: np.concatenate([getattr(one, name) for one in each])
                for name in DocumentMoments.__dataclass_fields__
            }
        )

    def state(self) -> dict[str, np.ndarray]:
        """All of it, as load() takes it."""
        states = [sums.state() for sums in self.sums]
        own = {f"{i}.{name}": value for i, one in enumerate(states) for name, value in one.items()}
        return {"mass": self.mass, **own}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from there."""
        self.mass = state["mass"]
        for i, sums in enumerate(self.sums):
            begin = f"{i}."
            own = {k.removeprefix(begin): v for k, v in state.items() if k.startswith(begin)}
            sums.load(own)
