"""Surfaces side by side, by what they say of runs that were held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from analysis.fitting.hold_out import largest
from analysis.fitting.status import FitError, worst_status
from analysis.laws.compare import Compared, Comparison
from analysis.laws.forms import SURFACES
from analysis.surfaces.fit import SurfaceFit, fit_surface

HeldOut = Literal["compute", "size", "tokens", "ratio"]
HELD_OUT: tuple[HeldOut, ...] = get_args(HeldOut)
_WHAT = {
    "compute": "the most compute (N D)",
    "size": "the most parameters",
    "tokens": "the most tokens",
    "ratio": "the most tokens per parameter",
}
_CLOSE = 1.1  # times the lowest error: too near to call


@dataclass(frozen=True, kw_only=True, repr=False)
class SurfaceComparison(Comparison):
    """The forms in order of their error on the n_held runs held out of n_points.

    There is no AICc: Huber's loss is not the likelihood of the residuals.
    """

    columns: ClassVar[tuple[str, ...]] = (
        "form_name", "n_params", "rmse", "held_out_rmse", "held_out_bias", "status",
    )  # fmt: skip
    n_held: int
    surfaces: tuple[Compared, ...]
    fits: tuple[SurfaceFit, ...]

    @property
    def compared(self) -> Sequence[Compared]:
        return self.surfaces

    @property
    def disagreement(self) -> list[str]:
        """Where the hold-out does not choose."""
        first, *others = self.surfaces
        close = [s.form_name for s in others if s.held_out_rmse < _CLOSE * first.held_out_rmse]
        if not close:
            return []
        return [
            f"the runs held out do not distinguish {first.form_name} from {', '.join(close)}: "
            "their errors are within a tenth"
        ]

    def _heading(self) -> str:
        return f"{self.n_points} runs; held out: the {self.n_held} of {self.held_out}"


def compare_surfaces(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    forms: Sequence[str] = tuple(SURFACES),
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
    found: list[tuple[Compared, SurfaceFit]] = []
    skipped = []
    for form in dict.fromkeys(forms):
        try:
            blind = fit_surface(N[~out], D[~out], L[~out], form, delta=delta, n_draws=0)
            fit = fit_surface(N, D, L, form, delta=delta, groups=groups, n_draws=n_draws, seed=seed)
        except FitError as error:
            skipped.append(f"{form}: {error}")
            continue
        texts = dict.fromkeys([*fit.warnings, *(f"without them, {t}" for t in blind.warnings)])
        compared = Compared.of(
            fit,
            fit.loss(N, D) - L,
            blind.loss(N[out], D[out]) - L[out],
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
