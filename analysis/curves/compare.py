"""Laws of loss curves side by side: their fits, and what they predict of runs held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves.fit import CurveFit, end_loss, fit_curves
from analysis.curves.history import History
from analysis.curves.laws import FORMS, STEPS
from analysis.curves.read import by_series
from analysis.fitting.intervals import Estimate
from analysis.fitting.results import Warned
from analysis.fitting.status import FitError
from analysis.fitting.text import in_columns, join_first, pluralize

NEAREST = "nearest run"
BOTH = "both"
EACH = "each"
_N_POINTS = 200  # of a run, in the table that is written


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """End of a run or a schedule by a law that did not see it; nats/token.

    law: a form's name; "both": the mean of the laws that see a schedule, by the squares of their
    intervals' widths, and the interval that holds both, for either may be wrong; "nearest run": the
    mean end of the fitted runs nearest in steps, the baseline that knows no schedule. measured: nan
    of a schedule that nobody ran. n_fitted: runs.
    """

    series: str
    run: str
    n_steps: float
    law: str
    n_fitted: int
    predicted: Estimate
    measured: float

    @property
    def error(self) -> float:
        return self.predicted.value - self.measured

    @property
    def inside(self) -> bool | None:
        """Whether the interval holds what was measured; None without either."""
        if not (np.isfinite(self.measured) and np.isfinite(self.predicted.lower)):
            return None
        return self.predicted.lower <= self.measured <= self.predicted.upper


@dataclass(frozen=True, kw_only=True, repr=False)
class Curves(Warned):
    """fits: of all runs of each series, each law. held: runs by the others; predicted: schedules.

    skipped: why a law or a series has no fit. skip: fit_curves'.
    """

    fits: tuple[CurveFit, ...]
    held: tuple[Predicted, ...]
    predicted: tuple[Predicted, ...]
    skipped: tuple[str, ...]
    skip: float | None
    histories: tuple[History, ...] = field(repr=False, compare=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        of_fits = [f"{f.series}, {f.form_name}: {text}" for f in self.fits for text in f.warnings]
        return (*self.of_table, *of_fits, *self.skipped)

    def to_frame(self) -> pd.DataFrame:
        """A row a prediction, or without any a row a parameter."""
        rows = [
            {
                "series": p.series,
                "run": p.run,
                "steps": p.n_steps,
                "law": p.law,
                "runs": p.n_fitted,
                **p.predicted.columns("end"),
                "measured": p.measured,
                "error": p.error,
            }
            for p in (*self.held, *self.predicted)
        ]
        if rows:
            return pd.DataFrame(rows)
        frames = [
            f.to_frame().reset_index(names="parameter").assign(series=f.series, law=f.form_name)
            for f in self.fits
        ]
        return pd.concat(frames, ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """All but the histories' rows, each fit with its parameters' intervals."""
        return {**super().to_dict(), "fits": [fit.to_dict() for fit in self.fits]}

    def points(self) -> pd.DataFrame:
        """Histories, as a CSV that the command reads again: at most 200 points of each run,
        means of neighbouring rows.
        """
        parts = [
            pd.DataFrame(
                {
                    "run": one.run,
                    "series": one.series,
                    "step": one.step,
                    "loss": one.loss.round(4),
                    "lr": [float(f"{rate:.6g}") for rate in one.rate],
                }
            )
            for one in (whole.pooled(-1.0, _N_POINTS) for whole in self.histories)
        ]
        return pd.concat(parts, ignore_index=True)

    def summary(self) -> str:
        lines = [f"{f.series}, {f.title}: {f.summary()}\n" for f in self.fits]
        if self.held:
            lines += [
                "held out: the mean loss of a run's last twentieth, by laws of the other runs "
                "(95 % intervals)",
                _table(self.held, measured=True),
                *_score(self.held),
                "",
            ]
        if self.predicted:
            lines += [
                "predicted: the mean loss of a schedule's last twentieth (95 % intervals)",
                _table(self.predicted, measured=False),
                "",
            ]
        return "\n".join([*lines, *(f"not fitted: {text}" for text in self.skipped)])


def _table(rows: Sequence[Predicted], measured: bool) -> str:
    columns: dict[str, Callable[[Predicted], object]] = {
        "series": lambda p: p.series,
        "run": lambda p: p.run,
        "law": lambda p: p.law,
        "fitted to": lambda p: pluralize(p.n_fitted, "run"),
        "end": lambda p: f"{p.predicted.value:.4f}",
        "lower": lambda p: _number(p.predicted.lower),
        "upper": lambda p: _number(p.predicted.upper),
    }
    if measured:
        columns |= {
            "measured": lambda p: f"{p.measured:.4f}",
            "error": lambda p: f"{p.error:+.4f}",
            "inside": lambda p: {None: "", True: "yes", False: "no"}[p.inside],
        }
    return in_columns(pd.DataFrame({name: [get(p) for p in rows] for name, get in columns.items()}))


def _number(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else ""


def _score(held: Sequence[Predicted]) -> list[str]:
    lines = []
    for law in dict.fromkeys(p.law for p in held):
        mine = [p for p in held if p.law == law]
        rms = np.sqrt(np.mean([p.error**2 for p in mine]))
        known = [p.inside for p in mine if p.inside is not None]
        inside = f", {sum(known)} of {len(known)} inside" if known else ""
        worst = max(abs(p.error) for p in mine)
        lines.append(f"  {law}: rms error {rms:.4f}, worst {worst:.4f}{inside}")
    return lines


def compare_curves(
    histories: Sequence[History],
    forms: Sequence[str] = tuple(FORMS),
    *,
    hold_out: Sequence[str] = (),
    schedules: Callable[[History], Sequence[History]] = lambda _: (),
    skip: float | None = None,
    delta: float | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> Curves:
    """Fits each form to each series; skip, delta, n_draws and seed are fit_curves'.

    hold_out: "each" holds every run out by itself; another text holds out, at once, the runs whose
    name has one of its parts, which commas separate. schedules: what to predict of a series, by its
    longest run. What can't be fitted is skipped, with the reason. Raises ValueError if a text of
    hold_out is in no name, FitError if nothing can be fitted.
    """
    groups = by_series(histories)
    how = partial(fit_curves, skip=skip, delta=delta, n_draws=n_draws, seed=seed)
    _check(hold_out, histories)
    fits: list[CurveFit] = []
    held: list[Predicted] = []
    predicted: list[Predicted] = []
    skipped: list[str] = []
    for series, runs in groups.items():
        mine = [fit for form in forms if (fit := _fitted(runs, form, how, skipped, series))]
        fits += mine
        longest = max(runs, key=lambda one: float(one.step[-1]))
        for schedule in schedules(longest):
            predicted += _by_laws(mine, schedule, float("nan"))
        for out in _sets(hold_out, runs):
            rest = [one for one in runs if one.run not in out]
            label = f"{series} without {join_first(sorted(out), 2)}"
            if not rest:
                skipped.append(f"{label}: no run is left")
                continue
            blind = [fit for f in forms if (fit := _fitted(rest, f, how, skipped, label))]
            for one in (one for one in runs if one.run in out):
                held += _by_laws(blind, one, end_loss(one))
                held.append(_nearest(rest, one))
    if not fits and not held:
        raise FitError(f"no series could be fitted: {'; '.join(dict.fromkeys(skipped))}")
    return Curves(
        fits=tuple(fits),
        held=tuple(held),
        predicted=tuple(predicted),
        skipped=tuple(dict.fromkeys(skipped)),
        skip=skip,
        histories=tuple(histories),
    )


def _fitted(
    runs: Sequence[History],
    form: str,
    how: Callable[[Sequence[History], str], CurveFit],
    skipped: list[str],
    label: str,
) -> CurveFit | None:
    try:
        return how(runs, form)
    except FitError as error:
        skipped.append(f"{label}, {form}: {error}")
        return None


def _by_laws(fits: Sequence[CurveFit], run: History, measured: float) -> list[Predicted]:
    """End of a run by each law, and by those together that see its schedule."""
    found = [
        Predicted(
            series=fit.series,
            run=run.run,
            n_steps=float(run.step[-1]),
            law=fit.form_name,
            n_fitted=len(fit.runs),
            predicted=fit.end(run),
            measured=measured,
        )
        for fit in fits
    ]
    seeing = [p for p in found if p.law != STEPS.name]
    if len(seeing) > 1:
        ends, lower, upper = np.array([p.predicted for p in seeing]).T
        width = upper - lower
        weights = 1 / width**2 if (width > 0).all() else np.ones(len(seeing))
        mean = float(np.average(ends, weights=weights))
        both = Estimate(mean, float(lower.min()), float(upper.max()))
        found.insert(len(seeing), replace(seeing[0], law=BOTH, predicted=both))
    return found


def _nearest(rest: Sequence[History], run: History) -> Predicted:
    last = float(run.step[-1])
    apart = [abs(float(np.log(one.step[-1] / last))) for one in rest]
    ends = [end_loss(o) for o, a in zip(rest, apart, strict=True) if a < min(apart) + 0.01]
    nothing = float("nan")
    return Predicted(
        series=run.series,
        run=run.run,
        n_steps=last,
        law=NEAREST,
        n_fitted=len(ends),
        predicted=Estimate(float(np.mean(ends)), nothing, nothing),
        measured=end_loss(run),
    )


def _sets(hold_out: Sequence[str], runs: Sequence[History]) -> list[set[str]]:
    """Names of the runs that are held out together, once each."""
    found: list[set[str]] = []
    for text in hold_out:
        sets = [{one.run} for one in runs] if text == EACH else [_named(text, runs)]
        found += [out for out in sets if out and out not in found]
    return found


def _named(text: str, runs: Sequence[History]) -> set[str]:
    """Runs whose name is one of the parts, else those whose name has one in it."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found: set[str] = set()
    for part in parts:
        same = {one.run for one in runs if one.run == part}
        found |= same or {one.run for one in runs if part in one.run}
    return found


def _check(hold_out: Sequence[str], histories: Sequence[History]) -> None:
    for text in hold_out:
        if text != EACH and not _named(text, histories):
            names = join_first([one.run for one in histories], 6)
            raise ValueError(f"--hold-out {text!r} is in no run's name; they are {names}")
