"""Differences of lowest losses in parts of the held-out text, by curves of each one's losses: its
domains, or its targets, repeated and new ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparison import Comparison, Table
from analysis.contrast.compute import contrast_points
from analysis.contrast.points import Points, make_points
from analysis.contrast.result import Contrasts, Difference
from analysis.contrast.settings import Settings
from analysis.contrast.sources import find_sources
from analysis.differences.correction import corrected
from analysis.fitting.status import FitError
from analysis.fitting.text import join_first, pluralize
from analysis.table.documents import BY, Documents
from analysis.table.warned import warned

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class OfPart:
    """A difference in the losses of a part, or of ALL, with how much text it is. p_holm of the
    difference is after Holm's correction for all parts, of ALL that of compute_contrasts.
    """

    part: str
    n_documents: int
    n_tokens: int
    difference: Difference

    @property
    def has_documents(self) -> bool:
        """Whether its interval holds which documents were held out."""
        return "documents" in self.difference.shares


@dataclass(frozen=True, kw_only=True, repr=False)
class ContrastsByPart(Comparison):
    """by: of documents.BY; whole: of all held-out text; rows: for each of its differences that of
    ALL, then one a part, the lowest first; left_out: parts without curves, and why.
    """

    by: str
    whole: Contrasts
    rows: tuple[OfPart, ...]
    left_out: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        found = [f"no curves: {join_first(self.left_out, 6, '; ')}"] if self.left_out else []
        alone = dict.fromkeys(row.part for row in self.rows if not row.has_documents)
        if alone:
            found.append(
                f"one document, so intervals hold no error of documents: {join_first([*alone], 6)}"
            )
        return (*self.of_table, *self.whole.warnings, *found)

    def tables(self) -> list[Table]:
        """A row a difference and part."""
        n = len({row.part for row in self.rows} - {ALL})
        head = [
            f"differences of lowest losses by {self.by}, each by curves of its own; Holm's "
            f"correction for the {pluralize(n, _PART[self.by])} of a difference; nats/token, "
            f"{self.whole.level:.0%} intervals",
            *(_REPEATED if self.by == "targets" else ()),
            *self.whole.held_text(),
        ]
        columns = f"{{}}=part, documents=n_documents, tokens=n_tokens, {_NUMBERS}"
        return [
            Table(
                rows=self.rows,
                columns=f"{_OF}, {columns}",
                named=self.by,
                skip_empty=True,
                head=head,
            )
        ]


_OF = "layer=difference.layer, minus=difference.baseline, budget=difference.budgets|budgets"
_NUMBERS = (
    "difference=difference.value|+.4f, dof=difference.dof|.1f, p=difference.p|.2g, "
    "p_holm=difference.p_holm|.2g, p_equal=difference.p_equal|.2g, "
    "sources=difference.sources|each .0%, moves=difference.moves|each +.4f"
)
_PART = {"domain": "domain", "targets": "kind"}
_REPEATED = (
    "repeated: the token before and the target have stood together before in the window, so a "
    "model that copies can know it; seen: the target alone is in the window before itself",
)


@warned()
def contrast_parts(
    table: pd.DataFrame,
    documents: Documents,
    x: str | None = None,
    *,
    by: str = "domain",
    rates: Path | None = None,
    **settings: Any,
) -> ContrastsByPart:
    """compute_contrasts of each part's losses by itself: its own curves and noise, of the runs that
    count for all held-out text. by: "domain", or "targets": kinds of them (Documents.parts).

    Raises ValueError where runs were not all scored on the same documents, or these have no such
    parts, FitError as compute_contrasts does where all documents together have no curves.
    """
    if by not in BY:
        raise ValueError(f"by={by!r} is not one of {', '.join(BY)}")
    points, given = make_points(table, x), Settings(**settings)
    runs = [run for of in points.run_ids for run in of]
    try:
        parts = documents.parts(runs, by)
    except ValueError as error:
        raise ValueError(f"by {by}: the losses of documents are needed, and {error}") from None
    whole = contrast_points(points, given, find_sources(points, documents, rates))
    each, left_out = {}, []
    for name, own in parts.items():
        try:
            of_part = points_in(points, own)
            found = contrast_points(of_part, given, find_sources(of_part, own, rates))
        except FitError as error:
            left_out.append(f"{name}: {error}")
            continue
        each[name] = {one.name: one for one in found.differences}
    texts = {ALL: documents, **parts}
    n_tokens = {name: own.scored(runs).n_tokens for name, own in texts.items()}
    return ContrastsByPart(
        by=by,
        whole=whole,
        rows=tuple(
            row
            for one in whole.differences
            for row in _rows(n_tokens, one, {name: found[one.name] for name, found in each.items()})
        ),
        left_out=tuple(left_out),
    )


def points_in(points: Points, own: Documents) -> Points:
    """Same runs by their losses in these documents alone."""
    n_tokens = own.scored(points.run_ids[0]).n_tokens.sum()
    each = [np.array([own.nats[run].sum() / n_tokens for run in of]) for of in points.run_ids]
    return replace(
        points,
        losses=np.array([losses.mean() for losses in each]),
        squares=np.array([float(((losses - losses.mean()) ** 2).sum()) for losses in each]),
    )


def _rows(
    n_tokens: dict[str, np.ndarray], whole: Difference, each: dict[str, Difference]
) -> Sequence[OfPart]:
    p_holm = corrected({name: one.p for name, one in each.items()})
    lowest_first = sorted(each.items(), key=lambda item: item[1].value.value)
    found = [(name, replace(one, p_holm=p_holm[name])) for name, one in lowest_first]
    return [
        OfPart(
            part=name,
            n_documents=len(n_tokens[name]),
            n_tokens=int(n_tokens[name].sum()),
            difference=one,
        )
        for name, one in [(ALL, whole), *found]
    ]
