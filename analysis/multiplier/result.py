"""Results of compute multipliers: at stated computes and losses, and as curves, with bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis import numbers
from analysis.comparison import Comparison, Table
from analysis.fitting.checks import positive, times_beyond
from analysis.fitting.intervals import Array, Estimate, t_quantile
from analysis.fitting.plain import plain
from analysis.multiplier.profile import Profile, Slopes

_N_CURVE = 41
_N_STATED = 3  # computes that are shown of a sweep of many
_SLACK = 1e-9  # relative: a compute at the very end of the budgets is within them


@dataclass(frozen=True, kw_only=True)
class Multiplier:
    """How many times a model's compute the baseline needs for the same loss (above 1: the model is
    better).

    compute: the model's, in FLOPs; loss: in nats/token; lower, upper: the interval; least, most:
    of the asymptotes that are not excluded, each with its own best laws; extrapolated: the model's
    compute or the baseline's is beyond its own budgets. nan where a law does not reach the loss.
    """

    model: str
    compute: float
    loss: float
    value: float
    lower: float
    upper: float
    least: float
    most: float
    extrapolated: bool

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.value, self.lower, self.upper)


@dataclass(frozen=True, kw_only=True, repr=False)
class ComputeMultipliers(Comparison):
    """Multipliers of each model over the baseline, by laws L = E + A C^-alpha with one asymptote E.

    points: model -> (budgets, losses) that the laws are of. slopes: "own": an alpha for each model,
    so that a multiplier changes with compute; "one": one for all. estimated: whether E was fitted.
    p_equal: of the F test of one alpha against one for each, and with_one: the multipliers by one;
    nan and empty if slopes="one" or without a degree of freedom. stated: the multipliers of tables;
    by default each model's at its own budgets.
    """

    baseline: str
    models: tuple[str, ...]
    points: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    slopes: Slopes
    level: float
    estimated: bool
    p_equal: float
    with_one: Mapping[str, Estimate]
    dof: int
    skipped: Mapping[str, str]
    warnings: tuple[str, ...]
    profile: Profile = field(repr=False, compare=False)
    stated: tuple[Multiplier, ...] = field(default=(), repr=False)

    @property
    def asymptote(self) -> float:
        """E that fits best, in nats/token."""
        return float(self.profile.asymptotes[self.profile.best])

    @property
    def asymptotes(self) -> tuple[float, float]:
        """Lowest and highest E that an F test at `level` does not exclude."""
        kept = self.profile.asymptotes[self._kept]
        return float(kept.min()), float(kept.max())

    @property
    def alphas(self) -> dict[str, float]:
        """Exponent of each model, at that E."""
        p = self.profile
        return {name: float(p.theta[p.best, p.slope_index(name)]) for name in p.models}

    @property
    def noise(self) -> float:
        """Standard deviation of the points about the laws in nats/token; nan if unknown."""
        squares = float(self.profile.squares[self.profile.best])
        return float(np.sqrt(squares / self.dof)) if self.dof > 0 else float("nan")

    def at_compute(self, model: str, budget: float) -> Multiplier:
        """At the compute of the model, in FLOPs. The interval is Fieller's at each asymptote."""
        u = float(np.log(positive("budget", budget)))
        p = self._checked(model)
        x = np.stack([p.row(self.baseline, u) - p.row(model, u), np.zeros(p.theta.shape[1])])
        x[1, p.slope_index(self.baseline)] = 1
        top, slope = (p.theta @ x.T).T
        v = x @ p.unscaled @ x.T
        room = self._room
        with np.errstate(invalid="ignore", divide="ignore"):
            a = slope**2 - room * v[:, 1, 1]
            b = top * slope - room * v[:, 0, 1]
            half = np.sqrt(np.maximum(b**2 - a * (top**2 - room * v[:, 0, 0]), 0.0)) / a
            low, high = b / a - half, b / a + half
        unbounded = a <= 0
        low, high = np.where(unbounded, -np.inf, low), np.where(unbounded, np.inf, high)
        loss = p.asymptotes[p.best] + np.exp(p.theta[p.best] @ p.row(model, u))
        return self._made(model, u, float(loss), top / slope, low, high)

    def at_loss(self, model: str, loss: float) -> Multiplier:
        """At a loss in nats/token. The interval is by the delta method at each asymptote."""
        positive("loss", loss)
        p = self._checked(model)
        with np.errstate(invalid="ignore", divide="ignore"):
            target = np.log(loss - p.asymptotes)  # nan or -inf: no compute reaches it
        log_c, gradient = {}, np.zeros_like(p.theta)
        for name, sign in ((self.baseline, 1.0), (model, -1.0)):
            i, j = p.models.index(name), p.slope_index(name)
            away = (p.theta[:, i] - target) / p.theta[:, j]
            gradient[:, i] += sign / p.theta[:, j]
            gradient[:, j] -= sign * away / p.theta[:, j]
            log_c[name] = away
        value, own = log_c[self.baseline] - log_c[model], p.centre + log_c[model]
        spread = np.einsum("si,sij,sj->s", gradient, p.unscaled, gradient)
        half = np.sqrt(self._room * spread)
        found = np.isfinite(target)
        value = np.where(found, value, np.nan)
        low, high = np.where(found, value - half, -np.inf), np.where(found, value + half, np.inf)
        return self._made(model, float(own[p.best]), loss, value, low, high)

    @property
    def _room(self) -> Array:
        """(S,): how large d^2 / variance, unscaled, may be at each asymptote; nan: excluded."""
        p = self.profile
        if self.dof <= 0:
            return np.full(len(p.squares), np.nan)
        least = float(p.squares[p.best])
        room = t_quantile(self.dof, self.level) ** 2 * least / self.dof - (p.squares - least)
        room[p.best] = max(room[p.best], 0.0)
        return np.where(room >= 0, room, np.nan)

    @property
    def _kept(self) -> np.ndarray:
        """Which asymptotes are not excluded; all without a degree of freedom."""
        room = self._room
        return np.isfinite(room) if self.dof > 0 else np.ones(len(room), dtype=bool)

    def _made(
        self, model: str, log_c: float, loss: float, value: Array, low: Array, high: Array
    ) -> Multiplier:
        kept, best = self._kept, self.profile.best
        known = self.dof > 0
        with np.errstate(over="ignore"):
            lower, upper = (
                (float(np.exp(low[kept].min())), float(np.exp(high[kept].max())))
                if known
                else (float("nan"), float("nan"))
            )
            factor = float(np.exp(value[best]))
            span = np.exp(value[kept & np.isfinite(value)])
        extrapolated = not (
            self._within(model, log_c) and self._within(self.baseline, log_c + float(value[best]))
        )
        return Multiplier(
            model=model,
            compute=float(np.exp(log_c)),
            loss=loss,
            value=factor,
            lower=lower,
            upper=upper,
            least=float(span.min()) if len(span) else float("nan"),
            most=float(span.max()) if len(span) else float("nan"),
            extrapolated=extrapolated,
        )

    def _within(self, model: str, log_c: float) -> bool:
        budgets = self.points[model][0]
        low, high = np.log(min(budgets)), np.log(max(budgets))
        return bool(low - _SLACK <= log_c <= high + _SLACK)

    def _checked(self, model: str) -> Profile:
        if model not in self.models:
            raise ValueError(f"model={model!r} is not one of {', '.join(self.models)}")
        return self.profile

    def at(self, budgets: Sequence[float] = (), losses: Sequence[float] = ()) -> list[Multiplier]:
        """Each model's multipliers at stated computes and losses; by default at its own budgets.

        Raises ValueError for what is so far from the runs that no law is a guide.
        """
        if not len(budgets) and not len(losses):
            return [self.at_compute(m, c) for m in self.models for c in self.points[m][0]]
        found = [
            *((f"at={c:g}", self.at_compute(m, c)) for c in budgets for m in self.models),
            *((f"at_loss={loss:g}", self.at_loss(m, loss)) for loss in losses for m in self.models),
        ]
        for what, one in found:
            if np.isfinite(one.compute):  # nan: a loss that no compute reaches, which is shown
                own = self.points[one.model][0]
                times_beyond(f"{what}, {one.compute:.3g} FLOPs,", one.compute, min(own), max(own))
        return [one for _, one in found]

    def over_compute(self, model: str, n: int = _N_CURVE) -> list[Multiplier]:
        """Curve over the computes that both laws have runs for; empty if there are none."""
        own, other = (np.log(self.points[name][0]) for name in (model, self.baseline))
        ends = np.array([own.min(), own.max()])
        # The baseline's compute is a line in the model's, both as logarithms
        reached = [u + np.log(self.at_compute(model, np.exp(u)).value) for u in ends]
        low, high = np.interp([other.min(), other.max()], reached, ends)
        if not high > low:
            return []
        return [self.at_compute(model, float(c)) for c in np.exp(np.linspace(low, high, n))]

    def over_loss(self, model: str, n: int = _N_CURVE) -> list[Multiplier]:
        """Same over losses, highest first."""
        ends = self.over_compute(model, 2)
        if not ends:
            return []
        return [self.at_loss(model, v) for v in np.linspace(ends[0].loss, ends[1].loss, n).tolist()]

    def some_budgets(self) -> list[float]:
        """Budgets of the baseline; of many the lowest, a middle and the highest."""
        budgets = sorted(set(self.points[self.baseline][0]))
        return (
            budgets
            if len(budgets) <= _N_STATED
            else budgets[:: len(budgets) // 2][:2] + budgets[-1:]
        )

    def tables(self) -> list[Table]:
        """E that is taken, the multipliers, a row a model and place, and those by one slope."""
        low, high = self.asymptotes
        how = "fitted" if self.estimated else "given"
        span = f", {low:.3g} to {high:.3g}" if high > low else ""
        alphas = ", ".join(f"{name} {alpha:.4f}" for name, alpha in self.alphas.items())
        head = [
            f"compute that {self.baseline} needs for the same loss, in times the model's own",
            f"  L = E + A C^-alpha, E = {self.asymptote:.3g} nats/token ({how}{span})",
            f"  alpha: {alphas}",
            f"  {self.dof} degrees of freedom, {self.noise:.4f} nats about the laws, "
            f"{self.level:.0%} intervals; least and most are of those E",
        ]
        notes = []
        if self.with_one:
            one = ", ".join(
                f"{m} {numbers.with_interval(*found)}" for m, found in self.with_one.items()
            )
            notes.append(f"  with one alpha (p = {self.p_equal:.3f}): {one}")
        notes += [f"  not compared: {model}: {why}" for model, why in self.skipped.items()]
        columns = "model, compute, loss, multiplier=estimate, least, most, extrapolated"
        rows = self.stated or self.at()
        return [Table(rows=rows, columns=columns, digits=4, head=head, notes=notes)]

    def to_dict(self) -> dict[str, Any]:
        """All at full precision, with the multipliers at the budgets and the curves."""
        return {
            **super().to_dict(),
            "asymptote": self.asymptote,
            "asymptotes": list(self.asymptotes),
            "alphas": self.alphas,
            "noise": plain(self.noise),
            "at": [plain(one) for one in self.stated or self.at()],
            "over_compute": {m: [plain(v) for v in self.over_compute(m)] for m in self.models},
            "over_loss": {m: [plain(v) for v in self.over_loss(m)] for m in self.models},
        }
