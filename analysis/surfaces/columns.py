"""Columns of a table that a subject's forms are in, by their names here or elsewhere."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.fitting.text import join_first
from analysis.settings import setting
from analysis.surfaces.form import SHARE, Column, Form, is_share
from analysis.surfaces.forms import FORMS, SUBJECTS
from analysis.table.checks import refuse
from analysis.table.load import has_value
from analysis.table.names import find_matches
from analysis.table.sources import Source, read_source

_SHARES = re.compile(r"(?:share|proportion|ratio|weight|mix)s?[._ /]+(?P<domain>.+)", re.IGNORECASE)
_LOSSES = re.compile(r"loss[._ /]+(?P<domain>.+)", re.IGNORECASE)
_SERIES = ("series", "model", "dataset", "task", "group")
_ALIASES = {  # of what columns follow from, and of a normalized loss
    "budget": ("flops",),
    "embed_dim": ("d_model", "width", "hidden_size"),
    "loss": ("lossu", "loss_u", "unigram_normalized_loss"),
}
_WHOLE = 0.02  # that shares may be off a sum of one: rounding
_DONE = "done"
_LISTED = 20


def load_columns(
    path: str | Path | Source,
    subject: str,
    *,
    columns: Mapping[str, str] | None = None,
    series: Sequence[str] | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
    keep: Sequence[str] = (),
    separator: str | None = None,
) -> dict[str, pd.DataFrame]:
    """Series -> its runs, a row each: what the subject's forms are in, and loss in nats.

    A folder of records, or a CSV or Parquet file, as of read_source. columns: our name -> the
    table's, where it is no alias. series: the columns whose values part the runs, each fitted
    apart; [] is one, and by default those of series, model, dataset, task and group that it has.
    Shares of a mixture are columns share.NAME, proportion_NAME and alike; each of loss_NAME is a
    series of its own there. where: only these rows; keep: more columns. No runs are merged; those
    without a finite loss, or whose status is not done, are left out, which attrs["warnings"] of
    each frame says. Raises ValueError naming what lacks and what the table has, or the first bad
    value and its row.
    """
    if subject not in SUBJECTS:
        raise ValueError(f"{setting('of', subject)} is not one of {', '.join(SUBJECTS)}")
    forms = [form for form in FORMS.values() if form.subject == subject]
    source = path if isinstance(path, Source) else read_source(path, separator)
    frame = source.frame
    for name, values in (where or {}).items():
        frame = frame[_one_of(frame, name, values)]
    if frame.empty:
        raise ValueError(f"{setting('where')}: no row is left")
    warnings: list[str] = []
    if "status" in frame:
        done = frame["status"].astype(str) == _DONE
        if not done.all():
            warnings.append(f"{(~done).sum()} of {len(frame)} runs are not done, and excluded")
        frame = frame[done]
    chosen = dict(columns or {})
    found = pd.DataFrame(index=frame.index)
    for name, theirs in _sources(frame, forms, chosen).items():
        found[name] = _numbers(frame, theirs, name)
    mixture = any(form.of_table and not form.kind for form in forms)
    if mixture:
        found = found.join(_shares(frame))
    for kind in dict.fromkeys(form.kind for form in forms if form.kind):
        found[kind.name] = _kinds(frame, kind, chosen)
    _require(found, forms, frame)
    losses = _losses(frame, chosen, mixture)
    if others := _other_losses(frame, chosen, losses):
        warnings.append(others)
    by = _series(frame, series)
    for name in keep:
        if name not in frame:
            raise ValueError(f"{name} is no column; found {_listed(frame)}")
    parts: dict[str, pd.DataFrame] = {}
    for label, theirs in losses.items():
        runs = found.assign(loss=_numbers(frame, theirs, "loss"), **{n: frame[n] for n in keep})
        _check_losses(runs, forms, theirs)
        for key, rows in _parts(runs, frame, by).items():
            title = " ".join(part for part in (key, label) if part) or "runs"
            finite = np.isfinite(rows["loss"])
            lost = len(rows) - int(finite.sum())
            own = [f"{lost} of {len(rows)} runs have no finite loss, and are excluded"]
            kept = rows[finite].copy()
            kept.attrs["warnings"] = (*warnings, *(own if lost else ()))
            parts[title] = kept
    return parts


def _one_of(frame: pd.DataFrame, name: str, values: Sequence[str]) -> pd.Series:
    if name not in frame:
        raise ValueError(f"{setting('where')}: {name!r} is no column; found {_listed(frame)}")
    keep = pd.Series(False, index=frame.index)
    for value in values:
        keep |= has_value(frame[name], value)
    return keep


def _sources(
    frame: pd.DataFrame, forms: Sequence[Form], chosen: Mapping[str, str]
) -> dict[str, str]:
    """Our name -> the table's, of all that the forms are in or follow from."""
    wanted: dict[str, Column] = {}
    for form in forms:
        for column in (one for one in form.columns if not is_share(one.name)):
            wanted[column.name] = column
            for name in column.derived[0] if column.derived else ():
                wanted.setdefault(name, Column(name=name, aliases=_ALIASES.get(name, ())))
    known = [*wanted, *dict.fromkeys(form.kind.name for form in forms if form.kind), "loss"]
    for name in chosen:
        if name not in known:
            raise ValueError(f"{setting('columns')}: {name!r} is not one of {', '.join(known)}")
    found = {}
    for name, column in wanted.items():
        theirs = chosen.get(name) or _named(frame, name, column.aliases)
        if theirs is not None:
            found[name] = theirs
    return found


def _named(frame: pd.DataFrame, name: str, aliases: Iterable[str]) -> str | None:
    """Column of this name, or the one with an alias; ValueError where several have one."""
    if name in frame:
        return name
    keys = {str(one): re.sub(r"[\s_-]+", "_", str(one).strip()).lower() for one in frame}
    matches = [theirs for theirs, key in keys.items() if key in aliases or key == name]
    matches = matches or [match.name for match in find_matches(name, map(str, frame))]
    if len(matches) > 1:
        remedy = setting("columns", {name: matches[0]})
        raise ValueError(f"{name} may be any of {', '.join(matches)}; say which, e.g. {remedy}")
    return matches[0] if matches else None


def _numbers(frame: pd.DataFrame, theirs: str, name: str) -> pd.Series:
    if theirs not in frame:
        given = setting("columns", {name: theirs})
        raise ValueError(f"{given}: {theirs!r} is no column; found {_listed(frame)}")
    values = pd.to_numeric(frame[theirs], errors="coerce")
    refuse(frame, theirs, values.isna() & frame[theirs].notna(), "is no number")
    return values.astype("float64")


def _kinds(frame: pd.DataFrame, kind: Column, chosen: Mapping[str, str]) -> pd.Series:
    """Texts that say of which kind a run is."""
    theirs = chosen.get(kind.name) or _named(frame, kind.name, kind.aliases)
    if theirs is None or theirs not in frame:
        remedy = setting("columns", {kind.name: theirs or "MY_NAME"})
        raise ValueError(f"no column {kind.name}; found {_listed(frame)}; {remedy} names it")
    return frame[theirs].astype(object)


def _shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns share.NAME, from 0 to 1, that sum to one."""
    found = {}
    for name in map(str, frame):
        match = _SHARES.fullmatch(name)
        if match:
            found[f"{SHARE}{match['domain']}"] = _numbers(frame, name, name)
    shares = pd.DataFrame(found, index=frame.index)
    if len(found) > 1:
        total = shares.sum(axis=1)
        off = ((total - 1).abs() > _WHOLE).to_numpy()
        if off.any():
            row = frame.index[int(off.argmax())]
            raise ValueError(
                f"{row}: the shares of the domains sum to {total.iloc[int(off.argmax())]:.4g}, not "
                f"to 1: {', '.join(found)}; give all domains, as shares and not per cent"
            )
    return shares


def _losses(frame: pd.DataFrame, chosen: Mapping[str, str], mixture: bool) -> dict[str, str]:
    """Name of a domain, or "", -> the column of its loss."""
    if "loss" in chosen:
        return {"": chosen["loss"]}
    domains = {
        match["domain"]: name
        for name in map(str, frame)
        if mixture and (match := _LOSSES.fullmatch(name))
    }
    if domains and "loss" not in frame:
        return {f"loss on {domain}": name for domain, name in domains.items()}
    theirs = _named(frame, "loss", _ALIASES["loss"])
    if theirs is None:
        named = setting("columns", {"loss": "MY_NAME"})
        raise ValueError(f"no column loss; found {_listed(frame)}; {named} names it")
    return {"": theirs}


def _other_losses(
    frame: pd.DataFrame, chosen: Mapping[str, str], losses: Mapping[str, str]
) -> str | None:
    """Warning that a table has other columns that may be the loss; None if one was named."""
    others = [
        m.name for m in find_matches("loss", map(str, frame)) if m.name not in losses.values()
    ]
    if "loss" in chosen or not others:
        return None
    remedy = setting("columns", {"loss": others[0]})
    return (
        f"the loss is column {', '.join(losses.values())}; {', '.join(others)} may be it too: "
        f"{remedy} takes it"
    )


def _series(frame: pd.DataFrame, series: Sequence[str] | None) -> list[str]:
    by = [name for name in _SERIES if name in frame] if series is None else [*series]
    for name in by:
        if name not in frame:
            raise ValueError(f"{setting('series', by)}: {name} is no column; {_listed(frame)}")
    return by


def _parts(runs: pd.DataFrame, frame: pd.DataFrame, by: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Rows by their values of some columns of the table, joined; "" without columns."""
    if not by:
        return {"": runs}
    keys = frame[[*by]].astype(str).agg(" ".join, axis=1)
    return {str(key): rows for key, rows in runs.groupby(keys, sort=False)}


def _require(found: pd.DataFrame, forms: Sequence[Form], frame: pd.DataFrame) -> None:
    """Raises ValueError where the table has not the columns of any of the forms."""
    lacks = []
    for form in forms:
        if form.of_table and not form.kind:
            n_shares = sum(is_share(str(name)) for name in found)
            absent = [] if n_shares > 1 else [f"{SHARE}NAME of two domains or more"]
        else:
            absent = [
                f"{one.name} (or {' and '.join(one.derived[0])})" if one.derived else one.name
                for one in form.columns
                if one.name not in found
                and not (one.derived and set(one.derived[0]) <= set(map(str, found)))
            ]
        if not absent:
            return
        lacks.append(f"{form.name} needs {' and '.join(absent)}")
    names = [name.split(" needs ")[1].split(" ")[0] for name in lacks]
    named = setting("columns", {names[0]: "MY_NAME"})
    raise ValueError(f"{'; '.join(lacks)}; found {_listed(frame)}; {named} names a column")


def _check_losses(runs: pd.DataFrame, forms: Sequence[Form], theirs: str) -> None:
    if not any(form.signed for form in forms):
        shown = runs.rename(columns={"loss": theirs})
        rule = "must be above 0: only forms of the vocabulary take normalized losses"
        refuse(shown, theirs, shown[theirs] <= 0, rule)


def _listed(frame: pd.DataFrame) -> str:
    return join_first([str(name) for name in frame.columns], _LISTED)
