"""Results of fits: frozen, at full precision, with a status and warnings."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class FitError(ValueError):
    """There is no result at all, e.g. too few points."""


class FitStatus(StrEnum):
    """CONVERGED: nothing speaks against the number. DOUBTFUL: see the result's warnings."""

    CONVERGED = "converged"
    DOUBTFUL = "doubtful"


@dataclass(frozen=True, kw_only=True)
class IsoFLOPCurve:
    """loss = a u^2 + b u + c with u = ln(x), at one budget of one model.

    x_opt, loss_opt: the vertex (nan if the parabola opens downwards); rmse: of the fit, in
    nats/token; x_min, x_max: the range of the points.
    """

    model: str
    budget: float
    x_name: str
    n_points: int
    a: float
    b: float
    c: float
    x_opt: float
    loss_opt: float
    rmse: float
    x_min: float
    x_max: float
    status: FitStatus
    warnings: tuple[str, ...]

    def predict(self, x: ArrayLike) -> NDArray[np.float64]:
        """The fitted loss in nats/token at x (parameters or tokens)."""
        u = np.log(np.asarray(x, dtype=np.float64))
        return self.a * u**2 + self.b * u + self.c

    def to_dict(self) -> dict[str, Any]:
        """All fields, at full precision."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class IsoFLOPFit:
    """One curve for each (model, budget) that had enough points; `skipped` says which had not."""

    x_name: str
    curves: tuple[IsoFLOPCurve, ...]
    skipped: tuple[str, ...]

    @property
    def status(self) -> FitStatus:
        """CONVERGED if every curve is and none was skipped."""
        good = not self.skipped and all(c.status is FitStatus.CONVERGED for c in self.curves)
        return FitStatus.CONVERGED if good else FitStatus.DOUBTFUL

    def summary(self) -> str:
        """A line a curve: the minimum, and what speaks against it."""
        lines = []
        for c in self.curves:
            line = (
                f"{c.model:>10}  C={c.budget:.3g}  {self.x_name}*={c.x_opt:.3g}  "
                f"loss*={c.loss_opt:.4f}  perplexity*={np.exp(c.loss_opt):.2f}  "
                f"({c.n_points} points, rmse {c.rmse:.4f})"
            )
            lines.append(line + (f"  DOUBTFUL: {'; '.join(c.warnings)}" if c.warnings else ""))
        return "\n".join([*lines, *(f"skipped: {text}" for text in self.skipped)])

    def to_dict(self) -> dict[str, Any]:
        """All fields, at full precision."""
        return asdict(self)
