"""Differences of lowest losses by domain of the held-out text, by curves of each one's losses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.contrast.compute import contrast_points
from analysis.contrast.points import Points, points_of
from analysis.contrast.result import Contrasts, Difference, shown
from analysis.contrast.settings import Settings
from analysis.contrast.sources import sources_of
from analysis.differences.correction import corrected
from analysis.fitting.results import Warned
from analysis.fitting.status import FitError
from analysis.fitting.text import format_status, join_first, pluralize
from analysis.table.documents import Documents, Scored

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class OfDomain:
    """A difference in the losses of a domain, or of ALL, with how much text it is. p_holm of the
    difference is after Holm's correction for all domains, of ALL that of contrast.
    """

    domain: str
    n_documents: int
    n_tokens: int
    difference: Difference

    @property
    def has_documents(self) -> bool:
        """Whether its interval holds which documents were held out."""
        return "documents" in self.difference.shares


@dataclass(frozen=True, kw_only=True, repr=False)
class ContrastsByDomain(Warned):
    """whole: of all documents; rows: for each of its differences that of ALL, then one a domain,
    the lowest first; left_out: domains without curves, and why.
    """

    whole: Contrasts
    rows: tuple[OfDomain, ...]
    left_out: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        found = [f"no curves: {join_first(self.left_out, 6, '; ')}"] if self.left_out else []
        alone = dict.fromkeys(row.domain for row in self.rows if not row.has_documents)
        if alone:
            found.append(
                f"one document, so intervals hold no error of documents: {join_first([*alone], 6)}"
            )
        return (*self.whole.warnings, *found)

    def to_frame(self) -> pd.DataFrame:
        """A row a difference and domain."""
        of_differences = replace(
            self.whole, differences=tuple(row.difference for row in self.rows)
        ).to_frame()
        text = pd.DataFrame(
            [(row.domain, row.n_documents, row.n_tokens) for row in self.rows],
            columns=["domain", "documents", "tokens"],
        )
        names = [name for name in map(str, of_differences) if not name.startswith("multiplier")]
        return pd.concat([of_differences[names[:3]], text, of_differences[names[3:]]], axis=1)

    def summary(self) -> str:
        n = len({row.domain for row in self.rows} - {ALL})
        lines = [
            f"differences of lowest losses by domain, each by curves of its own; Holm's correction "
            f"for the {pluralize(n, 'domain')} of a difference; nats/token, "
            f"{self.whole.level:.0%} intervals",
            *self.whole.held_text(),
            shown(self.to_frame()),
        ]
        return "\n".join([*lines, *format_status(self.status, self.warnings)])


def contrast_domains(
    table: pd.DataFrame,
    documents: Documents,
    x: str | None = None,
    *,
    rates: Path | None = None,
    **settings: Any,
) -> ContrastsByDomain:
    """contrast of each domain's losses by itself: its own curves and noise, of the runs that count
    for all documents.

    Raises ValueError where runs were not all scored on the same documents, or these have no
    domains, FitError as contrast does where all documents together have no curves.
    """
    points, given = points_of(table, x), Settings(**settings)
    try:
        scored = documents.scored([run for of in points.run_ids for run in of])
    except ValueError as error:
        raise ValueError(f"by domain: the losses of documents are needed, and {error}") from None
    if not scored.domains:
        raise ValueError("by domain: the documents of this corpus have no domains")
    whole = contrast_points(points, given, sources_of(points, documents, rates))
    each, left_out = {}, []
    for name in (name for name in scored.domains if scored.within(name).any()):
        own = _of_domain(points, documents, scored.within(name))
        try:
            found = contrast_points(own, given, sources_of(points, documents, rates, name))
        except FitError as error:
            left_out.append(f"{name}: {error}")
            continue
        each[name] = {one.name: one for one in found.differences}
    return ContrastsByDomain(
        whole=whole,
        rows=tuple(
            row
            for one in whole.differences
            for row in _rows(scored, one, {name: found[one.name] for name, found in each.items()})
        ),
        left_out=tuple(left_out),
    )


def _of_domain(points: Points, documents: Documents, own: np.ndarray) -> Points:
    """The same runs by their losses in some of the documents (D,)."""
    n_tokens = documents.scored(points.run_ids[0]).n_tokens[own].sum()
    each = [
        np.array([documents.nats[run][own].sum() / n_tokens for run in of]) for of in points.run_ids
    ]
    return replace(
        points,
        losses=np.array([losses.mean() for losses in each]),
        squares=np.array([float(((losses - losses.mean()) ** 2).sum()) for losses in each]),
    )


def _rows(scored: Scored, whole: Difference, each: dict[str, Difference]) -> Sequence[OfDomain]:
    p_holm = corrected({name: one.p for name, one in each.items()})
    found = [
        OfDomain(
            domain=name,
            n_documents=int(scored.within(name).sum()),
            n_tokens=int(scored.n_tokens[scored.within(name)].sum()),
            difference=replace(one, p_holm=p_holm[name]),
        )
        for name, one in sorted(each.items(), key=lambda item: item[1].value.value)
    ]
    of_all = OfDomain(
        domain=ALL,
        n_documents=len(scored.n_tokens),
        n_tokens=int(scored.n_tokens.sum()),
        difference=whole,
    )
    return [of_all, *found]
