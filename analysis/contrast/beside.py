"""Errors beside the noise of runs: which documents were held out, and rates that are not the best.

Each is of the points' losses, and linear in them: where a quantity goes with the losses by `by`
(S,), so does its error.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy import special

from analysis.contrast.points import Points
from analysis.fitting.intervals import Array
from analysis.table.documents import Documents

_SAME = 1e-3  # relative, of a mean of documents and a point's loss: sums in another order
_AT = 0.95  # level whose half-width is that of the draws


class Error(NamedTuple):
    """A standard error with its degrees of freedom, of `name`; shift: what is to be added to the
    quantity on the average if the error were none.
    """

    name: str
    se: float
    dof: float
    shift: float = 0.0

    def half(self, p: float) -> float:
        """Half-width of an interval that misses by chance p."""
        return student(self.dof, p) * self.se


def student(dof: float, p: float) -> float:
    """Student's t that is exceeded, on both sides together, by chance p."""
    # Not stats.t, whose checks are most of the time of a chance
    return -float(special.stdtrit(dof, p / 2) if np.isfinite(dof) else special.ndtri(p / 2))


class Beside(Protocol):
    """A source of error. said: what an interval holds by it."""

    @property
    def said(self) -> str: ...

    def error(self, by: Array) -> Error: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class OfDocuments:
    """residuals (S, D): how far each point's loss would move, in nats/token, by the weight of each
    document: (nats - loss tokens) / all tokens, the linearised ratio of sums (Cochran 1977,
    Sampling Techniques, section 6.4). Points share their documents, so a difference has the
    documents' differences.

    Degrees of freedom: Kish's effective number of documents (sum n)^2 / sum n^2 less 1, which is
    documents less 1 where all are as long; with that few long ones hold most tokens, and intervals
    of documents less 1 hold the truth too seldom (tests/analysis/contrast/test_documents.py).
    """

    residuals: Array
    n_tokens: Array

    @property
    def said(self) -> str:
        count = f"{len(self.n_tokens)} ({int(self.n_tokens.sum()):,} tokens)"
        return f"which documents were held out, {count}"

    def error(self, by: Array) -> Error:
        off, n = by @ self.residuals, len(self.n_tokens)
        variance = n / (n - 1) * float((off**2).sum())
        alike = float(self.n_tokens.sum() ** 2 / (self.n_tokens**2).sum())
        return Error("documents", float(np.sqrt(variance)), alike - 1)


def of_documents(points: Points, documents: Documents) -> OfDocuments:
    """Documents that all runs of the points were scored on.

    Raises ValueError, a line, where these are not the same or fewer than two, or the points' losses
    are of another text (--table column.loss=...).
    """
    runs = [run for of in points.run_ids for run in of]
    n_tokens = documents.scored(runs).n_tokens
    if len(n_tokens) < 2:
        raise ValueError("one document tells nothing of others")
    nats = np.array([np.mean([documents.nats[r] for r in of], axis=0) for of in points.run_ids])
    losses = nats.sum(axis=1, keepdims=True) / n_tokens.sum()
    off = np.abs(losses[:, 0] / points.losses - 1)
    if off.max() > _SAME:
        theirs, compared = losses[off.argmax(), 0], points.losses[off.argmax()]
        raise ValueError(
            f"these are of another text: their mean is {theirs:.5g} nats/token where the loss "
            f"compared is {compared:.5g}"
        )
    return OfDocuments(residuals=(nats - losses * n_tokens) / n_tokens.sum(), n_tokens=n_tokens)


@dataclass(frozen=True, kw_only=True, eq=False)
class OfRates:
    """draws (K, S): how much lower each point's loss would be at its best rate, nats/token, 0 or
    more; path: whose law.

    A quantity is not moved by what it would be at the best rates. Its error is normal, and such
    that an interval of 95 % reaches as far as 95 % of the draws move it, on both sides.
    """

    draws: Array
    path: str

    @property
    def said(self) -> str:
        return f"rates that are not the best, by {self.path}"

    def error(self, by: Array) -> Error:
        moved = self.draws @ by
        reach = float(np.quantile(np.abs(moved), _AT))
        se = reach / student(float("inf"), 1 - _AT)
        return Error("rates", se, float("inf"), -float(moved.mean()))
