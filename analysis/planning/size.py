"""From fitted laws to the next run: size, tokens, loss and experts that a budget should buy."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.experts.law import ExpertLawFit
from analysis.experts.runs import BACKBONE
from analysis.fitting.checks import positive, times_beyond
from analysis.fitting.intervals import Estimate, NoMinimum
from analysis.fitting.results import Result
from analysis.fitting.status import FitStatus, Warnings
from analysis.fitting.text import format_status
from analysis.flatness import extra_cost
from analysis.isoflop.curves import IsoFLOPFit
from analysis.laws.law import Variables
from analysis.parametric import ParametricFit
from analysis.settings import setting
from analysis.surfaces.compare import SurfaceComparison
from analysis.surfaces.optimum import FLOPS_PER_PARAM_TOKEN

MIN_GAIN = 0.01  # nats that a doubling of the experts must gain to be worth it
_FAR = 10.0  # an extrapolation by more than this is said to be far
_LOG2_EXPERTS = np.arange(0.0, 30.25, 0.25)


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan(Result):
    """values: name -> estimate with interval at `level`; loss in nats/token, the rest counts.

    half_size_costs, twice_size_costs: nats/token that half and twice the best size lose at equal
    compute, by the curve of the largest budget fitted; of an IsoFLOPFit.
    n_experts: the smallest number from which on every doubling gains less than min_gain nats, at
    the planned size, or at n_active_params for a law of the backbone's size.
    """

    budget: float
    model: str | None
    values: Mapping[str, Estimate]
    level: float
    min_gain: float
    status: FitStatus
    warnings: tuple[str, ...]

    def summary(self) -> str:
        name = f" for {self.model}" if self.model else ""
        lines = [f"plan{name} at C={self.budget:.4g} FLOPs ({self.level:.0%} intervals)"]
        lines += [f"  {key:>22} = {value}" for key, value in self.values.items()]
        return "\n".join([*lines, *format_status(self.status, self.warnings)])

    def to_frame(self) -> pd.DataFrame:
        rows = [(name, *estimate) for name, estimate in self.values.items()]
        return pd.DataFrame(rows, columns=["name", "value", "lower", "upper"])


def plan(
    budget: float,
    fit: IsoFLOPFit | ParametricFit | SurfaceComparison,
    *,
    model: str | None = None,
    experts: ExpertLawFit | None = None,
    min_gain: float = MIN_GAIN,
    flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN,
    n_unique: float | None = None,
    level: float = 0.95,
) -> Plan:
    """A plan for a budget in training FLOPs, by the laws.

    model: whose laws, if an IsoFLOPFit has several. experts: a law in experts, for n_experts at the
    planned size (a surface's N, or n_active_params for a backbone). flops_per_param_token: k of
    C = kND, for surfaces only; an IsoFLOPFit has the FLOPs its runs counted. n_unique: how many
    unique tokens exist, for compared surfaces: more are repeats; by default all are new. An
    extrapolation, experts of another model, and the laws' own warnings are in the warnings.
    Raises ValueError naming what is not above 0, for a budget that no law reaches, or if the laws
    are not there.
    """
    if not (np.isfinite(budget) and budget > 0):
        raise ValueError(f"{setting('budget', budget)} must be a finite number of FLOPs above 0")
    if not min_gain > 0:
        raise ValueError(f"{setting('min_gain', min_gain)} must be above 0 nats per doubling")
    positive("flops_per_param_token", flops_per_param_token)
    warned = Warnings()
    if isinstance(fit, IsoFLOPFit):
        laws = fit.law(model)
        model = laws.model
        low, high = next(iter(laws.laws.values())).x_range
    else:
        low, high = (flops_per_param_token * nd for nd in fit.nd_range)
    factor = times_beyond(setting("budget", budget), budget, low, high)
    if isinstance(fit, IsoFLOPFit):
        for text in fit.of_table:
            warned.add(text)
        values = {name: law.extrapolate(budget, level).first for name, law in laws.laws.items()}
        for name, times in (("half", 0.5), ("twice", 2.0)):  # of the size that is planned
            if (cost := extra_cost(fit, laws.model, times, level)) is not None:
                values[f"{name}_size_costs"] = cost
        for text in laws.warnings:
            warned.add(text, laws.status)
    else:
        if isinstance(fit, SurfaceComparison):
            best = fit.best(budget, flops_per_param_token, level, n_unique=n_unique)
            values = best.values
            for text in best.warnings:
                warned.add(text)
        else:
            values = fit.optimum(budget, flops_per_param_token, level)
        for text in fit.warnings:
            warned.add(text, fit.status)
    if factor > 1.005:
        far = ", far" if factor > _FAR else ""
        by_laws = isinstance(fit, IsoFLOPFit)
        drift = "; intervals are of exponents that may drift" if by_laws else ""
        warned.add(
            f"extrapolated{far}: {factor:.3g} times beyond the budgets that were fitted{drift}"
        )
    if "n_params" in values and "n_tokens" in values and "tokens_per_param" not in values:
        ratio = values["n_tokens"].value / values["n_params"].value
        values["tokens_per_param"] = Estimate(ratio, float("nan"), float("nan"))
    if experts is not None:
        # A series is a model's name and what varies: "moe n_experts=8" is of moe
        if model is not None and not f"{model} ".startswith(f"{experts.model} "):
            warned.add(f"the law in experts is of {experts.model}, the plan of {model}")
        size = "n_active_params" if experts.size_name == BACKBONE else experts.size_name
        if not isinstance(fit, IsoFLOPFit):
            size = "n_params"  # its N, which is whatever size it was fitted to
        if isinstance(values.get(size), NoMinimum):
            warned.add(f"no experts are planned: {size} has {values[size]}")
        else:
            values["n_experts"] = _experts(experts, values, size, min_gain, level, warned)
    return Plan(
        budget=float(budget),
        model=model,
        values=values,
        level=level,
        min_gain=min_gain,
        status=warned.status,
        warnings=tuple(warned.texts),
    )


def _experts(
    law: ExpertLawFit,
    values: Mapping[str, Estimate],
    size: str,
    min_gain: float,
    level: float,
    warned: Warnings,
) -> Estimate:
    if size not in values:
        have = ", ".join(values)
        raise ValueError(f"the law in experts is in {size}, which is not planned: {have}")
    if law.form_name == "granularity":
        raise ValueError("the granularity law has no number of experts to plan")
    if not law.of_experts_alone:
        raise ValueError(
            f"plan takes a law in a size and a number of experts; {law.form_name} has other "
            "variables too"
        )
    N = values[size].value
    E = 2.0**_LOG2_EXPERTS
    once, twice = (law.drawn_losses(Variables.of(N, E=e)) for e in (E, 2 * E))

    def smallest(gain: np.ndarray) -> float:
        enough = len(E) - int((gain[::-1] < min_gain).cumprod().sum())  # from the top
        return float(E[enough]) if enough < len(E) else float("inf")

    best, *rest = (smallest(gain) for gain in once - twice)
    drawn = np.array(rest)
    low, high = (
        np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        if len(drawn)
        else (np.nan, np.nan)
    )
    most, least = max(law.experts), min(law.experts)
    if best > most:
        warned.add(f"n_experts={best:.4g} is beyond the {most:.4g} experts that were tried")
    elif best <= least:
        warned.add(f"n_experts={best:.4g} is not above the fewest tried, {least:.4g}")
    if not min(law.sizes) / 3 <= N <= max(law.sizes) * 3:
        warned.add(
            f"the law in experts was fitted at {law.size_name} of {min(law.sizes):.3g} to "
            f"{max(law.sizes):.3g}, not at {N:.3g}"
        )
    for text in law.warnings:
        warned.add(f"{law.form_name}: {text}", law.status)
    return Estimate(best, float(low), float(high))
