"""A form of the loss in columns that laws in size, tokens and experts do not have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.fitting.intervals import Array
from analysis.laws.law import Law

Table = Mapping[str, ArrayLike] | pd.DataFrame  # column -> its values


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table that a form is in.

    aliases: what it is called elsewhere, in lower case with "_" for blanks; derived: how it follows
    from other columns where it is absent, as their names and a function of them.
    """

    name: str
    aliases: tuple[str, ...] = ()
    derived: tuple[tuple[str, ...], Callable[..., Any]] | None = None


@dataclass(frozen=True)
class Points:
    """Column -> its values (n,), in the order of a form's columns."""

    values: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        return self.values[name]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def log(self, names: str) -> Array:
        """ln of a column or product; below all numbers where it lacks a column, or a share is 0."""
        if not self.has(names):
            return np.full(len(self), -np.inf)
        with np.errstate(divide="ignore"):
            return np.log(self.product(names))

    def only(self, keep: np.ndarray) -> Self:
        return type(self)({name: values[keep] for name, values in self.values.items()})

    def centre(self) -> dict[str, float]:
        """Mean of each column's logarithm; of a share, which may be 0, its mean."""
        return {
            name: float(v.mean() if is_share(name) else np.log(v).mean())
            for name, v in self.values.items()
        }

    def has(self, names: str) -> bool:
        """Whether it has all columns of a product."""
        return all(name in self.values for name in names.split("*"))

    def product(self, names: str) -> Array:
        """Values of a column, or of the product of those joined by "*"."""
        return np.prod([self.values[name] for name in names.split("*")], axis=0)


SHARE = "share."
KIND = "is."  # 1 in runs of this kind, 0 in others


def is_share(name: str) -> bool:
    """Whether a column is from 0 to 1: a share of a whole, or whether a run is of a kind."""
    return name.startswith((SHARE, KIND))


@dataclass(frozen=True, kw_only=True)
class Form(Law):
    """A law of the loss itself, in nats, which may be negative where a table normalizes it.

    model: theta's model of L; the other fields are as of Law, with names of columns for letters.
    subject: what it is about; forms of one subject are compared. columns: that it is in, beside the
    loss. edges: columns, or products of them, whose largest values are held out in turn to choose a
    form. tells: column -> the parameters that are not identifiable where it has one value.
    signed: whether losses may be 0 or below, as those of a normalized one are.
    excludes: columns and losses -> which runs are not described (n,), and why, in words.
    of_table: makes the form for a table's columns, where it is in as many as the table has shares
    or kinds of runs; kind: the column of texts that says a run's kind.
    """

    variables: str = ""
    subject: str
    columns: tuple[Column, ...]
    edges: tuple[str, ...]
    model: Callable[[Any, Mapping[str, float]], Any]
    start: Callable[[Any, Mapping[str, float], Array, tuple[str, ...]], Any]
    signed: bool = False
    excludes: Callable[[Points, Array], tuple[np.ndarray, str]] | None = None
    of_table: Callable[[Table], "Form"] | None = None
    kind: Column | None = None

    def excluded(self, at: Points, loss: Array) -> tuple[np.ndarray, str]:
        """Which runs are not described, and why."""
        return self.excludes(at, loss) if self.excludes else (np.zeros(len(loss), dtype=bool), "")

    @property
    def needs_columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def reads(self) -> tuple[str, ...]:
        """Same, with the column of texts in the place of those that are made of it."""
        if not self.kind:
            return self.needs_columns
        plain = (name for name in self.needs_columns if not name.startswith(KIND))
        return (*plain, self.kind.name)


N = Column(name="n_params")
D = Column(name="n_tokens")
LR = Column(name="lr")
BATCH = Column(
    name="batch",
    aliases=("batch_tokens", "batch_size", "bs", "global_batch_size", "batch_size_tokens"),
)
OTHERS = Column(
    name="n_non_vocab_params",
    aliases=("non_vocab_parameters", "non_vocabulary_parameters", "non_vocab_params"),
)
VOCABULARY = Column(
    name="n_vocab_params",
    aliases=("vocab_parameters", "vocabulary_parameters"),
    derived=(("vocab_size", "embed_dim"), lambda vocabulary, width: vocabulary * width),
)
TOKENS = Column(
    name="n_tokens",
    derived=(
        ("budget", "n_non_vocab_params", "vocab_size", "embed_dim"),
        lambda flops, others, vocabulary, width: flops / (6 * (others + vocabulary * width)),
    ),
)
CHARACTERS = Column(name="n_characters", aliases=("num_characters", "characters"))
SIZE_OF_VOCABULARY = Column(name="vocab_size", aliases=("vocabulary_size", "n_vocab"))
