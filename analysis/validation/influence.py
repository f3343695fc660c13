"""Which runs a loss surface depends on, and the surface without them.

A few runs can carry a parameter while the fit converges and its status is fine: five of the 245
runs of Besiroglu 2024's table move beta by a fifth. Leaving out one run at a time does not find
them, because the others hold the fit in place.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.fitting.intervals import Array
from analysis.fitting.plain import plain
from analysis.fitting.results import Warned
from analysis.fitting.status import FitError
from analysis.fitting.text import in_columns, join_first
from analysis.laws.result import Residual
from analysis.numbers import count
from analysis.parametric import NAMES, ParametricFit, fit_parametric

SHARE = 0.02  # of the runs that are left out together
ENOUGH_RUNS = 40  # to leave some out
_LEVEL = 0.95  # that of the fit that is printed; influence_of says how rare false alarms are
_MOST = 0.2  # of the runs: more are no longer a few


@dataclass(frozen=True, kw_only=True)
class InfluentialRuns:
    """Runs whose absence moves one parameter the most, and the fit without them.

    rows: their places in the arrays that were given; before and after: the parameter with and
    without them; lower, upper: its interval at 95 % without them; outside: whether `before` is not
    in it.
    """

    parameter: str
    rows: tuple[int, ...]
    before: float
    after: float
    lower: float
    upper: float
    outside: bool
    without: ParametricFit

    @property
    def change(self) -> float:
        """after / before - 1."""
        return self.after / self.before - 1


@dataclass(frozen=True, kw_only=True, repr=False)
class Influence(Warned):
    """A fit, and for each parameter the n_out runs that it depends on most.

    runs: n_params, n_tokens, loss and residual (measured - fitted, of ln L or in nats) of each run,
    and by each parameter's name what leaving that run out adds to it, to first order and as a share
    of it.
    """

    fit: ParametricFit
    n_out: int
    sets: tuple[InfluentialRuns, ...]
    runs: pd.DataFrame = field(repr=False, compare=False)

    @property
    def rows(self) -> tuple[int, ...]:
        """Runs of the sets that a parameter depends on beyond its interval without them."""
        return tuple(sorted({row for found in self.sets if found.outside for row in found.rows}))

    @property
    def without(self) -> ParametricFit | None:
        """Fit without the set that moves a parameter furthest out of its interval, if any."""
        far = [found for found in self.sets if found.outside]
        return max(far, key=_distance).without if far else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line for each set of runs that moves parameters out of their intervals."""
        by_rows: dict[tuple[int, ...], list[InfluentialRuns]] = {}
        for found in self.sets:
            if found.outside:
                by_rows.setdefault(tuple(sorted(found.rows)), []).append(found)
        lines = (
            f"{len(rows)} of {self.fit.n_points} runs ({self._named(rows)}) move "
            + ", ".join(
                f"{found.parameter} from {found.after:.4g} to {found.before:.4g}" for found in many
            )
            + ": beyond the 95 % interval of the fit without them"
            for rows, many in by_rows.items()
        )
        return (*self.of_table, *lines)

    def _named(self, rows: tuple[int, ...]) -> str:
        at = self.runs.iloc[list(rows)]
        texts = [
            f"row {row}: {count(N)} parameters, {count(D)} tokens"
            for row, N, D in zip(rows, at["n_params"], at["n_tokens"], strict=True)
        ]
        return join_first(texts, 5, "; ")

    def to_frame(self) -> pd.DataFrame:
        """A row a parameter."""
        names = ["parameter", "before", "after", "change", "lower", "upper", "outside", "rows"]
        return pd.DataFrame([{n: getattr(found, n) for n in names} for found in self.sets])

    def summary(self) -> str:
        head = f"the {self.n_out} of {self.fit.n_points} runs that each parameter depends on most"
        frame = self.to_frame().assign(
            rows=[" ".join(map(str, sorted(found.rows)[:10])) for found in self.sets]
        )
        lines = [head, in_columns(frame), *(f"  warning: {line}" for line in self.warnings)]
        if self.without is not None:
            lines += ["without them:", self.without.summary()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Table, the rows and the fit without them at full precision."""
        found = {
            "n_out": self.n_out,
            "sets": self.to_frame().to_dict("records"),
            "rows": list(self.rows),
            "without": None if self.without is None else self.without.to_dict(),
            "status": str(self.status),
            "warnings": list(self.warnings),
        }
        return {name: plain(value) for name, value in found.items()}


def compute_influence(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    *,
    n_out: int | None = None,
    delta: float = 1e-3,
    residual: Residual = "log",
    n_draws: int = 500,
    seed: int = 0,
) -> Influence:
    """Runs that E, A, B, alpha and beta depend on most, each n_out (default: 2 %, at least 1).

    For each parameter the runs are ranked by what the absence of each one changes, to first order;
    those that change it most in one direction are left out together and the surface is fitted
    again, exactly; of the two directions the one that moves it more is kept. That is Broderick
    2020's most influential set (arXiv:2011.14999). A parameter whose value with all runs is outside
    the 95 % bootstrap interval of the fit without them is a warning: these runs, not the rest, are
    what it says. Of 60 tables of 60 runs, and 20 of 240, from a true surface with normal noise
    none has one. Arguments as in fit_parametric. Raises ValueError for an n_out that is not 1 to a
    fifth of the runs, FitError where too few would be left.
    """
    N, D, L = (np.asarray(v, dtype=np.float64).ravel() for v in (n_params, n_tokens, loss))
    how: dict[str, Any] = {"delta": delta, "residual": residual, "seed": seed}
    fit = fit_parametric(N, D, L, n_draws=n_draws, **how)
    n = len(L)
    k = max(1, round(SHARE * n)) if n_out is None else n_out
    if not 1 <= k <= max(1, _MOST * n):
        raise ValueError(f"n_out={k} must be 1 to {max(1, int(_MOST * n))} of {n} runs")
    if n - k <= len(NAMES):
        raise FitError(f"influence: {n} runs less {k} are too few for 5 parameters")
    changes, residuals = _first_order(fit, N, D, L)

    @cache  # several parameters may depend on the same runs
    def fitted(rows: tuple[int, ...], draws: int) -> ParametricFit:
        keep = np.ones(n, dtype=bool)
        keep[list(rows)] = False
        return fit_parametric(N[keep], D[keep], L[keep], n_draws=draws, **how)

    sets = []
    for j, name in enumerate(NAMES):
        order = np.argsort(changes[:, j], kind="stable")
        both = [tuple(sorted(part.tolist())) for part in (order[:k], order[-k:])]
        before = fit.params[name]
        rows = max(both, key=lambda r: abs(np.log(fitted(r, 0).params[name] / before)))
        without = fitted(rows, n_draws)
        low, high = without.bounds(name, _LEVEL)
        sets.append(
            InfluentialRuns(
                parameter=name,
                rows=rows,
                before=before,
                after=without.params[name],
                lower=low,
                upper=high,
                outside=bool(before < low or before > high),
                without=without,
            )
        )
    return Influence(
        fit=fit,
        n_out=k,
        sets=tuple(sets),
        runs=pd.DataFrame({"n_params": N, "n_tokens": D, "loss": L, "residual": residuals}).join(
            pd.DataFrame(changes / np.array(fit.estimates), columns=list(NAMES))
        ),
    )


def _distance(found: InfluentialRuns) -> float:
    """How far `before` is beyond the interval, in widths of its side."""
    side = found.upper - found.after if found.before > found.after else found.after - found.lower
    return abs(found.before - found.after) / side if side > 0 else float("inf")


def _first_order(fit: ParametricFit, N: Array, D: Array, L: Array) -> tuple[Array, Array]:
    """Change of each parameter by each run's absence, to first order; and the residuals.

    Huber's loss bends within delta only, where few runs are; its slope over its argument, as in
    iteratively reweighted least squares, is the steadier curvature.
    """
    E, A, B, alpha, beta = fit.estimates
    of_n, of_d = A * N**-alpha, B * D**-beta
    total = E + of_n + of_d
    columns = [
        np.ones_like(N), of_n / A, of_d / B, -of_n * np.log(N), -of_d * np.log(D),
    ]  # fmt: skip
    jacobian = np.stack(columns, axis=1)
    if fit.residual == "log":
        jacobian, off = jacobian / total[:, None], np.log(total / L)
    else:
        off = total - L
    size = np.maximum(np.abs(off), np.finfo(np.float64).tiny)
    weight = np.minimum(1.0, fit.delta / size)
    scale = np.linalg.norm(jacobian, axis=0)
    unit = jacobian / scale
    # pinv: with a parameter at its bound, or a fixed D/N, the matrix may be singular
    inverse = np.linalg.pinv(unit.T @ (unit * weight[:, None]))
    return (unit * (weight * off)[:, None]) @ inverse / scale, -off
