"""Laws of the loss against the number of experts, fitted to a table of runs."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis.experts.forms import FORMS, Form, Problem, Runs
from analysis.experts.runs import BACKBONE, ExpertRuns, backbone_params, choose_runs
from analysis.fitting.checks import check_level, positive
from analysis.fitting.intervals import Array, Prediction, t_quantile
from analysis.fitting.least_squares import Minima, condition_number, minimise
from analysis.fitting.results import DrawsFit
from analysis.fitting.status import FitError, FitStatus, Warnings

__all__ = [
    "BACKBONE",
    "ExpertLawFit",
    "FormName",
    "akaike",
    "backbone_params",
    "fit_expert_law",
    "fit_runs",
    "size_slopes",
]

FormName = Literal["loglinear", "power_floor", "clark", "clark_floor", "granularity"]
_SAME = 1e-6
_FEW_STARTS = 0.2  # share that reached the best value, as for the parametric surface
# Condition number: 24 to 55 on Clark's runs (105 with two sizes only), 110 at most on clean grids
# of sizes and experts and 230 of granularity; 360 to 40,000 where the experts are 8 at most, 64 at
# least, or 4 to 7, where Clark's saturation is not identifiable
_COLLINEAR = 1e3
_COUNTED = {
    "N": "sizes",
    "E": "numbers of experts",
    "D": "token counts (or one)",
    "G": "granularities",
}

_START = "E_start ran to its bound: it is not identifiable from these runs"
_AT_BOUND = {  # (name, at its upper bound) -> what that says
    ("E_start", False): _START,
    ("E_start", True): _START,
    ("E_max", False): "E_max stopped at its lower bound: saturated at once, so it is not "
    "identifiable from these runs",
    ("E_max", True): "E_max ran to its bound: no saturation is seen in these runs",
    ("L0", False): "L0 stopped at 0: an irreducible loss is not identifiable from these runs",
    (
        "L0",
        True,
    ): "L0 stopped at the lowest loss: an irreducible loss is not identifiable from these runs",
}


@dataclass(frozen=True, kw_only=True, repr=False)
class ExpertLawFit(DrawsFit):
    """A law of the loss in size N and experts E; `form_name` is its key in FORMS.

    objective: half the residual sum of squares of ln L; rmse: of ln L; aicc: corrected Akaike
    criterion of these residuals, comparable between forms on the same runs; sizes, experts: those
    of the runs; size_name: the column that N is; baseline: the model counted as one expert;
    condition: of the Jacobian with columns of length one, over the parameters free to move.
    """

    form_name: str
    model: str
    baseline: str | None
    size_name: str
    sizes: tuple[float, ...]
    experts: tuple[float, ...]
    rmse: float
    aicc: float
    share_at_best: float
    n_starts: int
    condition: float

    def predict(
        self,
        size: ArrayLike,
        n_experts: ArrayLike | None = None,
        n_tokens: ArrayLike | None = None,
        granularity: ArrayLike | None = None,
        *,
        level: float = 0.95,
    ) -> Prediction:
        """The loss in nats/token.

        n_tokens and granularity: for form="granularity" only, which has no n_experts. Raises
        ValueError if what the form needs is not given, or is not above 0.
        """
        arrays = self._arguments(size, n_experts, n_tokens, granularity)
        return self._over_draws(lambda p: np.exp(self.log_loss(p, *arrays)), level)

    def loss(
        self,
        size: ArrayLike,
        n_experts: ArrayLike | None = None,
        n_tokens: ArrayLike | None = None,
        granularity: ArrayLike | None = None,
    ) -> Array:
        """The loss in nats/token, without the interval that predict needs all draws for."""
        arrays = self._arguments(size, n_experts, n_tokens, granularity)
        return np.exp(self.log_loss(np.array(self.estimates), *arrays))

    def slope(self, size: ArrayLike, n_experts: ArrayLike, level: float = 0.95) -> Prediction:
        """-d ln L / d ln E there: the gain of more experts, by central differences.

        Raises ValueError for the granularity law, which has no E.
        """
        N, E = self._size_and_experts(size, n_experts)

        def of(p: Array) -> Array:
            h = 1e-4
            up, down = (self.log_loss(p, N, E * np.exp(s)) for s in (h, -h))
            return -(up - down) / (2 * h)

        return self._over_draws(of, level)

    def effective_size(
        self, size: ArrayLike, n_experts: ArrayLike, level: float = 0.95
    ) -> Prediction:
        """The size N at E = 1 with the same loss: Clark's effective parameter count.

        nan where no size between 1 and 1e18 has it.
        """
        N, E = self._size_and_experts(size, n_experts)
        if "a" in self.fixed:
            raise ValueError("one size only: the effect of size is not identifiable")

        def of(p: Array) -> Array:
            goal = self.log_loss(p, N, E)
            low, high = np.zeros_like(goal), np.full_like(goal, 18 * np.log(10))
            ones = np.ones_like(E)

            def gap(u: Array) -> Array:
                return self.log_loss(p, np.exp(u), ones) - goal

            found = (gap(low) >= 0) & (gap(high) <= 0)
            for _ in range(80):
                middle = (low + high) / 2
                above = gap(middle) > 0  # still a worse loss: a larger model is needed
                low, high = np.where(above, middle, low), np.where(above, high, middle)
            return np.where(found, np.exp((low + high) / 2), np.nan)

        return self._over_draws(of, level)

    def cutoff_interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """N_cutoff, the size at which more experts cease to help, as an interval only.

        10^(-b/c) of Clark's forms (eq. 8): a quotient of two correlated numbers, so barely
        identified that a point would mislead. Infinite where c is not above 0; None for forms
        that have no such size, or without draws.
        """
        check_level(level)
        if self.form_name not in ("loglinear", "clark") or self.fixed or not len(self.draws):
            return None
        b, c = self.draws[:, 1], self.draws[:, 2]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            cutoff = np.where(c > 0, 10.0 ** np.minimum(-b / c, 300), np.inf)
        low, high = np.quantile(cutoff, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        return float(low), float(high)

    def log_loss(
        self, params: Array, N: Array, E: Array, D: Array | None = None, G: Array | None = None
    ) -> Array:
        """ln L by any parameters of this form (in the order of `names`), e.g. a draw."""
        return FORMS[self.form_name].log_loss(params, N, E, D, G)

    def _over_draws(self, of: Callable[[Array], Array], level: float) -> Prediction:
        """A function of the parameters and its interval; draws where it is nan are left out."""
        check_level(level)
        value = of(np.array(self.estimates))
        if not len(self.draws):
            nothing = np.full(np.shape(value), np.nan)
            return Prediction(value, nothing, nothing, level)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice")  # nan then, as it should be
            drawn = np.stack([of(p) for p in self.draws])
            low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return Prediction(value, low, high, level)

    def _arguments(
        self,
        size: ArrayLike,
        n_experts: ArrayLike | None,
        n_tokens: ArrayLike | None,
        granularity: ArrayLike | None,
    ) -> list[Array]:
        """N, E, D and G of one shape; 1 for what is not given."""
        given = {"n_experts": n_experts, "n_tokens": n_tokens, "granularity": granularity}
        absent = [name for name in FORMS[self.form_name].needs if given[name] is None]
        if absent:
            raise ValueError(f"the law {self.form_name} is in {' and '.join(absent)} too: give it")
        columns = [positive(n, 1.0 if v is None else v) for n, v in {"size": size, **given}.items()]
        return list(np.broadcast_arrays(*columns))

    def _size_and_experts(self, size: ArrayLike, n_experts: ArrayLike) -> list[Array]:
        if self.form_name == "granularity":
            raise ValueError("the granularity law has no number of experts, only G, N and D")
        return self._arguments(size, n_experts, None, None)[:2]


def fit_expert_law(
    table: pd.DataFrame,
    form: FormName = "power_floor",
    *,
    model: str | None = None,
    baseline: str | None = None,
    size: str = BACKBONE,
    n_draws: int = 500,
    seed: int = 0,
) -> ExpertLawFit:
    """Fits a law of ln L to one model's finished runs, the best of each (size, experts, budget).

    model: which of the table's; needed if it has several. baseline: a model whose runs count as
    E = 1, e.g. dense in Clark's laws; none for PEER, whose one expert is not the dense layer.
    size: the column that is N, that of the model without its experts; by default what
    backbone_params finds. Only the granularity law may be in n_params, which counts the experts, as
    Krajewski's N does. n_draws: of the case bootstrap. Seeds count as runs. What one size or one
    token count does not identify is fixed; see the warnings. Raises ValueError for a
    table that mixes what the law does not distinguish, FitError for too few runs, or too few
    distinct sizes, numbers of experts, token counts or granularities.
    """
    runs = choose_runs(table, [form], model=model, baseline=baseline, size=size)
    return fit_runs(runs, form, n_draws=n_draws, seed=seed)


def fit_runs(chosen: ExpertRuns, form: FormName, *, n_draws: int, seed: int) -> ExpertLawFit:
    """fit_expert_law on runs that were chosen, so that several forms have the same."""
    spec, runs = FORMS[form], chosen.given(form)
    problem = spec.pose(runs)
    n, n_free = len(runs.loss), len(spec.names) - len(problem.fixed)
    _refuse_few(chosen.model, spec, problem, runs)
    descend = partial(
        minimise, problem.model, np.log(runs.loss), lower=problem.lower, upper=problem.upper
    )
    minima = descend(problem.starts)
    best = minima.best
    theta, squares = minima.theta[best], 2 * float(minima.value[best])
    share = float((minima.value <= minima.value[best] * (1 + _SAME) + 1e-25).mean())
    condition = _condition(problem, minima)
    warned = _warnings(spec, problem, minima, share, condition)
    if chosen.note and "n_tokens" not in spec.needs:
        warned.add(chosen.note)
    if n < 2 * n_free:
        warned.add(f"{n} runs for {n_free} parameters: the intervals say little")
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_draws)
    drawn = descend(np.repeat(theta[None], n_draws, axis=0), weights=counts.astype(np.float64))
    return ExpertLawFit(
        form=spec.formula,
        names=spec.names,
        estimates=tuple(problem.natural(theta[None])[0].tolist()),
        n_points=n,
        objective=float(minima.value[best]),
        interval=f"percentiles of {n_draws} case draws",
        status=warned.status,
        warnings=tuple(warned.texts),
        draws=problem.natural(drawn.theta),
        form_name=form,
        model=chosen.model,
        baseline=chosen.baseline,
        size_name=chosen.size_name,
        sizes=tuple(np.unique(runs.N).tolist()),
        experts=tuple(np.unique(runs.E).tolist()),
        fixed=problem.fixed,
        rmse=float(np.sqrt(squares / n)),
        aicc=akaike(squares, n, n_free),
        share_at_best=share,
        n_starts=len(problem.starts),
        condition=condition,
    )


def akaike(squares: float, n: int, n_params: int) -> float:
    """AICc of a least-squares fit, the variance counted as a parameter; inf if n is too small."""
    k = n_params + 1
    if n <= k + 1:
        return float("inf")
    return float(n * np.log(max(squares, 1e-300) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def size_slopes(
    table: pd.DataFrame,
    *,
    model: str | None = None,
    baseline: str | None = None,
    size: str = BACKBONE,
    level: float = 0.95,
) -> pd.DataFrame:
    """-d ln L / d ln E at each size and budget by a straight line, with Student's t interval.

    No law is assumed. Columns: size, budget (FLOPs, NA if unknown), slope, lower, upper, n_experts
    (distinct numbers), n_runs, rmse of ln L. Runs of one size and one n_tokens are of one budget,
    their mean: the routers of more experts cost more. Where there is one number of experts there is
    no row.
    """
    check_level(level)
    runs = choose_runs(table, ["loglinear"], model=model, baseline=baseline, size=size)
    sizes = runs.cells.groupby(size)
    one = sizes["n_tokens"].transform("nunique") == 1
    budget = runs.cells["budget"].where(~one, sizes["budget"].transform("mean"))
    rows = []
    for (N, C), own in runs.cells.groupby([runs.cells[size], budget], dropna=False):
        x, y = np.log(own["n_experts"].to_numpy(np.float64)), np.log(own["loss"].to_numpy())
        numbers = len(np.unique(x))
        if numbers < 2:
            continue
        line = stats.linregress(x, y)
        half = t_quantile(len(x) - 2, level) * line.stderr
        rmse = np.sqrt(np.mean((y - line.intercept - line.slope * x) ** 2))
        bounds = -line.slope, -line.slope - half, -line.slope + half
        rows.append((N, C, *bounds, numbers, len(x), rmse))
    names = ["size", "budget", "slope", "lower", "upper", "n_experts", "n_runs", "rmse"]
    return pd.DataFrame(rows, columns=names)


def _refuse_few(model: str, spec: Form, problem: Problem, runs: Runs) -> None:
    n, n_free = len(runs.loss), len(spec.names) - len(problem.fixed)
    if n <= n_free:
        raise FitError(f"{model}: {n} runs for the {n_free} parameters of {spec.name}")
    least = dict(spec.distinct)
    if "a" in problem.fixed:  # one size: the experts alone identify all of them
        least["E"] = n_free
    if "b" in problem.fixed:  # one token count: its term is part of c
        least["D"] = 1
    numbers = {letter: len(np.unique(getattr(runs, letter))) for letter in least}
    few = [
        f"{k} {_COUNTED[letter]}, not {numbers[letter]}"
        for letter, k in least.items()
        if numbers[letter] < k
    ]
    if few:
        raise FitError(f"{model}: {spec.name} needs {' and '.join(few)}")


def _bounds_hit(problem: Problem, minima: Minima) -> np.ndarray:
    """Which parameters stopped at the edge of the box, without those that are fixed.

    Where a parameter is not identifiable its gradient is rounding: the edge itself is looked at
    too.
    """
    theta = minima.theta[minima.best]
    edge = (theta <= problem.lower + 1e-9) | (theta >= problem.upper - 1e-9)
    return (edge | minima.at_bound[minima.best]) & (problem.lower < problem.upper)


def _condition(problem: Problem, minima: Minima) -> float:
    free = (problem.lower < problem.upper) & ~_bounds_hit(problem, minima)

    def of_free(theta: Array) -> tuple[Array, Array]:
        value, jacobian = problem.model(theta)
        return value, jacobian[:, :, free]

    return condition_number(of_free, minima.theta[minima.best])


def _warnings(
    spec: Form, problem: Problem, minima: Minima, share: float, condition: float
) -> Warnings:
    """Warnings that follow from the optimum itself."""
    warned, best = Warnings(), minima.best
    at_top = minima.theta[best] > (problem.lower + problem.upper) / 2
    for name, top, hit in zip(spec.names, at_top, _bounds_hit(problem, minima), strict=True):
        if hit:
            text = _AT_BOUND.get((name, bool(top)), f"{name} is at its bound")
            warned.add(text, FitStatus.BOUND_HIT)
    if not minima.converged[best]:
        text = f"the descent did not converge: gradient {minima.gradient[best]:.1e}"
        warned.add(text, FitStatus.MAX_ITER)
    if condition > _COLLINEAR:
        warned.add(
            f"the parameters are hardly identifiable from these runs (condition number "
            f"{condition:.3g}): other values fit as well; see the intervals"
        )
    if share < _FEW_STARTS:
        warned.add(f"only {share:.0%} of {len(minima.value)} starts reached the best value")
    return warned
