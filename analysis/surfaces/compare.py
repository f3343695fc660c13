"""Surfaces side by side, by what they say of runs that were held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.fitting.hold_out import largest
from analysis.fitting.results import Result
from analysis.fitting.status import FitError, FitStatus, status_of, worst_status
from analysis.surfaces.fit import SurfaceFit, SurfaceName, fit_surface

HeldOut = Literal["compute", "size", "tokens", "ratio"]
HELD_OUT: tuple[HeldOut, ...] = get_args(HeldOut)
DEFAULT_SURFACES: tuple[SurfaceName, ...] = get_args(SurfaceName)
_WHAT = {
    "compute": "the most compute (N D)",
    "size": "the most parameters",
    "tokens": "the most tokens",
    "ratio": "the most tokens per parameter",
}
_CLOSE = 1.1  # times the lowest error: too near to call


@dataclass(frozen=True, kw_only=True)
class ComparedSurface:
    """One form: rmse over all runs and held_out_rmse in nats/token, bias = predicted - measured."""

    form_name: str
    n_params: int
    rmse: float
    held_out_rmse: float
    held_out_bias: float
    status: FitStatus
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class SurfaceComparison(Result):
    """The forms in order of their error on the n_held runs held out of n_points.

    fits: to all runs; held_out: which were; skipped: what could not be fitted, and why. There is no
    AICc: Huber's loss is not the likelihood of the residuals.
    """

    n_points: int
    n_held: int
    held_out: str
    surfaces: tuple[ComparedSurface, ...]
    fits: tuple[SurfaceFit, ...]
    skipped: tuple[str, ...]

    @property
    def status(self) -> FitStatus:
        """The worst of the surfaces'; WARNING at least if there are warnings."""
        return worst_status([status_of(self.warnings), *(s.status for s in self.surfaces)])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Each form's own, and where the hold-out does not choose."""
        found = [f"{s.form_name}: {text}" for s in self.surfaces for text in s.warnings]
        first, *others = self.surfaces
        close = [s.form_name for s in others if s.held_out_rmse < _CLOSE * first.held_out_rmse]
        if close:
            found.append(
                f"the runs held out do not distinguish {first.form_name} from {', '.join(close)}: "
                "their errors are within a tenth"
            )
        return tuple(found)

    def to_frame(self) -> pd.DataFrame:
        """A row a form."""
        names = ["form_name", "n_params", "rmse", "held_out_rmse", "held_out_bias", "status"]
        return pd.DataFrame([{n: getattr(s, n) for n in names} for s in self.surfaces])

    def summary(self) -> str:
        """The table and its warnings."""
        text = self.to_frame().to_string(index=False, float_format=lambda v: f"{v:.4g}")
        head = f"{self.n_points} runs; held out: the {self.n_held} of {self.held_out}"
        rest = [*self.warnings, *(f"skipped {s}" for s in self.skipped)]
        return "\n".join([head, text, *(f"  note: {line}" for line in rest)])

    def to_dict(self) -> dict[str, Any]:
        """Everything at full precision."""
        fits = {fit.form_name: fit.to_dict() for fit in self.fits}
        return {**super().to_dict(), "fits": fits}


def compare_surfaces(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    forms: Sequence[SurfaceName] = DEFAULT_SURFACES,
    *,
    hold_out: HeldOut = "compute",
    share: float = 0.2,
    delta: float = 1e-3,
    groups: ArrayLike | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> SurfaceComparison:
    """Fits each form without the `share` of the runs with the most of `hold_out`, then to all.

    Runs that tie are held out all or none, and the largest value always is: see largest.

    hold_out: compute (N D), size (N), tokens (D) or ratio (D/N, over-training). Others as in
    fit_surface. What can't be fitted is skipped, with the reason. Raises ValueError for a bad
    argument, FitError if no form can be fitted.
    """
    if hold_out not in HELD_OUT:
        raise ValueError(f"hold_out={hold_out!r} is not one of {', '.join(HELD_OUT)}")
    if not 0 < share < 1:
        raise ValueError(f"share={share!r} must be between 0 and 1, e.g. 0.2")
    N, D, L = (np.asarray(v, dtype=np.float64).ravel() for v in (n_params, n_tokens, loss))
    out = largest({"compute": N * D, "size": N, "tokens": D, "ratio": D / N}[hold_out], share)
    if not out.any():
        raise FitError(f"most runs have the same {hold_out}, the largest: nothing to hold out")
    found: list[tuple[ComparedSurface, SurfaceFit]] = []
    skipped = []
    for form in dict.fromkeys(forms):
        try:
            blind = fit_surface(N[~out], D[~out], L[~out], form, delta=delta, n_draws=0)
            fit = fit_surface(N, D, L, form, delta=delta, groups=groups, n_draws=n_draws, seed=seed)
        except FitError as error:
            skipped.append(f"{form}: {error}")
            continue
        off = fit.loss(N, D) - L
        held = blind.loss(N[out], D[out]) - L[out]
        texts = dict.fromkeys([*fit.warnings, *(f"without them, {t}" for t in blind.warnings)])
        compared = ComparedSurface(
            form_name=form,
            n_params=len(fit.names),
            rmse=float(np.sqrt(np.mean(off**2))),
            held_out_rmse=float(np.sqrt(np.mean(held**2))),
            held_out_bias=float(np.mean(held)),
            status=worst_status([fit.status, blind.status]),
            warnings=tuple(texts),
        )
        found.append((compared, fit))
    if not found:
        raise FitError(f"no surface to compare: {'; '.join(skipped)}")
    found.sort(key=lambda pair: pair[0].held_out_rmse)
    return SurfaceComparison(
        n_points=len(L),
        n_held=int(out.sum()),
        held_out=_WHAT[hold_out],
        surfaces=tuple(compared for compared, _ in found),
        fits=tuple(fit for _, fit in found),
        skipped=tuple(skipped),
    )
