"""Surfaces side by side: by AICc, by what they say of runs held out, and what all left say."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.fitting.edges import find_edges
from analysis.fitting.hold_out import largest
from analysis.fitting.intervals import Array, Estimate, NoMinimum, Prediction
from analysis.fitting.status import FitError, worst_status
from analysis.laws.compare import Compared, ComparedLaw, Comparison, with_weight, with_weights
from analysis.laws.forms import SURFACES
from analysis.laws.law import Variables
from analysis.laws.pattern import misses_in_a_pattern
from analysis.surfaces.fit import HOFFMANN_S, SurfaceFit, fit_surface
from analysis.surfaces.optimum import FLOPS_PER_PARAM_TOKEN, find_optimum, sizes_within

HeldOut = Literal["compute", "size", "tokens", "ratio"]
HELD_OUT: tuple[HeldOut, ...] = get_args(HeldOut)
_WHAT = {
    "compute": "the most compute (N D)",
    "size": "the most parameters",
    "tokens": "the most tokens",
    "ratio": "the most tokens per parameter",
}
_CLOSE = 1.1  # times the lowest error: too near to call
_TUNING = 1.345  # standard deviations: Huber's, whose fit is then 95 % as good on normal noise
_NORMAL = 1.4826  # a standard deviation of normal noise in median absolute deviations
_MATTERS = 0.01  # weight of a form whose misfit is looked for
_TOLD = 0.4  # of the weight: that of the forms with a minimum, where one is told
_BEYOND = (1.0, 10.0)  # times the most compute


@dataclass(frozen=True, kw_only=True)
class Best:
    """What a budget of FLOPs buys. by: form -> weight of those that say it; without: of those that
    predict the loss and have no minimum; within: where they have none.
    """

    budget: float
    values: dict[str, Estimate]
    by: dict[str, float]
    without: dict[str, float]
    within: NoMinimum | None

    @property
    def warnings(self) -> list[str]:
        """Which forms have no say, and why; empty if all have."""
        if not self.without:
            return []
        return [
            f"the best size at C={self.budget:.3g} is by {self.by_words}, without "
            f"{with_weight(self.without)}: {self.within} parameters, by all runs or without edges "
            "of them"
        ]

    @property
    def by_words(self) -> str:
        return with_weight(self.by) or "no form"


@dataclass(frozen=True, kw_only=True, repr=False)
class SurfaceComparison(Comparison):
    """Forms in order of their error on the n_held runs held out of n_points.

    delta: Huber's, of ln L, the same for all; nd_range: of N*D over the runs.
    """

    columns: ClassVar[tuple[str, ...]] = (
        "form_name", "n_params", "rmse", "aicc", "delta_aicc", "weight", "edge_weight",
        "held_out_rmse", "held_out_bias", "status",
    )  # fmt: skip
    n_held: int
    delta: float
    nd_range: tuple[float, float]
    missed: str | None  # what the likeliest form misses, where it does
    surfaces: tuple[ComparedLaw, ...]
    fits: tuple[SurfaceFit, ...]

    @property
    def compared(self) -> Sequence[ComparedLaw]:
        return self.surfaces

    @property
    def disagreement(self) -> list[str]:
        """Where the hold-out or the AICc does not choose, and what all forms miss."""
        first, *others = self.surfaces
        close = [s.form_name for s in others if s.held_out_rmse < _CLOSE * first.held_out_rmse]
        found = []
        if close:
            found.append(
                f"the runs held out do not distinguish {first.form_name} from {', '.join(close)}: "
                "their errors are within a tenth"
            )
        found += [*self._extrapolates, *self._none_excluded]
        if self.bent:
            found.append(self.bent)
        if self.missed:
            found.append(f"{next(iter(self.possible))}, the likeliest: {self.missed}")
        return found

    @property
    def bent(self) -> str | None:
        """Assumption of extrapolations if every form that is left has exponents that change."""
        left = [fit.form_name for fit in self.fits if fit.form_name in self.possible]
        if not left or not all(SURFACES[name].bends for name in left):
            return None
        return (
            f"the runs exclude all forms but {' and '.join(left)}, whose exponents change over the "
            "runs: how they go on is a guess, so predictions beyond the runs may be off by more "
            "than the intervals say"
        )

    def predict(
        self,
        n_params: ArrayLike,
        n_tokens: ArrayLike,
        *,
        n_unique: ArrayLike | None = None,
        level: float = 0.95,
        new_run: bool = False,
    ) -> Prediction:
        """Loss in nats/token by the `predicting` forms: the mean of ln L by their weights, with
        the interval that holds those of all; new_run: that of one more run.

        Raises ValueError where no form has an AICc.
        """
        how: dict[str, Any] = {"n_unique": n_unique, "level": level, "new_run": new_run}
        return self._averaged(lambda fit: fit.predict(n_params, n_tokens, **how), level)

    def optimum(
        self,
        budget: float,
        flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN,
        level: float = 0.95,
        *,
        n_unique: float | None = None,
    ) -> dict[str, Estimate]:
        """Compute-optimal n_params, n_tokens, tokens_per_param and loss at a budget of FLOPs, by
        the `predicting` forms as in predict.
        """
        return self.best(budget, flops_per_param_token, level, n_unique=n_unique).values

    def best(
        self,
        budget: float,
        flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN,
        level: float = 0.95,
        *,
        n_unique: float | None = None,
    ) -> "Best":
        """`optimum`, and by which forms: those of the `predicting` ones that have a minimum.

        None is told where the others have three fifths of the weight or more.
        """
        how = budget, flops_per_param_token
        fits = [fit for fit in self.fits if fit.form_name in self.predicting]
        each = {
            (fit.form_name, len(fit.edges)): find_optimum(fit, *how, level, n_unique)
            for own in fits
            for fit in (own, own.alone)
        }
        none = {
            fit.form_name: NoMinimum.of(*sizes_within(fit, *how))
            for fit in fits
            if np.isnan(each[fit.form_name, len(fit.edges)]["n_params"].value)
        }
        by = {form: w for form, w in self.predicting.items() if form not in none}
        share = sum(by.values())
        by = {form: w / share for form, w in by.items() if share > _TOLD}
        names = next(iter(each.values()), ("loss",))
        if none and not by:
            values: dict[str, Estimate] = dict.fromkeys(names, next(iter(none.values())))
        else:
            ask = {n: lambda fit, n=n: each[fit.form_name, len(fit.edges)][n] for n in names}
            values = {n: self._averaged(of, level, by).first for n, of in ask.items()}
        return Best(
            budget=budget,
            values=values,
            by=by,
            without={form: self.predicting[form] for form in none},
            within=next(iter(none.values()), None),
        )

    def over_compute(
        self,
        flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN,
        *,
        n_unique: float | None = None,
    ) -> pd.DataFrame:
        """`optimum` at the most compute of the runs and at ten times as much: budget in FLOPs,
        n_params, n_tokens and loss in nats/token, each with lower and upper (95 %).
        """
        rows = []
        for one in self.bests_over_compute(flops_per_param_token, n_unique=n_unique):
            row = {"budget": one.budget}
            for name in ("n_params", "n_tokens", "loss"):
                row |= one.values[name].columns(name)
            rows.append(row)
        return pd.DataFrame(rows)

    def bests_over_compute(
        self, flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN, **how: Any
    ) -> list["Best"]:
        """`best` at each of the budgets of over_compute."""
        k = flops_per_param_token
        return [self.best(times * self.nd_range[1] * k, k, **how) for times in _BEYOND]

    def _heading(self) -> str:
        return (
            f"{self.n_points} runs; held out: the {self.n_held} of {self.held_out}; AICc of "
            f"Huber's density, delta {self.delta:.2g}"
        )


def compare_surfaces(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    forms: Sequence[str] = tuple(SURFACES),
    *,
    n_unique: ArrayLike | None = None,
    hold_out: HeldOut = "compute",
    share: float = 0.2,
    delta: float | None = None,
    groups: ArrayLike | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> SurfaceComparison:
    """Fits each form without the `share` of the runs with the most of `hold_out`, then to all.

    Runs that tie are held out all or none, and the largest value always is: see largest.

    hold_out: compute (N D), size (N), tokens (D) or ratio (D/N, over-training). delta: Huber's; by
    default 1.345 standard deviations of the runs about Chinchilla's surface, so that the fits are
    of about normal noise without its outliers, and their AICc comparable. Others as in fit_surface.
    What can't be fitted is skipped, with the reason. Raises ValueError for a bad argument, FitError
    if no form can be fitted.
    """
    if hold_out not in HELD_OUT:
        raise ValueError(f"hold_out={hold_out!r} is not one of {', '.join(HELD_OUT)}")
    if not 0 < share < 1:
        raise ValueError(f"share={share!r} must be between 0 and 1, e.g. 0.2")
    N, D, L = (np.asarray(v, dtype=np.float64).ravel() for v in (n_params, n_tokens, loss))
    given = np.inf if n_unique is None else np.asarray(n_unique, dtype=np.float64).ravel()
    U = np.broadcast_to(given, N.shape)
    out = largest({"compute": N * D, "size": N, "tokens": D, "ratio": D / N}[hold_out], share)
    if not out.any():
        raise FitError(f"most runs have the same {hold_out}, the largest: nothing to hold out")
    delta = _by_noise(N, D, L) if delta is None else delta
    values = {"compute": N * D, "size": N, "tokens": D}
    edges = find_edges(
        values, {"compute": (share, 2 * share), "size": (share,), "tokens": (share,)}
    )
    found: list[tuple[Compared, SurfaceFit]] = []
    skipped = []
    for form in dict.fromkeys(forms):
        how: dict[str, Any] = {"form": form, "delta": delta}
        try:
            blind = fit_surface(N[~out], D[~out], L[~out], n_unique=U[~out], n_draws=0, **how)
            more: dict[str, Any] = {
                "groups": groups,
                "edges": edges,
                "n_draws": n_draws,
                "seed": seed,
            }
            fit = fit_surface(N, D, L, n_unique=U, **more, **how)
        except FitError as error:
            skipped.append(f"{form}: {error}")
            continue
        texts = dict.fromkeys([*fit.warnings, *(f"without them, {t}" for t in blind.warnings)])
        compared = Compared.of(
            fit,
            fit.loss(N, D, U) - L,
            blind.loss(N[out], D[out], U[out]) - L[out],
            status=worst_status([fit.status, blind.status]),
            warnings=tuple(texts),
        )
        found.append((compared, fit))
    if not found:
        raise FitError(f"no surface to compare: {'; '.join(skipped)}")
    found.sort(key=lambda pair: pair[0].held_out_rmse)
    fits = tuple(fit for _, fit in found)
    compute, at = N * D, Variables.of(N, D, U=U)
    surfaces = with_weights([one for one, _ in found], fits)
    missed = {
        fit.form_name: _missed(fit, at, L)
        for fit, one in zip(fits, surfaces, strict=True)
        if max(one.weight, one.edge_weight) > _MATTERS or fit.aicc == min(f.aicc for f in fits)
    }
    return SurfaceComparison(
        n_points=len(L),
        n_held=int(out.sum()),
        held_out=_WHAT[hold_out],
        delta=float(delta),
        nd_range=(float(compute.min()), float(compute.max())),
        missed=missed[min(fits, key=lambda fit: fit.aicc).form_name],
        surfaces=surfaces,
        fits=tuple(replace(fit, misfit=bool(missed.get(fit.form_name))) for fit in fits),
        skipped=tuple(skipped),
    )


def _by_noise(N: Array, D: Array, L: Array) -> float:
    """Huber's delta for the scatter of these runs; Hoffmann's where they don't tell it."""
    try:
        fit = fit_surface(N, D, L, "chinchilla", n_draws=0)
    except FitError:
        return HOFFMANN_S
    off = np.abs(np.log(fit.loss(N, D)) - np.log(L))
    deviation = _NORMAL * float(np.median(off)) * np.sqrt(len(L) / (len(L) - len(fit.names)))
    return max(HOFFMANN_S, _TUNING * deviation)


def _missed(fit: SurfaceFit, at: Variables, loss: Array) -> str | None:
    """Whether the runs, without their outliers, are off a form in a pattern, and how."""
    logs, jacobian = (part[0] for part in fit.law.model(at, fit.centre)(fit.thetas[:1]))
    off = np.clip(logs - np.log(loss), -fit.delta, fit.delta)
    moves = jacobian[:, np.linalg.norm(jacobian, axis=0) > 0]
    return misses_in_a_pattern("ND", at, off, moves, loss)
