"""Laws of the loss against the number of experts, fitted to a table of runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis.expert_forms import FORMS, Problem, Runs
from analysis.least_squares import Minima, minimise
from analysis.results import (
    Array,
    Doubts,
    DrawsFit,
    FitError,
    FitStatus,
    Prediction,
    check_level,
)
from analysis.table import best_of_cells, finished, require

FormName = Literal["loglinear", "power_floor", "clark", "clark_floor", "granularity"]
_SAME = 1e-6
BACKBONE = "backbone_params"
_VARIANTS = ("n_heads", "top_k", "query_norm")  # other than the number of experts


@dataclass(frozen=True, kw_only=True)
class ExpertLawFit(DrawsFit):
    """A law of the loss in size N and experts E; `form_name` is its key in FORMS.

    objective: half the residual sum of squares of ln L; rmse: of ln L; aicc: corrected Akaike
    criterion of these residuals, comparable between forms on the same runs; sizes, experts: those
    of the runs; size_name: the column that N is; baseline: the model counted as one expert.
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

    def predict(
        self,
        size: ArrayLike,
        n_experts: ArrayLike,
        n_tokens: ArrayLike | None = None,
        granularity: ArrayLike | None = None,
        *,
        level: float = 0.95,
    ) -> Prediction:
        """The loss in nats/token. n_tokens and granularity: for form="granularity" only."""
        arrays = _aligned(size, n_experts, n_tokens, granularity)
        value = np.exp(self.log_loss(np.array(self.estimates), *arrays))
        return Prediction(
            value,
            *self._over_draws(lambda p: np.exp(self.log_loss(p, *arrays)), np.shape(value), level),
            level,
        )

    def slope(self, size: ArrayLike, n_experts: ArrayLike, level: float = 0.95) -> Prediction:
        """-d ln L / d ln E there: the gain of more experts, by central differences.

        Raises ValueError for the granularity law, which has no E.
        """
        self._needs_experts()
        N, E, *_ = _aligned(size, n_experts, None, None)

        def of(p: Array) -> Array:
            h = 1e-4
            up, down = (self.log_loss(p, N, E * np.exp(s), None, None) for s in (h, -h))
            return -(up - down) / (2 * h)

        value = of(np.array(self.estimates))
        return Prediction(value, *self._over_draws(of, np.shape(value), level), level)

    def effective_size(
        self, size: ArrayLike, n_experts: ArrayLike, level: float = 0.95
    ) -> Prediction:
        """The size N at E = 1 with the same loss: Clark's effective parameter count.

        nan where no size between 1 and 1e18 has it.
        """
        self._needs_experts()
        N, E, *_ = _aligned(size, n_experts, None, None)

        def of(p: Array) -> Array:
            goal = self.log_loss(p, N, E, None, None)
            low, high = np.zeros_like(goal), np.full_like(goal, 18 * np.log(10))
            ones = np.ones_like(E)

            def gap(u: Array) -> Array:
                return self.log_loss(p, np.exp(u), ones, None, None) - goal

            found = (gap(low) >= 0) & (gap(high) <= 0)
            for _ in range(80):
                middle = (low + high) / 2
                above = gap(middle) > 0  # still a worse loss: a larger model is needed
                low, high = np.where(above, middle, low), np.where(above, high, middle)
            return np.where(found, np.exp((low + high) / 2), np.nan)

        if "a" in self.fixed:
            raise ValueError("one size only: what another size would do can't be told")
        value = of(np.array(self.estimates))
        return Prediction(value, *self._over_draws(of, np.shape(value), level), level)

    def cutoff_interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """N_cutoff, the size at which more experts cease to help, as an interval only.

        10^(-b/c) of Clark's forms (eq. 8): a quotient of two correlated numbers, so barely
        identified that a point would mislead. Infinite where c is not above 0; None for forms
        that have no such size, or without draws.
        """
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

    def _over_draws(
        self, of: Callable[[Array], Array], shape: tuple[int, ...], level: float
    ) -> tuple[Array, Array]:
        """The interval of a function of the parameters; draws where it is nan are left out."""
        check_level(level)
        if not len(self.draws):
            nothing = np.full(shape, np.nan)
            return nothing, nothing
        with np.errstate(all="ignore"):
            drawn = np.stack([of(p) for p in self.draws])
            low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def _needs_experts(self) -> None:
        if self.form_name == "granularity":
            raise ValueError("the granularity law has no number of experts, only G, N and D")


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
    backbone_params finds. n_draws: of the case bootstrap. Seeds count as runs. What one size or too
    few numbers of experts can't tell is fixed or flagged. Raises ValueError for a table that mixes
    what the law can't tell apart, FitError for too few runs.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r} is not one of {', '.join(FORMS)}")
    chosen, label = _choose(table, model, baseline, form)
    runs, doubts, note = _runs(chosen, form, size)
    spec = FORMS[form]
    if form != "granularity" and len(np.unique(runs.E)) < 2:
        raise FitError(f"{label}: one number of experts; a trend needs two or more")
    problem = spec.pose(runs)
    n_free = len(spec.names) - len(problem.fixed)
    if len(runs.loss) <= n_free:
        raise FitError(f"{label}: {len(runs.loss)} runs for the {n_free} parameters of {form}")
    if note:
        doubts.add(note)
    target = np.log(runs.loss)
    minima = minimise(
        problem.model, target, problem.starts, lower=problem.lower, upper=problem.upper
    )
    best = minima.best
    theta = minima.theta[best]
    share = float((minima.value <= minima.value[best] * (1 + _SAME) + 1e-25).mean())
    _doubt(doubts, spec.names, problem, minima, theta)
    if len(runs.loss) < 2 * n_free:
        doubts.add(f"{len(runs.loss)} runs for {n_free} parameters: the intervals say little")
    rng = np.random.default_rng(seed)
    n = len(runs.loss)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=n_draws).astype(np.float64)
    drawn = minimise(
        problem.model,
        target,
        np.repeat(theta[None], n_draws, axis=0),
        lower=problem.lower,
        upper=problem.upper,
        weights=counts,
    )
    squares = 2 * float(minima.value[best])
    return ExpertLawFit(
        form=spec.formula,
        names=spec.names,
        estimates=tuple(problem.natural(theta[None])[0].tolist()),
        n_points=n,
        objective=float(minima.value[best]),
        interval=f"percentiles of {n_draws} case draws",
        status=doubts.status,
        warnings=tuple(doubts.warnings),
        draws=problem.natural(drawn.theta),
        form_name=form,
        model=label,
        baseline=baseline,
        size_name=size,
        sizes=tuple(np.unique(runs.N).tolist()),
        experts=tuple(np.unique(runs.E).tolist()),
        fixed=problem.fixed,
        rmse=float(np.sqrt(squares / n)),
        aicc=akaike(squares, n, n_free),
        share_at_best=share,
        n_starts=len(problem.starts),
    )


def akaike(squares: float, n: int, n_params: int) -> float:
    """AICc of a least-squares fit, the variance counted as a parameter; inf if n is too small."""
    k = n_params + 1
    if n <= k + 1:
        return float("inf")
    return float(n * np.log(max(squares, 1e-300) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def backbone_params(table: pd.DataFrame) -> pd.Series:
    """Parameters of each run's model without its experts, as far as the table tells.

    n_active_params of the run with the fewest experts of the same n_layers and d_model: PEER's
    active parameters grow with its experts, by the keys that find them. Plain n_active_params where
    the shape is not known.
    """
    if not {"n_layers", "d_model", "n_experts"} <= set(table):
        return table["n_active_params"]
    shape = table.groupby(["model", "n_layers", "d_model"], dropna=False)["n_active_params"]
    known = table["n_layers"].notna() & table["d_model"].notna()
    return table["n_active_params"].where(~known, shape.transform("min"))


def size_slopes(
    table: pd.DataFrame,
    *,
    model: str | None = None,
    baseline: str | None = None,
    size: str = BACKBONE,
    level: float = 0.95,
) -> pd.DataFrame:
    """-d ln L / d ln E of each size by a straight line, with Student's t interval; no law assumed.

    Columns: size, slope, lower, upper, n_experts (how many numbers), rmse of ln L. Sizes with one
    number of experts are left out.
    """
    chosen, _ = _choose(table, model, baseline, "loglinear")
    runs, *_ = _runs(chosen, "loglinear", size)
    rows = []
    for N in np.unique(runs.N):
        at = runs.N == N
        x, y = np.log(runs.E[at]), np.log(runs.loss[at])
        if len(np.unique(x)) < 2:
            continue
        line = stats.linregress(x, y)
        dof = len(x) - 2
        half = stats.t.ppf((1 + level) / 2, dof) * line.stderr if dof > 0 else np.nan
        rmse = np.sqrt(np.mean((y - line.intercept - line.slope * x) ** 2))
        rows.append((N, -line.slope, -line.slope - half, -line.slope + half, len(x), rmse))
    return pd.DataFrame(rows, columns=["size", "slope", "lower", "upper", "n_experts", "rmse"])


def _choose(
    table: pd.DataFrame, model: str | None, baseline: str | None, form: str
) -> tuple[pd.DataFrame, str]:
    done = finished(table)
    for name in (model, baseline):
        if name is not None and name not in set(done["model"]):
            have = ", ".join(sorted(done["model"].unique()))
            raise ValueError(f"no finished run of model={name!r}; the table has {have}")
    with_experts = sorted(done.loc[done["n_experts"].notna(), "model"].unique())
    with_experts = [name for name in with_experts if name != baseline]
    if model is None:
        if len(with_experts) != 1:
            have = ", ".join(with_experts) or "none"
            raise ValueError(f"models with experts: {have}; choose one with model=")
        model = with_experts[0]
    runs = done[done["model"] == model]
    if form != "granularity":
        mixed = [name for name in _VARIANTS if name in runs and runs[name].nunique() > 1]
        if mixed:
            values = {name: sorted(runs[name].dropna().unique().tolist()) for name in mixed}
            raise ValueError(
                f"{model} has runs of several {' and '.join(mixed)} ({values}): a law in experts "
                "alone can't tell them apart; keep one of each first"
            )
    if baseline is not None:
        dense = done[done["model"] == baseline].assign(n_experts=1)
        runs = pd.concat([runs, dense], ignore_index=True)
    return runs, model


def _runs(chosen: pd.DataFrame, form: str, size: str) -> tuple[Runs, Doubts, str]:
    spec = FORMS[form]
    what = f"form={form}"
    chosen = chosen.assign(**{BACKBONE: backbone_params(chosen)})
    if "granularity" in spec.needs and "granularity" not in chosen:
        require(chosen, ["n_heads", "top_k"], what)
        # He 2024, §2: with experts of one neuron, G is the number of active ones.
        chosen["granularity"] = chosen["n_heads"] * chosen["top_k"]
    needed = [size, *(["n_experts"] if form != "granularity" else []), *spec.needs]
    require(chosen, needed, what)
    keys = [*needed, *(name for name in ("budget", "seed") if chosen[name].notna().any())]
    cells = best_of_cells(chosen, by=list(dict.fromkeys(keys)))
    note = ""
    n_budgets = cells["budget"].nunique()
    if n_budgets > 1 and form != "granularity":
        note = f"runs of {n_budgets} budgets: this law has no term for tokens; fit each apart"

    def column(name: str) -> Array:
        return cells[name].to_numpy(dtype=np.float64)

    granular = form == "granularity"
    experts = column("n_experts") if not granular else np.ones(len(cells))
    runs = Runs(
        N=column(size),
        E=experts,
        loss=column("loss"),
        D=column("n_tokens") if granular else None,
        G=column("granularity") if granular else None,
    )
    return runs, Doubts(), note


def _doubt(
    doubts: Doubts, names: Sequence[str], problem: Problem, minima: Minima, theta: Array
) -> None:
    best = minima.best
    reasons = {
        "E_max": "E_max ran to its bound: no saturation is seen in these runs",
        "E_start": "E_start ran to its bound: these runs don't tell how few experts count",
        "L0": "L0 stopped at the lowest loss: these runs can't tell an irreducible loss"
        if theta[0] >= problem.upper[0]
        else "L0 stopped at 0: these runs can't tell an irreducible loss",
    }
    for name, hit in zip(names, minima.at_bound[best], strict=True):
        if hit and name not in problem.fixed:
            doubts.add(reasons.get(name, f"{name} is at its bound"), FitStatus.BOUND_HIT)
    if not minima.converged[best]:
        text = f"the descent did not converge: gradient {minima.gradient[best]:.1e}"
        doubts.add(text, FitStatus.MAX_ITER)


def _aligned(*columns: ArrayLike | None) -> list[Array]:
    given = [np.asarray(c, dtype=np.float64) for c in columns if c is not None]
    wide = iter(np.broadcast_arrays(*given))
    return [None if c is None else next(wide) for c in columns]  # type: ignore[misc]
