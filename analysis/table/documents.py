"""Losses of held-out documents that a sweep's records carry: training/by_document.py."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.text import join_first, pluralize
from experiments.records.record import RunRecord

_COUNTS, _SUMS = ("document", "n_tokens"), ("n_bytes", "nats")
_KINDS = ("repeated", "seen")  # of targets; newer records have one or both
BY = ("domain", "targets")
_SAME = 1e-3  # relative, of a mean of documents and the record's loss: sums in another order


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Documents that runs were scored on. n_tokens (D,): scored targets of each; domain (D,):
    its number in domains, which are none where the corpus has none; n_of: "repeated", "seen" ->
    (D,), those of the targets that are of that kind (training/by_document.py), where a record says.
    """

    n_tokens: Array
    domains: tuple[str, ...] = ()
    domain: np.ndarray = field(default_factory=lambda: np.empty(0))
    n_of: Mapping[str, Array] = field(default_factory=dict)

    def within(self, name: str) -> np.ndarray:
        """Which documents (D,) are of a domain."""
        return np.asarray(self.domain == self.domains.index(name))


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """Losses by document of a sweep's runs. nats: run_id -> (D,), summed over a document's targets;
    kinds: "repeated", "seen" -> the same over those targets, of the runs whose records say it;
    of: run_id -> the hash of its documents; sets: hash -> these documents; damaged: run_id -> what
    is wrong with its own. Runs of one hash share what they were scored on, so a run is D numbers.
    """

    nats: Mapping[str, Array] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
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
        """Losses of these runs in parts of the held-out text: each "domain" of its documents, or
        its "targets": repeated, seen and neither, or repeated and new, where a record does not say
        which are seen. A part has the documents that have a target of it.

        Raises ValueError, a line, as `scored` does, and where there are no such parts.
        """
        if by == "domain":
            scored = self.scored(run_ids)
            if not scored.domains:
                raise ValueError("the documents of this corpus have no domains")
            own = {name: scored.n_tokens * scored.within(name) for name in scored.domains}
            return {
                name: _part(n, {run: self.nats[run] for run in run_ids})
                for name, n in own.items()
                if n.any()
            }
        found = self.targets(run_ids)
        names = ("repeated", "seen", "neither") if "seen" in found else ("repeated", "new")
        return {name: found[name] for name in names}

    def targets(self, run_ids: Sequence[str]) -> dict[str, "Documents"]:
        """Losses of repeated targets and of new ones; and of seen ones and of neither kind, where
        all of these runs say which are seen. Raises ValueError as `parts` does.
        """
        scored = self.scored(run_ids)
        said = {kind: self.kinds.get(kind, {}) for kind in _KINDS}
        missing = [run for run in run_ids if run not in said["repeated"]]
        if missing:
            raise ValueError(
                f"{len(missing)} of {pluralize(len(run_ids), 'run')} do not say which of their "
                f"targets are repeated (records of older versions): {join_first(missing)}"
            )
        found: dict[str, Documents] = {}
        n_rest, rest = scored.n_tokens, {run: self.nats[run] for run in run_ids}
        for kind, name_of_rest in zip(_KINDS, ("new", "neither"), strict=True):
            if any(run not in said[kind] for run in run_ids):
                break
            own = {run: said[kind][run] for run in run_ids}
            n_rest = n_rest - scored.n_of[kind]
            rest = {run: rest[run] - own[run] for run in run_ids}
            found |= {kind: _part(scored.n_of[kind], own), name_of_rest: _part(n_rest, rest)}
        return found


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
        self._kinds: dict[str, dict[str, Array]] = {kind: {} for kind in _KINDS}
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
        for kind in scored.n_of:
            self._kinds[kind][record.run_id] = columns[f"nats_{kind}"]

    def _add_set(self, digest: str, scored: Scored) -> None:
        """One set of those that say which targets are repeated, or seen, and those that do not."""
        known = self._sets.get(digest, scored).n_of
        for kind, own in scored.n_of.items():
            if not np.array_equal(known.get(kind, own), own):
                raise ValueError(
                    f"n_{kind} is another one than of other runs on the same documents"
                )
        self._sets[digest] = replace(scored, n_of={**scored.n_of, **known})

    def found(self) -> Documents:
        return Documents(
            nats=self._nats,
            kinds=self._kinds,
            of=self._of,
            sets=self._sets,
            damaged=self._damaged,
        )


def _read(given: Mapping[str, Any]) -> tuple[dict[str, Array], Scored, str]:
    kinds = [kind for kind in _KINDS if f"n_{kind}" in given or f"nats_{kind}" in given]
    of_kinds = [name for kind in kinds for name in (f"n_{kind}", f"nats_{kind}")]
    columns = {name: _numbers(given, name) for name in (*_COUNTS, *_SUMS, *of_kinds)}
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
    n, nats = (sum(columns[f"{of}_{kind}"] for kind in kinds) for of in ("n", "nats"))
    # each sum by itself is of numbers of 0 or more, so a part is no more than the whole
    if (n > columns["n_tokens"]).any() or (nats > columns["nats"] * (1 + _SAME)).any():
        raise ValueError(f"a document has more of its {' and '.join(kinds)} targets than of all")
    digest = hashlib.sha256("\n".join(names).encode())
    for values in (columns["document"], columns["n_tokens"], columns["n_bytes"], domain):
        digest.update(values.tobytes())
    scored = Scored(
        n_tokens=columns["n_tokens"],
        domains=tuple(names),
        domain=domain.astype(np.int64),
        n_of={kind: columns[f"n_{kind}"] for kind in kinds},
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
