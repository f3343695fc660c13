"""Losses of held-out documents that a sweep's records carry: training/by_document.py."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.text import join_first, pluralize
from experiments.records.record import RunRecord

_COUNTS, _SUMS = ("document", "n_tokens"), ("n_bytes", "nats")
_REPEATED = ("n_repeated", "nats_repeated")  # newer records have both
BY = ("domain", "targets")
_SAME = 1e-3  # relative, of a mean of documents and the record's loss: sums in another order


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Documents that runs were scored on. n_tokens (D,): scored targets of each; domain (D,):
    its number in domains, which are none where the corpus has none; n_repeated (D,): those of the
    targets that are repeated (training/by_document.py), None where no record says it.
    """

    n_tokens: Array
    domains: tuple[str, ...] = ()
    domain: np.ndarray = field(default_factory=lambda: np.empty(0))
    n_repeated: Array | None = None

    def within(self, name: str) -> np.ndarray:
        """Which documents (D,) are of a domain."""
        return np.asarray(self.domain == self.domains.index(name))


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """Losses by document of a sweep's runs. nats: run_id -> (D,), summed over a document's targets;
    repeated: the same over those that are repeated, of the runs whose records say it;
    of: run_id -> the hash of its documents; sets: hash -> these documents; damaged: run_id -> what
    is wrong with its own. Runs of one hash share what they were scored on, so a run is D numbers.
    """

    nats: Mapping[str, Array] = field(default_factory=dict)
    repeated: Mapping[str, Array] = field(default_factory=dict)
    of: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, Scored] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)

    def scored(self, run_ids: Sequence[str]) -> Scored:
        """Documents that all of these runs were scored on. Raises ValueError, a line, where a
        run has no documents, or damaged ones, or others than another has.
        """
        if not (self.of or self.damaged):
            raise ValueError(
                "no record has them: a table of a file has none, and records of older versions; "
                "take a sweep's folder"
            )
        broken = [f"{name} ({self.damaged[name]})" for name in run_ids if name in self.damaged]
        if broken:
            raise ValueError(
                f"{len(broken)} of {pluralize(len(run_ids), 'run')} have damaged ones: "
                f"{join_first(broken)}"
            )
        missing = [str(name) for name in run_ids if name not in self.of]
        if missing:
            raise ValueError(
                f"{len(missing)} of {pluralize(len(run_ids), 'run')} have none in the record: "
                f"{join_first(missing)}"
            )
        found = {self.of[name]: name for name in reversed(run_ids)}
        if len(found) != 1:
            examples = join_first([*found.values()])
            raise ValueError(f"runs were scored on {len(found)} sets of documents, e.g. {examples}")
        (digest,) = found
        return self.sets[digest]

    def parts(self, run_ids: Sequence[str], by: str) -> dict[str, "Documents"]:
        """Losses of these runs in parts of the held-out text: each "domain" of its documents,
        or its "targets", repeated and new. A part has the documents that have a target of it.

        Raises ValueError, a line, as `scored` does, and where there are no such parts.
        """
        scored = self.scored(run_ids)
        if by == "domain":
            if not scored.domains:
                raise ValueError("the documents of this corpus have no domains")
            own = {name: scored.n_tokens * scored.within(name) for name in scored.domains}
            return {
                name: _part(n, {run: self.nats[run] for run in run_ids})
                for name, n in own.items()
                if n.any()
            }
        missing = [run for run in run_ids if run not in self.repeated]
        if missing or scored.n_repeated is None:
            raise ValueError(
                f"{len(missing)} of {pluralize(len(run_ids), 'run')} do not say which of their "
                f"targets are repeated (records of older versions): {join_first(missing)}"
            )
        new = {run: self.nats[run] - self.repeated[run] for run in run_ids}
        return {
            "repeated": _part(scored.n_repeated, {run: self.repeated[run] for run in run_ids}),
            "new": _part(scored.n_tokens - scored.n_repeated, new),
        }


def _part(n_tokens: Array, nats: Mapping[str, Array]) -> Documents:
    """Documents of which n_tokens (D,) are not 0."""
    own = n_tokens > 0
    return Documents(
        nats={run: values[own] for run, values in nats.items()},
        of=dict.fromkeys(nats, "part"),
        sets={"part": Scored(n_tokens=n_tokens[own])},
    )


class Gathered:
    """Takes the documents of records one by one; a record's own lists need not stay."""

    def __init__(self) -> None:
        self._nats: dict[str, Array] = {}
        self._repeated: dict[str, Array] = {}
        self._of: dict[str, str] = {}
        self._sets: dict[str, Scored] = {}
        self._damaged: dict[str, str] = {}

    def add(self, record: RunRecord) -> None:
        if not record.documents:
            return
        try:
            columns, scored, digest = _read(record.documents)
            _check_loss(columns, record.val_loss)
            self._add_set(digest, scored)
        except ValueError as error:
            self._damaged[record.run_id] = str(error)
            return
        self._nats[record.run_id] = columns["nats"]
        self._of[record.run_id] = digest
        if scored.n_repeated is not None:
            self._repeated[record.run_id] = columns["nats_repeated"]

    def _add_set(self, digest: str, scored: Scored) -> None:
        """One set of those that have the repeated targets and those that have not."""
        known, own = self._sets.get(digest, scored).n_repeated, scored.n_repeated
        if known is not None and own is not None and not np.array_equal(known, own):
            raise ValueError("n_repeated is another one than of other runs on the same documents")
        if digest not in self._sets or known is None:
            self._sets[digest] = scored

    def found(self) -> Documents:
        return Documents(
            nats=self._nats,
            repeated=self._repeated,
            of=self._of,
            sets=self._sets,
            damaged=self._damaged,
        )


def _read(given: Mapping[str, Any]) -> tuple[dict[str, Array], Scored, str]:
    repeated = _REPEATED if any(name in given for name in _REPEATED) else ()
    columns = {name: _numbers(given, name) for name in (*_COUNTS, *_SUMS, *repeated)}
    lengths = {name: len(values) for name, values in columns.items()}
    names, domain = given.get("domains", []), np.empty(0)
    if names:
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("domains are no list of names")
        domain = _numbers(given, "domain")
        lengths["domain"] = len(domain)
        if not np.isin(domain, range(len(names))).all():
            raise ValueError(f"a domain is no number of the {len(names)} in domains")
    if len(set(lengths.values())) > 1:
        raise ValueError(", ".join(f"{n} of {name}" for name, n in lengths.items()))
    if not (columns["n_tokens"] >= 1).all():
        raise ValueError("a document has no token")
    if repeated and not (
        (columns["n_repeated"] <= columns["n_tokens"]).all()
        # each sum by itself is of numbers of 0 or more, so a part is no more than the whole
        and (columns["nats_repeated"] <= columns["nats"] * (1 + _SAME)).all()
    ):
        raise ValueError("a document has more of its repeated targets than of all")
    digest = hashlib.sha256("\n".join(names).encode())
    for values in (columns["document"], columns["n_tokens"], columns["n_bytes"], domain):
        digest.update(values.tobytes())
    scored = Scored(
        n_tokens=columns["n_tokens"],
        domains=tuple(names),
        domain=domain.astype(np.int64),
        n_repeated=columns.get("n_repeated"),
    )
    return columns, scored, digest.hexdigest()


def _numbers(given: Mapping[str, Any], name: str) -> Array:
    values = given.get(name)
    if not isinstance(values, list) or not values:
        raise ValueError(f"{name} is no list of numbers")
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is no list of numbers") from None
    if found.ndim != 1 or not (np.isfinite(found) & (found >= 0)).all():
        raise ValueError(f"{name} has a value that is no number of 0 or more")
    return found


def _check_loss(columns: Mapping[str, Array], loss: float | None) -> None:
    mean = float(columns["nats"].sum() / columns["n_tokens"].sum())
    if loss is not None and abs(mean - loss) > _SAME * abs(loss):
        raise ValueError(f"their mean is {mean:.5g} nats/token, and val_loss is {loss:.5g}")
