"""Forms of one subject side by side, chosen by what they say of the largest runs held out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm import tqdm

from analysis.fitting.edges import Edge, common_edges, find_edges
from analysis.fitting.intervals import Array, Prediction
from analysis.fitting.results import Result
from analysis.fitting.status import FitError, FitStatus, find_status, worst_status
from analysis.fitting.text import in_columns, pluralize, unsaid
from analysis.surfaces.form import Form, Points, Table
from analysis.surfaces.form_fit import FormFit, fit_form, read_points
from analysis.surfaces.forms import FORMS, SUBJECTS

_SHOWN = 10  # series whose progress is shown
_CLOSE = 1.1  # times the lowest error: too near to call
_WORSE = 2.0  # times the scatter: held-out errors that no noise of the runs makes


@dataclass(frozen=True, kw_only=True, repr=False)
class FormComparison(Result):
    """Forms of a subject, the one with the lowest error on held-out runs first. It is chosen, where
    laws of size, tokens and experts are averaged by AICc: for that needs one Huber's delta for all,
    and of these each has its own.

    fits: to all runs; edges: those that all forms were fitted without; held_out: form -> root mean
    square of its errors over the edges, in nats; skipped: what could not be fitted, and why;
    measured, fitted: losses of the runs that are not excluded, and by the chosen form, nats.
    """

    subject: str
    fits: tuple[FormFit, ...]
    edges: tuple[Edge, ...]
    held_out: Mapping[str, float]
    skipped: tuple[str, ...]
    measured: tuple[float, ...]
    fitted: tuple[float, ...]

    @property
    def chosen(self) -> FormFit:
        return self.fits[0]

    @property
    def close(self) -> tuple[FormFit, ...]:
        """Chosen one, and those whose held-out error is within a tenth of its own."""
        if not self.edges:
            return self.fits
        least = self.held_out[self.chosen.form_name]
        return tuple(f for f in self.fits if self.held_out[f.form_name] <= _CLOSE * least)

    @property
    def warnings(self) -> tuple[str, ...]:
        own = [f"{f.form_name}: {text}" for f in self.close for text in f.warnings]
        return tuple(dict.fromkeys((*self.of_table, *own, *self.disagreement)))

    @property
    def disagreement(self) -> list[str]:
        """Where held-out runs do not choose, and where they are missed."""
        found, first = [], self.chosen
        others = [f.form_name for f in self.close[1:]]
        if not self.edges:
            found.append("nothing to hold out: the forms are in the order of their scatter")
        elif others:
            found.append(
                f"the runs held out do not distinguish {first.form_name} from {', '.join(others)}: "
                "their errors are within a tenth, and the interval holds those of all"
            )
        error = self.held_out.get(first.form_name, 0.0)
        if error > _WORSE * first.scatter:
            found.append(
                f"{first.form_name} misses runs held out by {error:.2g} nats, and those it is "
                f"fitted to by {first.scatter:.2g}: beyond the runs it has an error of its own, "
                "which the intervals there have"
            )
        return found

    @property
    def status(self) -> FitStatus:
        return worst_status([find_status(self.warnings), *(f.status for f in self.close)])

    def predict(
        self,
        columns: Table,
        *,
        level: float = 0.95,
        new_run: bool = False,
    ) -> Prediction:
        """Loss in nats by the chosen form, with the interval that holds those of all `close` ones.

        It has the forms' own errors, by what they say without the edges (fitting/edges.py).
        new_run: the interval of one more run there. Raises ValueError as FormFit.predict.
        """
        every = _places((fit.own for fit in self.fits), columns).values
        each = [
            fit.predict_at(
                Points({**every, **read_points(fit.own, columns).values}),
                level=level,
                new_run=new_run,
            )
            for fit in self.close
        ]
        low = np.min([one.lower for one in each], axis=0)
        high = np.max([one.upper for one in each], axis=0)
        return Prediction(each[0].value, low, high, level)

    def to_frame(self) -> pd.DataFrame:
        """A row a form: its parameters, scatter and R^2 in all runs, and its error at each edge."""
        return pd.DataFrame(
            [
                {
                    "form": f.form_name,
                    "n_params": len(f.names),
                    "scatter": f.scatter,
                    "R^2": f.r2,
                    **{f"{e.n_held} most {e.name}": f.missed_at(e) for e in self.edges},
                    "held_out_rmse": self.held_out.get(f.form_name, np.nan),
                    "status": str(f.status),
                }
                for f in self.fits
            ]
        )

    def summary(self) -> str:
        first = self.chosen
        held = ", ".join(f"{edge.n_held} most {edge.name}" for edge in self.edges)
        excluded = f", {first.n_excluded} excluded" if first.n_excluded else ""
        heading = (
            f"{pluralize(first.n_points, 'run')}{excluded}; errors in nats; held out in turn: "
            f"{held or 'none'}"
        )
        rest = [*unsaid(self.warnings), *(f"skipped {s}" for s in self.skipped)]
        chosen = f"chosen: {first.form_name}: {first.own.formula}"
        return "\n".join(
            [heading, in_columns(self.to_frame()), chosen, *(f"  note: {line}" for line in rest)]
        )

    def to_dict(self) -> dict[str, Any]:
        fits = {fit.form_name: fit.to_dict() for fit in self.fits}
        edges = [
            {
                "name": edge.name,
                "n_held": edge.n_held,
                "errors": {fit.form_name: fit.missed_at(edge) for fit in self.fits},
                "top": float(np.exp(edge.top)),
                "reach": edge.width if np.isfinite(edge.width) else None,
            }
            for edge in self.edges
        ]
        more = {"fits": fits, "edges": edges, "chosen": self.chosen.form_name}
        return {**super().to_dict(), **more}


def compare_forms(
    columns: Table,
    loss: ArrayLike,
    subject: str | None = None,
    *,
    forms: Sequence[str] | None = None,
    share: float = 0.2,
    groups: ArrayLike | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> FormComparison:
    """Fits each form of a subject to all runs, and without those of the largest size, tokens or
    any other column to extrapolate in; the one that errs least there is chosen.

    columns: what the forms are in, by their names; loss: nats, which may be negative; forms: by
    default all of the subject. share: of the runs, how many are held out at most; ties all or none.
    groups: of runs that share a fault. Forms that can't be fitted are skipped, with the reason.
    Raises ValueError for a bad argument or column, FitError if no form can be fitted.
    """
    chosen = choose_forms(subject, forms)
    if not 0 < share < 1:
        raise ValueError(f"share={share!r} must be between 0 and 1, e.g. 0.2")
    L = np.asarray(loss, dtype=np.float64).ravel()
    labels = None if groups is None else np.asarray(groups, dtype=object).ravel()
    given = _make_forms(chosen, columns)
    edges = _find_edges(given.values(), columns, L, share)
    fits: list[FormFit] = []
    skipped = []
    how: dict[str, Any] = {"groups": labels, "n_draws": n_draws, "seed": seed, "edges": edges}
    for name, form in given.items():
        try:
            fits.append(fit_form(form, read_points(form, columns), L, **how))
        except ValueError as error:
            skipped.append(f"{name}: {error}")
    if not fits:
        raise FitError(f"no form to compare: {'; '.join(skipped)}")
    common = common_edges(fits)

    def missed(fit: FormFit) -> float:
        return float(np.sqrt(np.mean([fit.missed_at(edge) ** 2 for edge in common])))

    fits.sort(key=lambda fit: (missed(fit) if common else 0.0, fit.scatter))
    first = fits[0]
    at = read_points(first.own, columns)
    described = ~first.own.excluded(at, L)[0]
    return FormComparison(
        subject=FORMS[chosen[0]].subject,
        fits=tuple(fits),
        edges=tuple(common),
        held_out={fit.form_name: missed(fit) if common else float("nan") for fit in fits},
        skipped=tuple(skipped),
        measured=tuple(L[described].tolist()),
        fitted=tuple(first.loss_at(at.only(described)).tolist()),
    )


def _make_forms(names: Sequence[str], columns: Table) -> dict[str, Form]:
    """Forms by their names, those of shares or kinds for the ones of this table."""
    forms = {name: FORMS[name] for name in names}
    return {name: form.of_table(columns) if form.of_table else form for name, form in forms.items()}


def _places(forms: Iterable[Form], columns: Table) -> Points:
    """Columns of all of these forms that can be read."""
    found: dict[str, Array] = {}
    for form in forms:
        with suppress(ValueError):
            found |= read_points(form, columns).values
    return Points(dict(zip(found, np.broadcast_arrays(*found.values()), strict=True)))


def _find_edges(
    forms: Collection[Form],
    columns: Table,
    loss: Array,
    share: float,
) -> list[Edge]:
    """Edges by all columns that one of the forms has them of, of the runs that all describe."""
    at, described = _places(forms, columns), np.ones(len(loss), dtype=bool)
    if at.values and len(at) != len(loss):
        raise ValueError(f"{len(loss)} losses for {len(at)} runs")
    for form in forms:
        if all(name in at.values for name in form.needs_columns):
            described &= ~form.excluded(at, loss)[0]
    names = dict.fromkeys(name for form in forms for name in form.edges if at.has(name))
    values = {name: at.product(name)[described] for name in names}
    edges = find_edges(values, dict.fromkeys(values, (share, 2 * share)))
    outs = [np.zeros(len(loss), dtype=bool) for _ in edges]
    for out, edge in zip(outs, edges, strict=True):
        out[described] = edge.out
    return [replace(edge, out=out) for out, edge in zip(outs, edges, strict=True)]


def compare_forms_of_series(
    series: Mapping[str, pd.DataFrame],
    subject: str,
    *,
    cluster: str | None = None,
    **how: Any,
) -> tuple[dict[str, FormComparison], list[str]]:
    """compare_forms of each series of load_columns, and why others have none; how: its arguments.

    cluster: the column whose values are the groups. Raises FitError if no series has one.
    """
    found, errors = {}, []
    for name in tqdm(series, desc="series", disable=len(series) < _SHOWN, leave=False):
        runs = series[name]
        try:
            groups = None if cluster is None else runs[cluster]
            columns = runs.drop(columns="loss")
            one = compare_forms(columns, runs["loss"], subject, groups=groups, **how)
            found[name] = one.with_warnings(runs.attrs.get("warnings", ()))
        except ValueError as error:
            errors.append(f"{name}: {error}")
    if not found:
        raise FitError(f"no series could be fitted: {'; '.join(errors)}")
    return found, errors


def choose_forms(subject: str | None, forms: Sequence[str] | None) -> tuple[str, ...]:
    """Names of a subject's forms, or those that were named, each once.

    Raises ValueError for a subject or form that is not there, and forms of several subjects.
    """
    if subject is not None and subject not in SUBJECTS:
        raise ValueError(f"subject={subject!r} is not one of {', '.join(SUBJECTS)}")
    for name in forms or ():
        if name not in FORMS:
            raise ValueError(f"form={name!r} is not one of {', '.join(FORMS)}")
    names = tuple(dict.fromkeys(forms or (n for n, f in FORMS.items() if f.subject == subject)))
    found = {FORMS[name].subject for name in names}
    if subject is None and not names:
        raise ValueError(f"name a subject, one of {', '.join(SUBJECTS)}, or forms")
    if len(found) != 1 or (subject is not None and found != {subject}):
        of = ", ".join(f"{name} is of {FORMS[name].subject}" for name in names)
        raise ValueError(f"forms are compared with those of one subject: {of}")
    return names
