"""Forms of one subject side by side, chosen by what they say of the largest runs held out."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm import tqdm

from analysis.fitting.hold_out import largest
from analysis.fitting.intervals import Array, Prediction, t_quantile
from analysis.fitting.results import Result
from analysis.fitting.status import FitError, FitStatus, find_status, worst_status
from analysis.fitting.text import in_columns, pluralize, unsaid
from analysis.surfaces.form import Form, Points
from analysis.surfaces.form_fit import FormFit, fit_form, read_points
from analysis.surfaces.forms import FORMS, SUBJECTS

_SHOWN = 10  # series whose progress is shown
_CLOSE = 1.1  # times the lowest error: too near to call
_LEAST = np.log(2.0)  # of a reach: held-out runs nearer than that say little of those beyond
_WORSE = 2.0  # times the scatter: held-out errors that no noise of the runs makes


@dataclass(frozen=True, kw_only=True)
class Edge:
    """Runs with the most of a column (or product), held out of the others.

    errors: form -> root mean square error there, in nats; top: the largest value; reach: ln of it
    over the largest that is left.
    """

    name: str
    n_held: int
    errors: Mapping[str, float]
    top: float
    reach: float


@dataclass(frozen=True, kw_only=True, repr=False)
class FormComparison(Result):
    """Forms of a subject, the one with the lowest error on held-out runs first.

    fits: to all runs; edges: what was held out, a part at a time; held_out: form -> root mean
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
        columns: Mapping[str, ArrayLike] | pd.DataFrame,
        *,
        level: float = 0.95,
        new_run: bool = False,
    ) -> Prediction:
        """Loss in nats by the chosen form, with the interval that holds those of all `close` ones.

        Beyond the largest runs of an edge it has the error of the form: what held-out runs were
        missed by, more than the scatter explains, times how much farther a point is than they were.
        new_run: the interval of one more run there. Raises ValueError as FormFit.predict.
        """
        each = [fit.predict(columns, level=level) for fit in self.close]
        value = each[0].value
        below = value - np.min([one.lower for one in each], axis=0)
        above = np.max([one.upper for one in each], axis=0) - value
        first = self.chosen
        places = _places((fit.own for fit in self.fits), columns)
        beyond = t_quantile(first.dof, level) * self._model_error(places)
        noise = t_quantile(first.dof, level) * first.scatter if new_run else 0.0
        spread = np.hypot(beyond, noise)
        low, high = value - np.hypot(below, spread), value + np.hypot(above, spread)
        return Prediction(value, low, high, level)

    def _model_error(self, at: Points) -> Array:
        """Standard deviation (n,) of the chosen form's own error, 0 within the runs."""
        first = self.chosen
        found = np.zeros(len(at))
        for edge in (one for one in self.edges if at.has(one.name)):
            extra = max(edge.errors[first.form_name] ** 2 - first.scatter**2, 0.0) ** 0.5
            with np.errstate(divide="ignore"):  # a share of 0
                distance = np.log(at.product(edge.name) / edge.top)
            times = np.maximum(distance / edge.reach, 1.0)
            found = np.maximum(found, np.where(distance > 1e-9, extra * times, 0.0))
        return found

    def to_frame(self) -> pd.DataFrame:
        """A row a form: its parameters, scatter and R^2 in all runs, and its error at each edge."""
        return pd.DataFrame(
            [
                {
                    "form": f.form_name,
                    "n_params": len(f.names),
                    "scatter": f.scatter,
                    "R^2": f.r2,
                    **{
                        f"most {edge.name}": edge.errors.get(f.form_name, np.nan)
                        for edge in self.edges
                    },
                    "held_out_rmse": self.held_out.get(f.form_name, np.nan),
                    "status": str(f.status),
                }
                for f in self.fits
            ]
        )

    def summary(self) -> str:
        first = self.chosen
        held = ", ".join(f"{e.n_held} of the most {e.name}" for e in self.edges)
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
        return {**super().to_dict(), "fits": fits, "chosen": self.chosen.form_name}


def compare_forms(
    columns: Mapping[str, ArrayLike] | pd.DataFrame,
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
    every = _places(given.values(), columns)
    fits: list[FormFit] = []
    held: dict[str, dict[str, float]] = {}
    edges: dict[str, Edge] = {}
    skipped = []
    for name, form in given.items():
        try:
            at = read_points(form, columns)
            fit = fit_form(form, at, L, groups=labels, n_draws=n_draws, seed=seed)
            keep = ~form.excludes(at, L)[0] if form.excludes else np.ones(len(L), dtype=bool)
            held[name] = {}
            for edge in dict.fromkeys(e for one in given.values() for e in one.edges):
                out, found = _hold_out(edge, every, keep, share)
                rest = keep & ~out
                if found is None or rest.sum() <= len(form.names):
                    continue
                near = fit.thetas[:1], fit.centre
                with suppress(FitError):  # too few are left to tell the parameters
                    blind = fit_form(
                        form, at.only(rest), L[rest], n_draws=0, tested=False, near=near
                    )
                    off = blind.loss_at(at.only(out)) - L[out]
                    held[name][edge] = float(np.sqrt(np.mean(off**2)))
                    edges[edge] = found
        except ValueError as error:
            skipped.append(f"{name}: {error}")
            held.pop(name, None)
            continue
        fits.append(fit)
    if not fits:
        raise FitError(f"no form to compare: {'; '.join(skipped)}")
    # Errors are compared on what all forms were asked for
    common = [edge for edge in edges if all(edge in own for own in held.values())]
    total = {
        name: float(np.sqrt(np.mean([own[edge] ** 2 for edge in common]))) if common else np.nan
        for name, own in held.items()
    }
    fits.sort(key=lambda f: (not total[f.form_name] >= 0, total[f.form_name], f.scatter))
    first = fits[0]
    at, described = read_points(first.own, columns), np.ones(len(L), dtype=bool)
    if first.own.excludes is not None:
        described = ~first.own.excludes(at, L)[0]
    return FormComparison(
        subject=FORMS[chosen[0]].subject,
        fits=tuple(fits),
        edges=tuple(
            replace(edges[edge], errors={name: own[edge] for name, own in held.items()})
            for edge in common
        ),
        held_out=total,
        skipped=tuple(skipped),
        measured=tuple(L[described].tolist()),
        fitted=tuple(first.loss_at(at.only(described)).tolist()),
    )


def _make_forms(
    names: Sequence[str], columns: Mapping[str, ArrayLike] | pd.DataFrame
) -> dict[str, Form]:
    """Forms by their names, those of shares for the shares of this table."""
    forms = {name: FORMS[name] for name in names}
    return {
        name: form.with_shares([str(c) for c in columns]) if form.with_shares else form
        for name, form in forms.items()
    }


def _places(forms: Iterable[Form], columns: Mapping[str, ArrayLike] | pd.DataFrame) -> Points:
    """Columns of all of these forms that can be read."""
    found: dict[str, Array] = {}
    for form in forms:
        with suppress(ValueError):
            found |= read_points(form, columns).values
    return Points(found)


def _hold_out(
    name: str, at: Points, keep: np.ndarray, share: float
) -> tuple[np.ndarray, Edge | None]:
    """Which runs have the most of a column, of those to keep; None where none can be spared."""
    out = np.zeros(len(keep), dtype=bool)
    if not at.has(name):
        return out, None
    values = at.product(name)
    out[keep] = largest(values[keep], share)
    if not out.any():
        return out, None
    top, rest = float(values[keep].max()), float(values[keep & ~out].max())
    reach = max(float(np.log(top / rest)) if rest > 0 else np.inf, _LEAST)
    return out, Edge(name=name, n_held=int(out.sum()), errors={}, top=top, reach=reach)


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
