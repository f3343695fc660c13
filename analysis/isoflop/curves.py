"""Result of an isoFLOP fit: a curve for each model and budget, and each model's laws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.interpolate import Akima1DInterpolator

from analysis.fitting.checks import check_level, positive
from analysis.fitting.intervals import Array, NoMinimum, Prediction, percentiles, t_quantile
from analysis.fitting.plain import plain
from analysis.fitting.results import Fit, Result
from analysis.fitting.status import FitError, FitStatus, find_status, worst_status
from analysis.fitting.text import in_brackets, unsaid
from analysis.isoflop import slices
from analysis.isoflop.flags import Flag
from analysis.isoflop.laws import ModelLaws
from analysis.isoflop.left_out import OutlierRun, TooFew, left_out, outliers_in
from analysis.isoflop.methods import Method
from analysis.isoflop.misfit import BesideSeeds
from analysis.isoflop.shape import Shape
from analysis.settings import setting


@dataclass(frozen=True, kw_only=True, repr=False)
class IsoFLOPCurve(Fit):
    """Losses of one model at one budget against size, and their minimum.

    sizes, losses: the best run of each size used, in order of size; x_opt, loss_opt: the minimum
    (nan where the parabola opens downwards, or Akima's lowest is at an end) and their 95 %
    intervals, unbounded where the data allow any; inside: whether it is within the sizes, not at
    their end; at_optimum: the other sizes there, by interpolation along the curve; a, slope, level,
    centre, alpha, beta: the curve in u = ln(size), as isoflop.shape.Shape has it, by least squares:
    a parabola, of exponents 0, also where method="akima"; unscaled: (X'X)^-1 of a, slope, level;
    rmse: of its points; noise: the standard deviation of a loss that the intervals assume, with its
    degrees of freedom dof; both in nats/token; draws (S, 5): alpha, beta, a, slope, level
    of a slice, for its intervals; none of the other methods.
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
    alpha: float
    beta: float
    rmse: float
    noise: float
    dof: int
    unscaled: tuple[tuple[float, ...], ...]
    draws: Array = field(repr=False, compare=False)
    flags: tuple[Flag, ...]
    status: FitStatus
    warnings: tuple[str, ...]

    @property
    def params(self) -> dict[str, float]:
        return {"x_opt": self.x_opt, "loss_opt": self.loss_opt}

    @property
    def bse(self) -> dict[str, float]:
        """Standard errors: of a parabola by the delta method, of a slice from its draws.

        nan for x_opt where method="akima".
        """
        u = float("nan")
        if self.method == "slice":
            drawn, losses = slices.minima(self.centre, self.draws)
            known = np.isfinite(drawn)
            if known.sum() > 1:
                u, loss = float(drawn[known].std(ddof=1)), float(losses[known].std(ddof=1))
                return {"x_opt": self.x_opt * u, "loss_opt": loss}
        elif self.method == "parabola":
            u = self._shape.u_error(self.noise)
        low, high = self.loss_interval
        half = (high - low) / 2
        return {"x_opt": self.x_opt * u, "loss_opt": half / t_quantile(self.dof, 0.95)}

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """Intervals of x_opt and loss_opt.

        Raises ValueError for another level than 0.95 where method="akima": its intervals are
        percentiles of draws that are not kept.
        """
        check_level(level)
        rows = [self.x_interval, self.loss_interval]
        if level != 0.95:
            rows = self._bounds_at(level)
        return pd.DataFrame(rows, index=["x_opt", "loss_opt"], columns=["lower", "upper"])

    def _bounds_at(self, level: float) -> list[tuple[float, float]]:
        if self.method == "akima":
            raise ValueError(f"level={level!r}: intervals of method='akima' are at 0.95 only")
        if self.method == "slice":
            u, losses = slices.minima(self.centre, self.draws)
            ends, of_loss = slices.interval(u, level), slices.loss_interval(losses, level)
        else:
            t = t_quantile(self.dof, level)
            ends = self._shape.u_interval(self.noise, t)
            of_loss = self._shape.loss_interval(self.noise, t)
        low, high = np.exp(ends)
        return [(float(low), float(high)), of_loss]

    @property
    def _shape(self) -> Shape:
        return Shape(
            centre=self.centre,
            a=self.a,
            slope=self.slope,
            level=self.level,
            alpha=self.alpha,
            beta=self.beta,
            unscaled=np.array(self.unscaled),
        )

    @property
    def none(self) -> NoMinimum:
        """What is told of a minimum that is not `inside`."""
        return NoMinimum.of(self.x_min, self.x_max)

    @property
    def x_min(self) -> float:
        return self.sizes[0]

    @property
    def x_max(self) -> float:
        return self.sizes[-1]

    @property
    def why_excluded(self) -> str:
        """Why the minimum is excluded from the laws; empty if it is not."""
        order = (Flag.WRONG_CURVATURE, Flag.OUTSIDE, Flag.EDGE)
        found = [text for flag in order for f, text in self.flagged if f is flag]
        return "" if self.inside else next(iter(found), "the minimum is at an end of the sizes")

    @property
    def flagged(self) -> tuple[tuple[Flag, str], ...]:
        return tuple(zip(self.flags, self.warnings, strict=True))

    def loss(self, x: ArrayLike) -> Array:
        """Curve's loss in nats/token at sizes x; Akima's is nan outside the range."""
        u = np.log(positive(self.x_name, x))
        if self.method == "akima":
            return np.exp(Akima1DInterpolator(np.log(self.sizes), np.log(self.losses))(u))
        return self._shape.loss(u)

    def predict(self, x: ArrayLike, level: float = 0.95) -> Prediction:
        """Same with the interval of the curve there; nan where method="akima"."""
        check_level(level)
        value = np.atleast_1d(self.loss(x))
        u = np.log(np.atleast_1d(np.asarray(x, dtype=np.float64)))
        if self.method == "slice":
            drawn = slices.losses(self.centre, self.draws, u)
            return Prediction(value, *percentiles(drawn, level), level)
        half = np.full_like(value, t_quantile(self.dof, level))
        if self.method == "akima":
            half[:] = np.nan
        else:
            half *= self._shape.loss_error(u, self.noise)
        return Prediction(value, value - half, value + half, level)

    def summary(self) -> str:
        best = f"{self.x_name}*: {self.none}"
        if self.inside:
            best = (
                f"{self.x_name}*={self.x_opt:.3g} {in_brackets(*self.x_interval, '.3g')}  "
                f"loss*={self.loss_opt:.4f} {in_brackets(*self.loss_interval, '.4f')}  "
                f"perplexity*={np.exp(self.loss_opt):.2f}"
            )
        line = (
            f"{self.model:>10}  C={self.budget:.3g}  {best}  ({self.n_points} sizes, "
            f"rmse {self.rmse:.4f})"
        )
        return line + (f"  WARNING: {'; '.join(self.warnings)}" if self.warnings else "")

    def to_dict(self) -> dict[str, Any]:
        """All fields at full precision, with the range and the perplexity of the minimum."""
        return {**super().to_dict(), "perplexity_opt": plain(float(np.exp(self.loss_opt)))}


class NoCurveError(FitError):
    """No budget of any model has sizes enough; too_few: what they have."""

    def __init__(self, too_few: Sequence[TooFew]) -> None:
        remedy = "add runs of other sizes at the same budget"
        super().__init__(f"no curve to fit: {'; '.join([*left_out(too_few), remedy])}")
        self.too_few = tuple(too_few)

    def only(self, model: str) -> "NoCurveError":
        return NoCurveError([curve for curve in self.too_few if curve.model == model])


@dataclass(frozen=True, kw_only=True, repr=False)
class IsoFLOPFit(Fit):
    """A curve for each model and budget that had enough sizes, and each model's laws of compute.

    too_few: curves that could not be fitted; moved: what was done about runs whose FLOPs are not
    their budget's; notes: of the table; unfitted: model -> why it has no laws; seeds: model -> the
    scatter about its curves beside that of its seeds, where it has several; outliers: runs that the
    others do not expect, of all curves.
    """

    x_name: str
    method: Method
    n_nearest: int | None
    curves: tuple[IsoFLOPCurve, ...]
    laws: tuple[ModelLaws, ...]
    too_few: tuple[TooFew, ...]
    moved: tuple[str, ...]
    notes: tuple[str, ...]
    unfitted: Mapping[str, str]
    seeds: Mapping[str, BesideSeeds]
    outliers: tuple[OutlierRun, ...]

    @property
    def skipped(self) -> tuple[str, ...]:
        """Which curves could not be fitted, and why: a line of many that lack the same."""
        return left_out(self.too_few)

    @property
    def status(self) -> FitStatus:
        """Worst of the curves' and laws'; WARNING at least if a curve was skipped, or the table
        has warnings.
        """
        found = [c.status for c in self.curves] + [law.status for law in self.laws]
        return worst_status([*found, find_status([*self.of_table, *map(str, self.too_few)])])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the curves and laws, each with its name, and the curves skipped."""
        curves = [f"{c.model} at C={c.budget:.3g}: {w}" for c in self.curves for w in c.warnings]
        laws = [f"{law.model}: {w}" for law in self.laws for w in law.warnings]
        return (*self.of_table, *curves, *laws, *(f"skipped {text}" for text in self.skipped))

    def only(self, model: str) -> Self:
        """Curves and laws of one model; none if it has none."""
        return replace(
            self,
            curves=tuple(curve for curve in self.curves if curve.model == model),
            laws=tuple(law for law in self.laws if law.model == model),
            too_few=tuple(curve for curve in self.too_few if curve.model == model),
            unfitted={name: why for name, why in self.unfitted.items() if name == model},
            seeds={name: beside for name, beside in self.seeds.items() if name == model},
            outliers=tuple(run for run in self.outliers if run.model == model),
        )

    @property
    def why_no_laws(self) -> str:
        """Reasons why models have no power laws; empty if all have."""
        if self.curves:
            return "; ".join(f"no power laws: {why}" for why in self.unfitted.values())
        return str(NoCurveError(self.too_few))

    def frontier(self, model: str) -> tuple[Array, Array]:
        """Budgets and lowest losses of a model's curves with a minimum inside their sizes.

        Raises ValueError if there is none.
        """
        own = [c for c in self.curves if c.model == model and c.inside]
        if not own:
            have = ", ".join(dict.fromkeys(c.model for c in self.curves if c.inside)) or "none"
            raise ValueError(
                f"{setting('model', model)} has no minimum inside its sizes; {have} have"
            )
        return np.array([c.budget for c in own]), np.array([c.loss_opt for c in own])

    @property
    def params(self) -> dict[str, float]:
        return {self._name(c, name): value for c in self.curves for name, value in c.params.items()}

    @property
    def bse(self) -> dict[str, float]:
        return {self._name(c, name): value for c in self.curves for name, value in c.bse.items()}

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        parts = [
            c.conf_int(level).set_axis([self._name(c, name) for name in c.params])
            for c in self.curves
        ]
        return pd.concat(parts) if parts else pd.DataFrame(columns=["lower", "upper"])

    @staticmethod
    def _name(curve: IsoFLOPCurve, name: str) -> str:
        return f"{curve.model} C={curve.budget:.6g} {name}"

    def predict(
        self,
        budget: ArrayLike,
        model: str | None = None,
        quantity: str | None = None,
        level: float = 0.95,
    ) -> Prediction:
        """Optimum at a budget in FLOPs by the model's law, whose exponent may drift beyond the
        budgets; quantity: the size by default, or another name of its laws, e.g. "loss".

        Raises ValueError if there is no such model or law.
        """
        laws, name = self.law(model).laws, quantity or self.x_name
        if name not in laws:
            raise ValueError(f"quantity={name!r} is not one of {', '.join(laws)}")
        return laws[name].extrapolate(budget, level)

    def to_frame(self) -> pd.DataFrame:
        """A row a curve: its minimum with 95 % intervals, nan where its sizes have none inside."""
        frame = pd.DataFrame(
            [
                {
                    "model": c.model,
                    "budget": c.budget,
                    f"{self.x_name}*": c.x_opt,
                    "lower": c.x_interval[0],
                    "upper": c.x_interval[1],
                    "loss*": c.loss_opt,
                    "loss lower": c.loss_interval[0],
                    "loss upper": c.loss_interval[1],
                    "perplexity": np.exp(c.loss_opt),
                    "sizes": c.n_points,
                    "rmse": c.rmse,
                    "status": str(c.status),
                    "flags": ", ".join(c.flags),
                }
                for c in self.curves
            ]
        )
        if self.curves:
            of = ["lower", "upper", "loss*", "loss lower", "loss upper", "perplexity"]
            frame.loc[[not c.inside for c in self.curves], [f"{self.x_name}*", *of]] = np.nan
        return frame

    def law(self, model: str | None = None) -> ModelLaws:
        """Laws of a model, or the only ones. Raises ValueError if there are none such."""
        found = [law for law in self.laws if model in (None, law.model)]
        if len(found) != 1:
            have = ", ".join(law.model for law in self.laws) or "none"
            raise ValueError(
                f"{setting('model', model)} must name one whose laws were fitted: {have}"
            )
        return found[0]

    def summary(self) -> str:
        lines = [part.summary() for part in (*self.curves, *self.laws)]
        lines += [f"skipped: {text}" for text in self.skipped]
        lines += [f"{model}: {beside}" for model, beside in self.seeds.items()]
        lines += outliers_in(self.outliers)
        lines += [f"warning: {text}" for text in unsaid(self.of_table)]
        notes = [*self.notes, *(f"no power laws: {why}" for why in self.unfitted.values())]
        return "\n".join([*lines, *(f"note: {text}" for text in notes)])

    def to_dict(self) -> dict[str, Any]:
        """All fields at full precision, with the status and the laws' intervals."""
        return {
            **Result.to_dict(self),
            "skipped": list(self.skipped),
            "curves": [c.to_dict() for c in self.curves],
            "laws": [law.to_dict() for law in self.laws],
        }
