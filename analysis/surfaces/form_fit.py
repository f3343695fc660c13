"""A fitted form: from many starts downhill, warnings, and intervals of residuals' signs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from analysis.fitting.clusters import cluster_codes, few_clusters
from analysis.fitting.edges import PAIRED, Edge, EdgedFit, fit_without, times_beyond_warned, widened
from analysis.fitting.intervals import Array, Prediction, t_quantile
from analysis.fitting.least_squares import Minima, Model, minimise, some_of
from analysis.fitting.pattern import CHANCE, LEAST, find_pattern, near_each_other
from analysis.fitting.status import FitError
from analysis.fitting.text import pluralize
from analysis.laws.identify import Optimum
from analysis.laws.law import Centre, Start, Variables
from analysis.surfaces.form import Form, Points, Table, is_share

_TUNING = 1.345 * 1.4826  # Huber's delta in median absolute residuals, of normal noise
_FIRST = 0.3  # the same in those of the losses themselves, for the way down
_FEW = 20  # degrees of freedom: fewer do not tell noise from outliers
_KNOWN = 100  # degrees of freedom: from here on the residuals' own sizes count
_ROUNDS = 3
_BEST = 3  # starts that are followed with the noise's own delta
_STEPS = 200
_SAME = 1e-6  # relative: starts this near the best found the same minimum
_EXACT = 1e-9  # of the losses' spread: residuals that are rounding
_MANY = 150  # runs, whose errors move a fit so little that one step tells how far
_NEAR = (0.2, 0.07)  # of a column's range: wide patterns, and narrow ones
_TESTED = 1000  # runs: beyond, the test of a pattern would take minutes


@dataclass(frozen=True, kw_only=True, repr=False)
class FormFit(EdgedFit):
    """A form fitted to losses in nats, which may be negative.

    own: the form, in the columns of the runs; delta: Huber's, in nats; infinite where the runs are
    too few to tell outliers; scatter: standard deviation of the runs about it, in nats, with dof
    degrees of freedom; n_excluded: runs that were left out.
    """

    form_name: str
    own: Form = field(repr=False, compare=False)
    delta: float
    scatter: float
    dof: int
    r2: float
    centre: Centre
    share_at_best: float
    condition: float
    n_excluded: int

    def loss(self, columns: Table) -> Array:
        """nats at these columns, without an interval."""
        return self.loss_at(read_points(self.own, columns))

    def loss_at(self, at: Points) -> Array:
        return self.own.model(at, self.centre)(self.thetas[:1])[0][0]

    def predict(
        self,
        columns: Table,
        *,
        level: float = 0.95,
        new_run: bool = False,
    ) -> Prediction:
        """Loss in nats at these columns, (n,) each, with the interval of the form or, new_run, of
        one more run there, by Student's t of the scatter.

        The interval is of noise alone: that of a fit with edges, as compare_forms makes, has the
        error of the form too. Raises ValueError naming a column that lacks, or its first bad value.
        """
        return self.predict_at(read_points(self.own, columns), level=level, new_run=new_run)

    def predict_at(self, at: Points, *, level: float = 0.95, new_run: bool = False) -> Prediction:
        model = self.own.model(at, self.centre)

        def of(thetas: Array) -> Array:
            return model(thetas)[0]

        sd = self.error_of_form(of, times_beyond_warned(self.edges, at.log))
        found = widened(self._over_draws(of, level), sd, level, len(self.edges))
        return found.wider(t_quantile(self.dof, level) * self.scatter) if new_run else found

    def to_dict(self) -> dict[str, Any]:
        """As other fits; theta is the estimate, and its draws are left out."""
        found = super().to_dict()
        return {**found, "theta": self.thetas[0].tolist(), "columns": [*self.own.needs_columns]}


def read_points(form: Form, columns: Table) -> Points:
    """A form's columns of a frame or of arrays, with what follows from others derived.

    Raises ValueError naming the columns that lack, and the first value that can't be.
    """
    found: dict[str, Array] = {}
    for column in form.columns:
        if column.name in columns:
            found[column.name] = np.atleast_1d(np.asarray(columns[column.name], dtype=np.float64))
        elif column.derived and all(name in columns for name in column.derived[0]):
            of, function = column.derived
            kind = form.kind.name if form.kind else None
            types = (object if name == kind else np.float64 for name in of)
            given = (np.asarray(columns[name], dtype=t) for name, t in zip(of, types, strict=True))
            found[column.name] = np.atleast_1d(function(*given))
    absent = [column for column in form.columns if column.name not in found]
    if absent:
        ways = [
            f"{one.name} (or {' and '.join(one.derived[0])})" if one.derived else one.name
            for one in absent
            if not (form.kind and is_share(one.name))
        ]
        texts = [form.kind.name] if form.kind and form.kind.name not in columns else []
        raise ValueError(
            f"{form.name} is in {', '.join(form.reads)}: give {' and '.join([*ways, *texts])} too"
        )
    for name, values in found.items():
        share = is_share(name)
        bad = ~(np.isfinite(values) & ((values >= 0) & (values <= 1) if share else values > 0))
        if bad.any():
            rule = "must be from 0 to 1" if share else "must be finite and above 0"
            first = int(bad.argmax())
            raise ValueError(f"{name}[{first}]={values[first]} {rule}")
    try:
        both = np.broadcast_arrays(*found.values())
    except ValueError:
        sizes = {name: len(values) for name, values in found.items()}
        raise ValueError(f"columns of different lengths: {sizes}") from None
    return Points(dict(zip(found, both, strict=True)))


def fit_form(
    form: Form,
    at: Points,
    loss: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_draws: int = 200,
    seed: int = 0,
    tested: bool = True,
    edges: Sequence[Edge] = (),
) -> FormFit:
    """Fits a form by Huber's loss of its residuals in nats; delta is 1.345 of their deviations.

    Intervals are of draws in which residuals turn their signs, each by itself or with its group
    (the wild bootstrap), made as large as errors; below 100 degrees of freedom without groups of
    normal errors, for signs of few runs are few draws. tested: look for a pattern in the residuals,
    of 1,000 runs at most. edges: runs that it is fitted without as well, for the form's own error
    (fitting/edges.py); those without which it is not identified are left out. Raises ValueError for
    a bad argument, FitError for runs that do not identify the parameters.
    """
    L = np.asarray(loss, dtype=np.float64).ravel()
    if len(L) != len(at):
        raise ValueError(f"{len(L)} losses for {len(at)} runs")
    if not np.isfinite(L).all():
        raise ValueError(f"loss[{int((~np.isfinite(L)).argmax())}] is not finite")
    if n_draws < 0:
        raise ValueError(f"n_draws={n_draws} must be 0 or more")
    out, why = form.excluded(at, L)
    at, L = at.only(~out), L[~out]
    clusters = None if groups is None else cluster_codes(np.asarray(groups)[~out], len(L))
    if lacking := _unidentified(form, at):
        raise FitError(lacking)
    edges = [edge for edge in edges if not _unidentified(form, at.only(~edge.out[~out]))]
    kept = [~edge.out[~out] for edge in edges]
    centre = at.centre()
    model, box = form.model(at, centre), form.start(at, centre, L, ())
    minima, delta, share = _down(lambda some: form.model(some, centre), at, L, box)
    theta = minima.theta[minima.best]
    found = Optimum(
        law=form, at=Variables.of(1), model=model, box=box, fixed=(), minima=minima, share=share
    )
    condition = found.condition
    found.refuse_singular(condition)
    warned = found.warned(condition)
    if out.any():
        warned.add(f"{out.sum()} of {len(out)} runs {why}; they are excluded")
    value, jacobian = (part[0] for part in model(theta[None]))
    off, free = L - value, found.free
    if (2 * len(form.names)) > len(L):
        warned.add(f"{len(L)} runs for {len(form.names)} parameters: the intervals say little")
    pattern = _pattern(form, at, np.clip(off, -delta, delta), jacobian[:, free]) if tested else None
    for text in (*((pattern,) if pattern else ()), *few_clusters(clusters)):
        warned.add(text)
    dof = len(L) - len(form.names)
    # What is clipped moves a fit by Huber's loss less, and so do the runs beyond the clip
    large = np.clip(off, -delta, delta) / np.mean(np.abs(off) <= delta) * _grown(jacobian[:, free])
    errors, how = _errors(off, large, dof, clusters, n_draws, seed)
    thetas = _drawn(model, box, theta, free, errors, np.ones(len(L)))

    def draw(_: Array, weights: Array) -> Array:
        return _drawn(model, box, theta, free, errors[:PAIRED], weights)

    descend = partial(minimise, model, L, lower=box.lower, upper=box.upper, delta=delta)
    starts = box.starts if len(L) <= _MANY else box.starts[:0]
    without, missed = fit_without(kept, descend, starts, theta, draw, model, L)
    squares = ((L - L.mean()) ** 2).sum()
    return FormFit(
        form=form.formula,
        names=form.names,
        estimates=tuple(form.natural(theta[None], centre)[0].tolist()),
        n_points=len(L),
        objective=float(minima.value[minima.best]),
        interval=how,
        status=warned.status,
        warnings=tuple(warned.texts),
        draws=form.natural(thetas, centre),
        form_name=form.name,
        own=form,
        delta=float(delta),
        scatter=float(np.sqrt(off @ off / dof)),
        dof=dof,
        r2=float(1 - off @ off / squares) if squares > 0 else float("nan"),
        centre=centre,
        share_at_best=share,
        condition=condition,
        n_excluded=int(out.sum()),
        thetas=np.vstack([theta[None], thetas]),
        edges=tuple(edges),
        without=without,
        missed=missed,
        misfit=bool(pattern),
    )


def _unidentified(form: Form, at: Points) -> str | None:
    """Why the runs, whatever their losses, do not identify the parameters; None if they may."""
    n, k = len(at), len(form.names)
    if n <= k:
        return f"{pluralize(n, 'run')} for the {k} parameters of {form.name}"
    for column, names in form.tells.items():
        values = at[column]
        if np.ptp(values) <= 1e-9 * np.abs(values).max():
            verb = "is" if len(names) == 1 else "are"
            return (
                f"all runs have {column}={values[0]:.6g}: {' and '.join(names)} of {form.name} "
                f"{verb} not identifiable; vary it"
            )
    return None


def _down(
    of: Callable[[Points], Model], at: Points, L: Array, box: Start
) -> tuple[Minima, float, float]:
    """Minima of the best starts at the noise's delta, that delta, and how many starts agree."""
    model, k = of(at), box.starts.shape[1]
    descend = partial(minimise, lower=box.lower, upper=box.upper, max_steps=_STEPS)
    spread = float(np.median(np.abs(L - np.median(L)))) or float(np.abs(L).max())
    few = len(L) - k < _FEW
    delta = np.inf if few else _FIRST * spread
    some = some_of(len(L), k)
    minima = descend(of(at.only(some)), L[some], box.starts, delta=delta)
    least = minima.value[minima.best]
    share = float((minima.value <= least * (1 + _SAME) + (_EXACT * spread) ** 2).mean())
    if few:
        return minima, delta, share
    theta = minima.theta[np.argsort(minima.value, kind="stable")[:_BEST]]
    for _ in range(_ROUNDS):
        off = np.abs(model(theta[:1])[0][0] - L)
        deviation = float(np.median(off)) * np.sqrt(len(L) / (len(L) - k))
        delta = max(_TUNING * deviation, _EXACT * spread)
        minima = descend(model, L, theta, delta=delta)
        theta = minima.theta[np.argsort(minima.value, kind="stable")]
    return minima, delta, share


def _errors(
    off: Array, large: Array, dof: int, clusters: np.ndarray | None, n_draws: int, seed: int
) -> tuple[Array, str]:
    """Errors (n_draws, n) of losses, and how they were drawn. off: residuals; large: the same, made
    as large as errors.
    """
    rng, n = np.random.default_rng(seed), len(off)
    if clusters is None and dof < _KNOWN:
        errors = rng.normal(size=(n_draws, n)) * np.sqrt(off @ off / dof)
        return errors * _tails(dof), f"{n_draws} draws of normal errors of the scatter"
    n_signs = n if clusters is None else int(clusters.max()) + 1
    signs = rng.choice([-1.0, 1.0], (n_draws, n_signs))
    signs = signs if clusters is None else signs[:, clusters]
    unit = "run" if clusters is None else f"group of {n_signs}"
    return signs * large * _tails(dof), f"{n_draws} draws of the signs of residuals, one a {unit}"


def _grown(jacobian: Array) -> Array:
    """Factors (n,) that make residuals as large as errors: the fit takes a part of each for its
    own, by its leverage.
    """
    span, _ = np.linalg.qr(jacobian)
    leverage = np.minimum((span**2).sum(axis=1), 0.99)
    return 1 / np.sqrt(1 - leverage)


def _tails(dof: int) -> float:
    """Half a 95 % interval by Student's t in those of a normal distribution."""
    return t_quantile(dof, 0.95) / float(stats.norm.ppf(0.975))


def _drawn(
    model: Model, box: Start, theta: Array, free: np.ndarray, turned: Array, weights: Array
) -> Array:
    """Fits (S, p) to the fitted values with other errors (S, n); weights (n,): 0 or 1."""
    value, jacobian = (part[0] for part in model(theta[None]))
    if len(value) <= _MANY:
        found = minimise(
            model,
            value + turned,
            np.repeat(theta[None], len(turned), axis=0),
            lower=box.lower,
            upper=box.upper,
            weights=weights,
            max_steps=_STEPS,
        )
        return found.theta
    moves = np.zeros((len(turned), len(theta)))
    lengths = np.linalg.norm(jacobian[:, free], axis=0)
    inverse = np.linalg.pinv(jacobian[:, free] / lengths * weights[:, None], rcond=1e-10)
    moves[:, free] = turned @ inverse.T / lengths
    return np.clip(theta + moves, box.lower, box.upper)


def _pattern(form: Form, at: Points, off: Array, jacobian: Array) -> str | None:
    """Why the form does not describe its runs, in words; None if it does, or if they are many."""
    n, p = jacobian.shape
    scatter = float(np.sqrt(off @ off / max(n - p, 1)))
    if not LEAST <= n - p <= _TESTED or scatter <= _EXACT * float(np.abs(off).max() + 1):
        return None
    columns = [v if is_share(name) else np.log(v) for name, v in at.values.items()]
    kernels = [near_each_other(columns, near) for near in _NEAR]
    if len(columns) > 1:  # a column's own bend is lost among all that several do together
        kernels.append(np.sum([near_each_other([x], _NEAR[0]) for x in columns], axis=0))
    every = [find_pattern(off / scatter, jacobian, kernel) for kernel in kernels]
    found = min(every, key=lambda one: one.chance)
    if not found.chance * len(every) < CHANCE:
        return None
    typical = scatter * float(np.sqrt(np.mean(found.missed**2)))
    return (
        f"this form misses the runs in a pattern, by about {typical:.2g} nats "
        f"(p={found.chance * len(every):.1g}): their losses have another form, so its parameters "
        "and extrapolations may be off by more than the intervals say"
    )
