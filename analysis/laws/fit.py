"""One fit of all laws: from many starts downhill, warnings, and a bootstrap of the runs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from analysis.fitting.clusters import cluster_codes, describe_draws, drawn_counts, few_clusters
from analysis.fitting.edges import PAIRED, Edge, fit_without
from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Minima, Model, minimise, some_of
from analysis.fitting.power_sum import exponentiated
from analysis.fitting.profile import likelihood_text
from analysis.fitting.status import FitError
from analysis.laws.identify import Optimum, refuse
from analysis.laws.law import Law, Variables
from analysis.laws.pattern import misses_in_a_pattern
from analysis.laws.result import FittedLaw, Residual, Runs
from analysis.laws.turn import turns_with_experts

F = TypeVar("F", bound=FittedLaw)

_SAME = 1e-6  # relative: starts this near the best objective found the same minimum
_MAX_STEPS = 10_000
_ENOUGH = 1e-3  # squared standard errors: nothing beside what draws differ by
_FEW_STEPS = 8  # of a draw without an edge, from the estimate without it: it is not far
_RAN_OFF = 0.05  # share of the draws that may stop at a bound


def fit_law(
    kind: type[F],
    law: Law,
    at: Variables,
    loss: Array,
    *,
    residual: Residual = "log",
    delta: float = np.inf,
    groups: ArrayLike | None = None,
    n_draws: int,
    seed: int = 0,
    notes: Sequence[str] = (),
    edges: Sequence[Edge] = (),
    more: dict[str, Any] | None = None,
) -> F:
    """Fits a law to losses (n,) in nats/token at `at`, as a result of this kind.

    Intervals are of the likelihood (fitting.profile) where there is one: of laws of experts, by
    least squares of runs that are independent. Else they are percentiles of a bootstrap: of
    surfaces, whose Huber's loss has none and whose optima are of draws, and of groups.
    residual: of ln L, or of L in nats/token; delta: Huber's bound, in its unit; infinite: least
    squares. groups: the bootstrap draws whole groups of runs. notes: more warnings; edges:
    runs that the law is fitted without as well, for its form's error; those without which it is not
    identified are left out; more: the kind's own fields. Raises ValueError for a bad argument,
    FitError for runs that do not identify the parameters (see identify).
    """
    if residual not in ("log", "loss"):
        raise ValueError(f"residual={residual!r} is neither 'log' nor 'loss'")
    if not delta > 0:
        raise ValueError(f"delta={delta!r} must be above 0; inf is plain least squares")
    if n_draws < 0:
        raise ValueError(f"n_draws={n_draws} must be 0 or more")
    n = len(loss)
    clusters = None if groups is None else cluster_codes(groups, n)
    fixed = law.not_fitted(at)
    refuse(law, at, fixed)
    edges = [edge for edge in edges if _identified(law, at, ~edge.out)]

    centre = at.centre()
    target = loss if residual == "loss" else np.log(loss)

    def model_of(some: Variables) -> Model:
        logs = law.model(some, centre)
        return exponentiated(logs) if residual == "loss" else logs

    model, box = model_of(at), law.start(at, centre, loss, fixed)
    by_likelihood = np.isinf(delta) and clusters is None and not law.of_size_and_tokens
    go = partial(minimise, lower=box.lower, upper=box.upper, delta=delta)
    descend = partial(go, model, target)
    some = some_of(n, len(law.names))
    far = len(some) < n
    minima = descend(
        go(model_of(at.only(some)), target[some], box.starts).theta if far else box.starts
    )
    if law.tells and not minima.converged[minima.best]:
        minima = _to_its_end(descend, minima)
    best = minima.best
    theta = minima.theta[best]
    share = float((minima.value <= minima.value[best] * (1 + _SAME) + 1e-25).mean())
    found = Optimum(law=law, at=at, model=model, box=box, fixed=fixed, minima=minima, share=share)
    condition = found.condition
    found.refuse_singular(condition)

    warned = found.warned(condition)
    n_free = len(law.names) - len(fixed)
    logs, jacobian = (part[0] for part in law.model(at, centre)(theta[None]))
    off = logs - np.log(loss)
    misfit = False
    if by_likelihood:
        moves = jacobian[:, found.free]
        turn = turns_with_experts(at, off, moves, loss) if "E" in law.variables else None
        for missed in (misses_in_a_pattern(law.variables, at, off, moves, loss), turn):
            if missed:
                warned.add(missed)
                misfit = True
    few = [f"{n} runs for {n_free} parameters: the intervals say little"] if n < 2 * n_free else []
    counts = drawn_counts(n, n_draws, np.random.default_rng(seed), clusters)
    begin = np.repeat(theta[None], len(counts), axis=0)
    drawn = descend(begin, weights=counts, enough=_ENOUGH)

    def draw(best: Array, kept: Array) -> Array:
        begin = np.repeat(best[None], len(counts[:PAIRED]), axis=0)
        return descend(begin, weights=counts[:PAIRED] * kept, max_steps=_FEW_STEPS).theta

    kept = [~edge.out for edge in edges]
    scale = law.model(at, centre), np.log(loss)
    without, off_edges = fit_without(kept, descend, box.starts, theta, draw, *scale)
    ran_off = _ran_off(drawn) if law.of_size_and_tokens else []
    for text in (*notes, *few, *few_clusters(clusters), *ran_off):
        warned.add(text)

    def natural(thetas: Array) -> Array:
        return np.where(np.isin(law.names, fixed), 0.0, law.natural(thetas, centre))

    return kind(
        form=law.formula,
        names=law.names,
        estimates=tuple(natural(theta[None])[0].tolist()),
        n_points=n,
        objective=float(minima.value[best]),
        interval=(
            likelihood_text(n - n_free) if by_likelihood else describe_draws(n_draws, clusters)
        ),
        status=warned.status,
        warnings=tuple(warned.texts),
        fixed=fixed,
        draws=natural(drawn.theta),
        form_name=law.name,
        residual=residual,
        delta=float(delta),
        rmse=float(np.sqrt(np.mean(off**2))),
        centre=centre,
        share_at_best=share,
        n_starts=len(box.starts),
        gradient=float(minima.gradient[best]),
        condition=condition,
        thetas=np.vstack([theta[None], drawn.theta]),
        edges=tuple(edges),
        without=without,
        missed=off_edges,
        misfit=misfit,
        runs=Runs(at=at, loss=loss, lower=box.lower, upper=box.upper) if by_likelihood else None,
        **(more or {}),
    )


def _identified(law: Law, at: Variables, kept: np.ndarray) -> bool:
    """Whether these runs alone identify what all do."""
    rest = at.only(kept)
    try:
        refuse(law, rest, law.not_fitted(rest))
    except FitError:
        return False
    return law.not_fitted(rest) == law.not_fitted(at)


def _to_its_end(descend: Callable[..., Minima], minima: Minima) -> Minima:
    """Same with the best one followed further.

    Where parameters trade off, there is a valley that not every start need go down to its end.
    """
    best = minima.best
    onward = descend(minima.theta[best][None], max_steps=_MAX_STEPS)
    columns = {}
    for name in ("theta", "value", "gradient", "converged", "at_bound"):
        column = getattr(minima, name).copy()
        column[best] = getattr(onward, name)[0]
        columns[name] = column
    return replace(minima, **columns)


def _ran_off(drawn: Minima) -> list[str]:
    """Warning about draws that stopped at a bound.

    Not for laws of experts: their bounds stand for infinity, and a draw without saturation is one.
    """
    share = float(drawn.at_bound.any(axis=1).mean()) if len(drawn.at_bound) else 0.0
    return [f"{share:.0%} of the bootstrap draws stopped at a bound"] if share > _RAN_OFF else []
