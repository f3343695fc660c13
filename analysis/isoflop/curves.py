"""What an isoFLOP fit returns: a curve for each model and budget, and each model's laws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.interpolate import Akima1DInterpolator

from analysis.fitting.results import Array, FitError, FitStatus, listed, plain, worst
from analysis.isoflop.laws import ModelLaws
from analysis.isoflop.minima import Flag, Method


@dataclass(frozen=True, kw_only=True)
class IsoFLOPCurve:
    """The losses of one model at one budget against size, and their minimum.

    sizes, losses: the best run of each size used, in order of size; x_opt, loss_opt: the minimum
    (nan where the parabola opens downwards) and their 95 % intervals, unbounded where the data
    allow any; inside: whether it lies within the sizes, not at their end;
    at_optimum: the other sizes there, by interpolation along the curve; a, slope,
    level, centre: loss = a (u - centre)^2 + slope (u - centre) + level, u = ln(size), by least
    squares also where method="akima"; rmse: of that parabola; noise: the standard deviation
    of a loss that the intervals assume; both in nats/token.
    """

    model: str
    budget: float
    x_name: str
    method: Method
    n_points: int
    sizes: tuple[float, ...]
    losses: tuple[float, ...]
    x_opt: float
    x_interval: tuple[float, float]
    loss_opt: float
    loss_interval: tuple[float, float]
    inside: bool
    at_optimum: Mapping[str, float]
    centre: float
    a: float
    slope: float
    level: float
    rmse: float
    noise: float
    flags: tuple[Flag, ...]
    status: FitStatus
    warnings: tuple[str, ...]

    @property
    def params(self) -> dict[str, float]:
        """x_opt and loss_opt."""
        return {"x_opt": self.x_opt, "loss_opt": self.loss_opt}

    def conf_int(self) -> pd.DataFrame:
        """The 95 % intervals of x_opt and loss_opt."""
        rows = [self.x_interval, self.loss_interval]
        return pd.DataFrame(rows, index=["x_opt", "loss_opt"], columns=["lower", "upper"])

    @property
    def x_min(self) -> float:
        return self.sizes[0]

    @property
    def x_max(self) -> float:
        return self.sizes[-1]

    @property
    def why_left_out(self) -> str:
        """The reason that keeps the minimum out of the laws, if one does."""
        order = (Flag.WRONG_CURVATURE, Flag.OUTSIDE, Flag.EDGE)
        found = [text for flag in order for f, text in self.doubts if f is flag]
        return "" if self.inside else next(iter(found), "the minimum lies at an end of the sizes")

    @property
    def doubts(self) -> tuple[tuple[Flag, str], ...]:
        """The flags with their reasons."""
        return tuple(zip(self.flags, self.warnings, strict=True))

    def predict(self, x: ArrayLike) -> Array:
        """The curve's loss in nats/token at sizes x; Akima's is nan outside the range."""
        u = np.log(np.asarray(x, dtype=np.float64))
        if self.method == "akima":
            return np.exp(Akima1DInterpolator(np.log(self.sizes), np.log(self.losses))(u))
        v = u - self.centre
        return self.a * v**2 + self.slope * v + self.level

    def to_dict(self) -> dict[str, Any]:
        """All fields at full precision, with the range and the perplexity of the minimum."""
        return {**plain(self), "perplexity_opt": plain(float(np.exp(self.loss_opt)))}


class NoCurveError(FitError):
    """No budget of any model has sizes enough; skipped: why not, each with its model first."""

    def __init__(self, skipped: Sequence[str]) -> None:
        super().__init__(f"no curve to fit: {listed(skipped, separator='; ')}")
        self.skipped = tuple(skipped)

    def only(self, model: str) -> "NoCurveError":
        """The reasons of one model."""
        return NoCurveError(_of_model(model, self.skipped))


@dataclass(frozen=True, kw_only=True)
class IsoFLOPFit:
    """A curve for each model and budget that had enough sizes, and each model's laws of compute.

    skipped: which curves could not be fitted, and why, each with its model first; notes: of the
    table; unfitted: model -> why it has no laws.
    """

    x_name: str
    method: Method
    n_nearest: int | None
    curves: tuple[IsoFLOPCurve, ...]
    laws: tuple[ModelLaws, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    unfitted: Mapping[str, str]

    @property
    def status(self) -> FitStatus:
        """The worst of the curves' and laws'; DOUBTFUL at least if a curve was skipped."""
        found = [c.status for c in self.curves] + [law.status for law in self.laws]
        return worst([*found, FitStatus.DOUBTFUL] if self.skipped else found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything that speaks against a curve or law, with its name."""
        curves = [f"{c.model} at C={c.budget:.3g}: {w}" for c in self.curves for w in c.warnings]
        laws = [f"{law.model}: {w}" for law in self.laws for w in law.warnings]
        return (*curves, *laws, *(f"skipped {text}" for text in self.skipped))

    def only(self, model: str) -> Self:
        """The curves and laws of one model; none if it has none."""
        return replace(
            self,
            curves=tuple(curve for curve in self.curves if curve.model == model),
            laws=tuple(law for law in self.laws if law.model == model),
            skipped=tuple(_of_model(model, self.skipped)),
            unfitted={name: why for name, why in self.unfitted.items() if name == model},
        )

    @property
    def why_no_laws(self) -> str:
        """The reasons why models have no power laws; empty if all have."""
        if self.curves:
            return "; ".join(f"no power laws: {why}" for why in self.unfitted.values())
        return str(NoCurveError(self.skipped))

    def frontier(self, model: str) -> tuple[Array, Array]:
        """Budgets and lowest losses of a model's curves with a minimum inside their sizes.

        Raises ValueError if there is none.
        """
        own = [c for c in self.curves if c.model == model and c.inside]
        if not own:
            have = ", ".join(dict.fromkeys(c.model for c in self.curves if c.inside)) or "none"
            raise ValueError(f"model={model!r} has no minimum inside its sizes; {have} have")
        return np.array([c.budget for c in own]), np.array([c.loss_opt for c in own])

    def law(self, model: str | None = None) -> ModelLaws:
        """The laws of a model, or the only ones. Raises ValueError if there are none such."""
        found = [law for law in self.laws if model in (None, law.model)]
        if len(found) != 1:
            have = ", ".join(law.model for law in self.laws) or "none"
            raise ValueError(f"model={model!r} must name one whose laws were fitted: {have}")
        return found[0]

    def summary(self) -> str:
        """A line a curve: the minimum, its interval, and what speaks against it; then the laws."""
        lines = []
        for c in self.curves:
            low, high = c.x_interval
            line = (
                f"{c.model:>10}  C={c.budget:.3g}  {self.x_name}*={c.x_opt:.3g} "
                f"({low:.3g} to {high:.3g})  loss*={c.loss_opt:.4f} "
                f"({c.loss_interval[0]:.4f} to {c.loss_interval[1]:.4f})  "
                f"perplexity*={np.exp(c.loss_opt):.2f}  ({c.n_points} sizes, rmse {c.rmse:.4f})"
            )
            lines.append(line + (f"  DOUBTFUL: {'; '.join(c.warnings)}" if c.warnings else ""))
        lines += [law.summary() for law in self.laws]
        lines += [f"skipped: {text}" for text in self.skipped]
        notes = [*self.notes, *(f"no power laws: {why}" for why in self.unfitted.values())]
        return "\n".join([*lines, *(f"note: {text}" for text in notes)])

    def to_dict(self) -> dict[str, Any]:
        """All fields at full precision, with the status and the laws' intervals."""
        return {
            **plain(self),
            "curves": [c.to_dict() for c in self.curves],
            "laws": [law.to_dict() for law in self.laws],
            "status": str(self.status),
        }


def _of_model(model: str, skipped: Sequence[str]) -> list[str]:
    return [text for text in skipped if text.startswith(f"{model} at C=")]
