"""Fits a law of the whole curve to the histories of one series."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from analysis.curves.history import History, compute_sums
from analysis.curves.laws import FORMS, Form, Law
from analysis.fitting.intervals import Array, Estimate, Prediction, percentiles
from analysis.fitting.least_squares import Minima, minimise
from analysis.fitting.results import DrawsFit
from analysis.fitting.status import FitError, FitStatus, Warnings
from analysis.fitting.text import join_first

END = 1 / 20  # of a run's steps: its end, whose mean loss is predicted
_ROWS = 8  # of a run, at least
_N_PARTS = 60  # points that a history is pooled into
_N_BLOCKS = 20  # of the longest run's steps, with residuals that keep together
_DELTA = 1e-3  # of both papers, on residuals of ln L
_SAME = 0.1  # of the peak, at tenths of the steps: one schedule
_ENOUGH = 20  # draws to judge identifiability by
_WIDE = 10.0  # times the lower end of an interval: a parameter is not identifiable
_ALIKE = 0.95  # correlation of two parameters' draws: they trade off


@dataclass(frozen=True, kw_only=True, repr=False)
class CurveFit(DrawsFit):
    """A law of one series' curves. predict(schedule) is the loss at its steps.

    form_name, title: the law's. runs: those it is fitted to. theta, theta_draws: see laws. unit: of
    the rate there. longest: the longest memory that was tried, steps. rest: (b,), mean residuals of
    ln L in blocks as long as an end, in the runs' later halves. sd: of a point of a pooled history.
    """

    form_name: str
    title: str
    series: str
    runs: tuple[str, ...]
    theta: tuple[float, ...]
    unit: float
    longest: float
    sd: float
    theta_draws: Array = field(repr=False, compare=False)
    rest: Array = field(repr=False, compare=False)

    def predict(self, schedule: History, level: float = 0.95) -> Prediction:
        """Law's mean loss at each row of a schedule, and its interval; nats/token."""
        law = self._law(schedule, schedule.step)
        value = law(np.array(self.theta)[None])[0][0]
        low, high = percentiles(law(self.theta_draws)[0], level)
        return Prediction(value, low, high, level)

    def end(self, schedule: History, level: float = 0.95) -> Estimate:
        """Mean loss over the last twentieth of a schedule's steps, and the interval for a run
        of it: of the law's draws, and of residuals in blocks as long.
        """
        last = schedule.step[-1]
        law = self._law(schedule, np.linspace(last * (1 - END), last, 9))
        value = float(law(np.array(self.theta)[None])[0].mean())
        draws = law(self.theta_draws)[0].mean(axis=1)
        if not len(self.rest):
            return Estimate.of_draws(value, draws, level)
        rest = np.random.default_rng(0).choice(self.rest, (20, len(draws)))
        return Estimate.of_draws(value, (draws * np.exp(rest)).ravel(), level)

    def _law(self, schedule: History, step: Array) -> Law:
        return FORMS[self.form_name].law([compute_sums(schedule, step, self.unit, self.longest)])

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        intervals = super().conf_int(level)
        intervals.loc[list(self.fixed)] = np.nan
        return intervals


def end_loss(history: History) -> float:
    """Mean loss over the last twentieth of a run's steps."""
    return float(history.loss[history.step > history.step[-1] * (1 - END)].mean())


def find_start(histories: Sequence[History], skip: float | None) -> float:
    """Step after which rows are fitted: `skip`, or twice the longest warm-up."""
    return 2 * max(one.risen for one in histories) if skip is None else skip


def fit_curves(
    histories: Sequence[History],
    form: str = "annealing",
    *,
    skip: float | None = None,
    delta: float | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> CurveFit:
    """Minimises Huber's loss of ln L over all histories, each pooled into 60 points at most.

    skip: rows up to this step are left out; by default twice the warm-up's end. delta: Huber's; by
    default 1.345 sd of the residuals, 1e-3 (both papers') at least. Intervals: a wild bootstrap
    (Wu 1986) that turns the sign of all residuals of a block at once, a block being a twentieth of
    the longest run's steps in all runs: neighbours share misfit, and runs of one seed share
    batches. Deviations: the papers fit every step, by BFGS and Adam, without intervals.

    Raises FitError for too few points, or histories that don't identify the law at all.
    """
    law_form, warnings = FORMS[form], Warnings()
    start = find_start(histories, skip)
    pooled = [one.pooled(start, _N_PARTS) for one in histories if (one.step > start).sum() >= _ROWS]
    if not pooled:
        raise FitError(
            f"no history has {_ROWS} rows after step {start:g}; give longer ones, or skip fewer "
            "steps"
        )
    short = [one.run for one in histories if (one.step > start).sum() < _ROWS]
    if short:
        warnings.add(
            f"excluded, with fewer than {_ROWS} rows after step {start:g}, where the fit begins: "
            f"{join_first(short)}"
        )
    if law_form.needs_decay:
        _check_schedules(histories, warnings)
    unit = max(one.peak for one in histories)
    longest = max(float(one.step[-1]) for one in histories)
    sums = [
        compute_sums(whole, one.step, unit, longest)
        for one in pooled
        for whole in histories
        if whole.run == one.run
    ]
    loss, step = (np.concatenate([getattr(o, name) for o in pooled]) for name in ("loss", "step"))
    law, target = _log(law_form.law(sums)), np.log(loss)
    lower, upper = law_form.box(loss, longest)
    if len(loss) <= len(lower):
        raise FitError(f"{len(loss)} points are too few for {len(lower)} parameters")
    descend = partial(minimise, law, lower=lower, upper=upper)
    begin = law_form.begin(loss, law_form.abscissa(sums))
    first = descend(target, begin, delta=_DELTA, max_steps=60)
    off = np.abs(law(first.theta[[first.best]])[0][0] - target)
    sd = float(1.4826 * np.median(off))  # of normal residuals
    delta = max(_DELTA, 1.345 * sd) if delta is None else delta
    best = first.theta[np.argsort(first.value)[:6]]
    found = descend(target, best, delta=delta)
    theta = found.theta[found.best]
    fitted = law(theta[None])[0][0]
    residuals = target - fitted
    targets = _targets(fitted, residuals, step / longest, len(theta), n_draws, seed)
    draws = descend(targets, np.tile(theta, (n_draws, 1)), delta=delta, max_steps=60).theta
    _warn(law_form, found, theta, lower, upper, warnings)
    reported = law_form.reported(np.concatenate([theta[None], draws]), unit)
    _identify(law_form, draws, reported[1:], warnings)
    return CurveFit(
        form=law_form.form,
        form_name=form,
        title=law_form.title,
        series=histories[0].series,
        runs=tuple(one.run for one in pooled),
        names=law_form.names,
        estimates=tuple(reported[0].tolist()),
        n_points=len(loss),
        objective=float(found.value[found.best]),
        interval=f"wild bootstrap of blocks of steps, {n_draws} draws",
        status=warnings.status,
        warnings=tuple(warnings.texts),
        draws=reported[1:],
        theta=tuple(theta.tolist()),
        theta_draws=draws,
        unit=unit,
        longest=longest,
        sd=float(sd),
        rest=_rest(pooled, residuals),
    )


def _log(law: Law) -> Law:
    def evaluate(theta: Array) -> tuple[Array, Array]:
        value, jacobian = law(theta)
        value = np.where(value > 0, value, np.nan)  # refused by the descent
        return np.log(value), jacobian / value[:, :, None]

    return evaluate


def _targets(
    fitted: Array, residuals: Array, share: Array, n_params: int, n_draws: int, seed: int
) -> Array:
    """ln L of each draw of the bootstrap, (n_draws, n); share: of the longest run's steps, (n,)."""
    block = np.minimum(_N_BLOCKS - 1, (share * _N_BLOCKS).astype(int))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (n_draws, _N_BLOCKS))[:, block]
    n = len(residuals)
    return fitted + signs * residuals * np.sqrt(n / (n - n_params))


def _rest(pooled: Sequence[History], residuals: Array) -> Array:
    """Mean residuals of blocks as long as an end, in the later half of each run."""
    found, first = [], 0
    for one in pooled:
        mine = residuals[first : first + len(one.step)]
        first += len(one.step)
        block = np.minimum(1 / END - 1, one.step / one.step[-1] / END).astype(int)
        late = [mine[block == i].mean() for i in range(10, 20) if (block == i).any()]
        found.extend(late)
    return np.array(found)


def _check_schedules(histories: Sequence[History], warnings: Warnings) -> None:
    decaying = [one for one in histories if one.decays]
    if not decaying:
        raise FitError(
            "the rate of no run falls before its end, so what a falling rate gains is not "
            "identifiable; add a run with a decay, or take --law steps"
        )
    shapes = np.stack([_shape(one) for one in histories])
    if np.ptp(shapes, axis=0).max() < _SAME:
        warnings.add(
            "all runs have one schedule: what the falling rate gains is not distinguishable from "
            "the power of S1; don't trust it for another schedule"
        )


def _shape(history: History) -> Array:
    """Rate at tenths of the steps after the warm-up, as a share of its peak."""
    at = np.linspace(history.risen, history.step[-1] * 0.99, 10)
    return np.interp(at, history.step, history.rate / history.peak)


def _warn(
    form: Form, found: Minima, theta: Array, lower: Array, upper: Array, warnings: Warnings
) -> None:
    if not found.converged[found.best]:
        warnings.add("the descent did not converge", FitStatus.MAX_ITER)
    hit = found.at_bound[found.best] | (theta <= lower) | (theta >= upper)
    for name, at, value, low, high in zip(form.names, hit, theta, lower, upper, strict=True):
        if at:
            side = "lowest" if value - low < high - value else "highest"
            warnings.add(f"{name} is at the {side} that it may be", FitStatus.BOUND_HIT)


def _identify(form: Form, theta: Array, reported: Array, warnings: Warnings) -> None:
    """Warns of parameters that the draws of theta, and as reported, (n_draws, p), leave open. A is
    a level at S1 = 1, far from all curves, so it goes with alpha always and is not named.
    """
    if len(theta) < _ENOUGH:
        return
    low, high = percentiles(reported, 0.95)
    open_ = [n for n, a, b in zip(form.names, low, high, strict=True) if b > _WIDE * max(a, 0)]
    if open_:
        warnings.add(f"{', '.join(open_)} not identifiable from these curves")
    with np.errstate(invalid="ignore", divide="ignore"):  # of a draw that is always at its bound
        alike = np.abs(np.corrcoef(theta.T)) > _ALIKE
    names = form.names
    pairs = [
        f"{names[i]} with {names[j]}"
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if alike[i, j] and "A" not in (names[i], names[j])
    ]
    if pairs:
        warnings.add(f"{', '.join(pairs)} trade off: known together, not each by itself")
